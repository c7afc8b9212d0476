"""Execution of scoring: eager and compiled forwards, batch sizes, host-device copies, time estimates."""
