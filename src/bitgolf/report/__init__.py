"""Logs of runs, findings of checks on data, the record of the environment, and the parts of web pages."""
