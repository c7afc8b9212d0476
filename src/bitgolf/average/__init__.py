"""Weight averaging along a run: exponential, stochastic (uniform), and over the latest checkpoints."""
