"""Graph -> Graph functions, one a file."""
