"""The parts of `bench/gpu.py`: each measures one thing in a process of its own (`python -m gpu_parts PART JOB.json LIMIT`)."""
