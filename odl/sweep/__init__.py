"""A grid of recipes and targets as independent jobs: what it tries (`grid`), what one of them does (`jobs`), where they
run (`pool`, `cluster`), what is kept and told of them (`sweeping`, `pareto`, `text`, `page`)."""
