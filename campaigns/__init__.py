"""What is tried far more often than in every test run: power cuts, random graphs, other people's suites."""
