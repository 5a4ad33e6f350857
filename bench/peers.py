"""How fast are our optimizers and gradient tools next to those of other libraries: ``make bench-peers``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

from harness import SCALES
from questions import QUESTIONS
from races import Track

OUT = Path(__file__).parents[1] / "build" / "bench"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="size of the workloads")
    parser.add_argument("--only", metavar="TEXT", nargs="+", default=[""], help="questions whose names contain a text")
    parser.add_argument("--tensors", nargs="+", choices=["a", "b", "c"], default=["a", "b", "c"], help="workloads")
    parser.add_argument("--out", type=Path, default=OUT, help="where table, chart and log go (build/bench)")
    parser.add_argument("--keep", action="store_true", help="keep them in bench/results too, with date and commit")
    return parser.parse_args()


def use_caches_of_this_environment() -> None:
    """What peers compile is kept in this Python environment, whose tools they find first."""
    home = Path(sys.prefix)
    os.environ["PATH"] = os.pathsep.join([str(home / "bin"), os.environ.get("PATH", os.defpath)])
    os.environ["TORCH_EXTENSIONS_DIR"] = str(home / "torch_extensions")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home / "torchinductor")


def main() -> int:
    """Runs the races and reports them.

    Returns:
        1 if one of ours did not run or a result differs that should not; never because something is slow.
    """
    import peers_report  # noqa: PLC0415 (the rivals' processes import this file, and need nothing of the report)

    arguments = _arguments()
    directory: Path = arguments.out.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "peers.log").unlink(missing_ok=True)
    use_caches_of_this_environment()
    machine = peers_report.describe_machine(os.getloadavg())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo"])  # what every torch.optim class imports when it is made
    scale = SCALES[arguments.scale]
    races = []
    for question in QUESTIONS:
        if any(text in question.name for text in arguments.only):
            for workload in question.workloads(scale):
                if workload.name in arguments.tensors:
                    races.append(Track(question, workload, context, directory).run(scale))
                    print(peers_report.table(races[-1]), flush=True)
    if not races:
        print(f"nothing to ask of --only {arguments.only} --tensors {arguments.tensors}; questions are:")
        print("\n".join(f"  {question.name}" for question in QUESTIONS))
        return 1
    print(peers_report.summary(races, machine))
    for path in peers_report.write(races, machine, directory, keep=arguments.keep):
        print(f"wrote {path}")
    faults = [fault for race in races for fault in race.faults]
    for fault in faults:
        print(f"ERROR {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
