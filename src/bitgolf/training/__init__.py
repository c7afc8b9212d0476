"""Training on one or several processes: trainer, loop, phases, memory planning, kernels and checkpoints."""
