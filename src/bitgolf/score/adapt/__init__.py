"""Scoring methods that adapt: per-document LoRA, gradient steps on the stream, n-gram mixing."""
