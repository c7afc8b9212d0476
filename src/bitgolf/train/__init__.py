"""Training: the loop, its timeline, checkpoints, and many processes as one."""
