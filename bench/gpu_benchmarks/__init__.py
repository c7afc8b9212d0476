"""Benchmarks of `bench/gpu.py`, one module each.

Each runs in its own process: `python -m gpu_benchmarks BENCHMARK JOB.json TIME_LIMIT`.
"""
