"""Some processes over gloo, two if nothing else is said, for tests of what is sharded or reduced."""

import multiprocessing
import os
import sys
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2
START = "forkserver"
PRELOADED = ["gaudi3_rt.optim", "gaudi3_rt.reduce.hooks", "torch._dynamo", "torch.distributed.fsdp", "pytest"]


def preload():
    """Says what processes that are started by ``START`` have imported already."""
    multiprocessing.set_forkserver_preload(PRELOADED)


def start_processes(function, arguments, n):
    """Runs a function of the number of the process in n processes; an exception in one of them fails the test.

    They are forks of one process that has imported what they need and runs nothing else: imports are what takes time.
    """
    preload()
    mp.start_processes(function, arguments, nprocs=n, start_method=START)


def prepare():
    """What each process does first: warnings are errors, one thread, the loopback interface."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # raised by torch's imports of its own modules
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)


def leave():
    """Ends a process, not through the interpreter's shutdown.

    A thread of torch that then still waits for the GIL is ended in the middle of C++, which now and then aborts the
    process ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _start(rank, scenarios, directory, world):
    """Entry point of each process: a process group that lives in a file."""
    prepare()
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world)
    try:
        for scenario in scenarios:
            try:
                scenario(rank)
            except Exception as error:  # noqa: PERF203 (a handful of scenarios)
                message = f"in {scenario.__name__}: {scenario.__doc__}"
                raise RuntimeError(message) from error
        dist.barrier()
    finally:
        dist.destroy_process_group()
    leave()


def run_on_ranks(scenarios, directory, world=WORLD):
    """Runs functions of the rank one after another in some processes; an exception in one of them fails the test.

    All in the same processes, because groups of them take time too.
    """
    start_processes(_start, (scenarios, str(directory), world), world)


def tensors(seed, *shapes):
    """Equal random tensors on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]
