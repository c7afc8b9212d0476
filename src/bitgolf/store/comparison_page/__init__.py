"""The page that compares groups of runs."""
