"""One command in several processes of one machine, which train one model together (gloo on CPUs, else NCCL)."""

import ctypes
import os
import subprocess
import sys


def relaunched(processes: int) -> bool:
    """Run this very command line in so many processes; False, and nothing is done, in a process that is one of them.

    On a machine without a GPU each has one thread, unless OMP_NUM_THREADS says otherwise. A failure ends this process
    with its exit code.
    """
    if processes == 1 or "LOCAL_RANK" in os.environ:
        return False
    import torch

    environment = dict(os.environ)
    if not torch.cuda.is_available():
        threads = environment.get("OMP_NUM_THREADS", "1")
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": threads}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*torchrun, "-m", "ms_core.cli", *sys.argv[1:]], env=environment)
    if done.returncode:
        sys.exit(done.returncode)
    return True


def hold_memory() -> None:
    """Let this process keep freed memory for the next step, where its C library is glibc.

    glibc gives large blocks back to the system at once, which then clears and maps them anew for each large tensor: a
    sixth of a training step on a CPU.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt(3)
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def is_first() -> bool:
    """Whether this process is the one that speaks for all."""
    return os.environ.get("RANK", "0") == "0"
