"""Experiment trackers: TensorBoard, Weights & Biases and Trackio receive the figures of a run while it goes on."""
