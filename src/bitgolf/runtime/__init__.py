"""Infrastructure of all stages: devices, processes, torch.compile, progress of training."""
