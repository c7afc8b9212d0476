"""Weight averaging during training: exponential (EMA), uniform (SWA), and uniform over the latest snapshots (LAWA)."""
