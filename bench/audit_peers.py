"""How do optimizers of other libraries compare with the documented formulas: writes docs/audit_peers.md."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from audit_subjects import SUBJECTS, Audited
from entrants import RivalError, RivalProcess
from peers import OUT, use_caches_of_this_environment

from gaudi3_rt.numerics import CHECKS, Passport, audit

PAGE = Path(__file__).parents[1] / "docs" / "audit_peers.md"
LOAD_SECONDS = 1200.0  # DeepSpeed compiles its kernels for minutes when they are first asked for
_OUTPUT_LINES = 12


@dataclass(frozen=True)
class Result:
    """What became of one subject."""

    subject: Audited
    version: str = ""
    passport: Passport | None = None
    outputs: Sequence[str] = ()  # of the lines that show what differs
    error: str = ""  # why it was not run


class Examiner:
    """In the process of one subject: imports it, makes one, audits it, runs the lines that show what differs."""

    def __init__(self, subject: Audited, checks: Sequence[str] | None) -> None:
        """Imports it, and says which version that is."""
        self._subject, self._checks = subject, checks
        self._factory = subject.entrant.load()

    def version(self) -> str:
        """Of the distribution, after a first optimizer, for which kernels may have to be compiled."""
        import torch  # noqa: PLC0415 (the parent needs none of it)

        with contextlib.suppress(TypeError):  # a required option
            self._factory([torch.nn.Parameter(torch.ones(2))], **self._subject.entrant.options)
        return importlib.metadata.version(self._subject.distribution)

    def audit(self) -> dict[str, Any]:
        """The passport."""
        options = self._subject.entrant.options
        factory = partial(self._factory, **options) if options else self._factory
        return audit(factory, self._subject.like, checks=self._checks).to_dict()

    def outputs(self) -> list[str]:
        """What the lines print."""
        found = []
        for shown in self._subject.shown:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(shown.code, "<shown>", "exec"), {"__name__": "__shown__"})  # noqa: S102 (our own lines)
            found.append("\n".join(printed.getvalue().rstrip().splitlines()[:_OUTPUT_LINES]))
        return found


def examine(
    subject: Audited, *, context: BaseContext, log: Path, seconds: float, checks: Sequence[str] | None
) -> Result:
    """One subject, in a process of its own; whatever becomes of it, there is a result."""
    process = RivalProcess(context, partial(Examiner, subject, checks), log)
    version = ""
    try:
        process.wait(LOAD_SECONDS)
        process.send("version")
        version = process.wait(LOAD_SECONDS)
        process.send("audit")
        passport = Passport.from_dict(process.wait(seconds))
        process.send("outputs")
        return Result(subject, version, passport, process.wait(seconds))
    except RivalError as error:
        return Result(subject, version, error=str(error))
    finally:
        process.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TEXT", nargs="+", default=[""], help="subjects whose names contain a text")
    parser.add_argument("--check", nargs="+", choices=CHECKS, help="these checks; all by default")
    parser.add_argument("--seconds", type=float, default=3600.0, help="limit of one audit (3600)")
    parser.add_argument("--jobs", type=int, default=1, help="audits at a time (1)")
    parser.add_argument("--page", type=Path, help=f"where the page goes ({PAGE.name}; none if a part is asked for)")
    parser.add_argument("--out", type=Path, default=OUT, help="where passports and log go (build/bench)")
    return parser.parse_args()


def main() -> int:
    """Audits them and writes the page.

    Returns:
        1 if nothing was asked for or one of ours was not run; what peers are like fails nothing.
    """
    import audit_page  # noqa: PLC0415 (the subjects' processes import this file, and need nothing of the page)

    arguments = _arguments()
    chosen = [one for one in SUBJECTS if any(text in one.label for text in arguments.only)]
    if not chosen:
        print(f"no subject of --only {arguments.only}; there are:", *(one.label for one in SUBJECTS), sep="\n  ")
        return 1
    directory: Path = arguments.out.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    use_caches_of_this_environment()
    machine = audit_page.describe_machine(os.getloadavg())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo"])
    log = directory / "audit_peers.log"
    log.unlink(missing_ok=True)
    one = partial(examine, context=context, log=log, seconds=arguments.seconds, checks=arguments.check)
    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(one, chosen):
            results.append(result)
            print(audit_page.line(result), flush=True)
    whole = len(chosen) == len(SUBJECTS) and arguments.check is None
    page = arguments.page or (PAGE if whole else directory / PAGE.name)
    page.write_text(audit_page.page(results, machine), encoding="utf-8")
    passports = {result.subject.label: result.passport.to_dict() for result in results if result.passport}
    (directory / "audit_peers.json").write_text(json.dumps(passports, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {page} and {directory / 'audit_peers.json'}")
    lost = [result for result in results if result.error and result.subject.distribution in {"gaudi3_rt", "torch"}]
    for result in lost:
        print(f"ERROR {result.subject.label}: {result.error}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
