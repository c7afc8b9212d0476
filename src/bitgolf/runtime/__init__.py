"""What every stage runs on: devices, processes, torch.compile, training progress."""
