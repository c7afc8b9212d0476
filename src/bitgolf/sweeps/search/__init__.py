"""Strategies of search: which variants are run next, as a function of the results so far."""
