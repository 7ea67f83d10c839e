"""The report of runs: what was found (`facts`), drawn (`pictures`) as a page (`page`), told in few lines (`text`)."""
