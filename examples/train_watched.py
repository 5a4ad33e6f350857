"""What does a training look like from outside: in a terminal, in Prometheus, in its alerts, in a report?

A small character-level transformer learns the source code of Python's standard library, watched by ``TrainingMonitor``
and ``endpoints.serve()``:

    python examples/train_watched.py --simulate --overheat 200
    gaudi3-rt top                                 in another terminal: the run as it is now
    make monitor-up                               Prometheus and Alertmanager with our rules; they scrape it
    gaudi3-rt report build/watched                at any time: pictures and one page

With ``--simulate`` there is a software HPU beside the training, whose readings are marked as simulated; with
``--overheat STEP`` it gets too hot at that step, and an alert fires. The model trains on the CPU in any case. Needs
``pip install "gaudi3_rt[cli,ops,report]"``. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from stdlib_model import LONGEST_CONTEXT, Transformer, read_text
from stdlib_training import decay_groups, draw_batch, make_folder, schedule, whole

from gaudi3_rt import device, endpoints
from gaudi3_rt.monitor import TrainingMonitor
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.testing import SoftwareDevice, SoftwareHPU


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole(1), default=1000, help="default: 1000")
    parser.add_argument("--out", type=Path, default=Path("build/watched"), help="default: build/watched")
    parser.add_argument("--port", type=whole(0, 65535), help="of the endpoints, 0 for none; default: 9200")
    parser.add_argument("--simulate", action="store_true", help="have a software HPU")
    parser.add_argument("--overheat", type=whole(1), metavar="STEP", help="at which the software HPU gets too hot")
    parser.add_argument("--batch-size", type=whole(1), default=16, help="default: 16")
    parser.add_argument("--context", type=whole(1, LONGEST_CONTEXT), default=64, help="default: 64")
    options = parser.parse_args()
    if options.overheat is not None and not options.simulate:
        parser.error("--overheat is of the software HPU: give --simulate, too")
    make_folder(parser, options.out)
    with contextlib.ExitStack() as stack:
        hpu = stack.enter_context(software_hpu(options.overheat)) if options.simulate else None
        served = stack.enter_context(endpoints.serve(port=options.port))
        print(f"metrics and health: {served.url or 'none, because the port is 0'}", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            train(options, hpu)
    print(f"history: {options.out}", file=sys.stderr)


@contextlib.contextmanager
def software_hpu(overheat: int | None) -> Iterator[SoftwareDevice]:
    """A device to look at, acquired as a real one would be."""
    script = "" if overheat is None else f"step {overheat}: temperature 97 C"
    with SoftwareHPU(script=script) as hpu, device.acquire("simulated:0"):
        yield hpu.device()


def train(options: argparse.Namespace, hpu: SoftwareDevice | None) -> None:
    """An ordinary loop; what is watched of it is in the lines with ``monitor`` and ``step``."""
    torch.manual_seed(0)
    text, _ = read_text()
    model = Transformer(width=64, layers=2, heads=4)
    optimizer = FusedAdamW(decay_groups(model), lr=3e-3, max_grad_norm=1.0)
    scheduler = schedule(optimizer, options.steps)
    generator = torch.Generator().manual_seed(0)
    tokens = options.batch_size * options.context
    with TrainingMonitor(options.out) as monitor:
        monitor.watch(optimizer)
        for _ in range(options.steps):
            with monitor.step(samples=options.batch_size, tokens=tokens) as step:
                with step.phase("data"):
                    batch = draw_batch(text, options.batch_size, options.context, generator)
                with step.phase("forward"):
                    loss = model(*batch)
                with step.phase("backward"):
                    loss.backward()
                optimizer.step()
                step.loss = loss
                optimizer.zero_grad()
                scheduler.step()
            if hpu is not None:
                hpu.advance()


if __name__ == "__main__":
    main()
