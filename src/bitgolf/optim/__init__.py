"""Update algorithms, their schedules, and the optimizer, which assigns each parameter to one algorithm by rules."""
