"""Benchmarks of `bench/gpu.py`: each module measures one thing in its own process (`python -m gpu_benchmarks BENCHMARK JOB.json TIME_LIMIT`)."""
