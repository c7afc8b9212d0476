"""Logs of runs, findings of checks on data, and the record of the environment."""
