"""Sweeps of this package, a function each; `bitgolf sweep --list` shows them."""
