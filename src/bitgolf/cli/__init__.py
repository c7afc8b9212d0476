"""The command line: the program `bitgolf` with commands for recipes and runs, artifacts, and data."""

from bitgolf.cli.main import app, main

__all__ = ["app", "main"]
