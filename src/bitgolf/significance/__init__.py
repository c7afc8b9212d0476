"""Whether a difference between scores is more than the spread between seeds: tests, seeds needed, many tries."""
