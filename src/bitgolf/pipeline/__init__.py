"""Runs: their folder and state, their stages, and the jobs that run in processes of their own."""
