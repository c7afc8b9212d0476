"""Watching a run while it goes on, here or on another machine: its state is read from its log, and nothing is written."""
