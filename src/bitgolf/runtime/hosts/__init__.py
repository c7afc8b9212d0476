"""A run on many hosts: processes that torchrun or SLURM has started, one for each GPU.

The first process (rank 0) executes the command; the others follow it (`lead`, `follow`). A job for several processes
runs in one worker process of each (`group`), which all join one process group of torch. The processes find each other
by the environment (`place`, `slurm`), and talk over TCP connections (`channel`). Hosts that do not see the run's folder
get copies of the files that a job reads (`inputs`, `copies`).
"""
