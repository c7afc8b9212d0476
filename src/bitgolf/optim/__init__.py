"""Optimizers: update algorithms, their schedules, and the rules that hand every parameter to exactly one of them."""
