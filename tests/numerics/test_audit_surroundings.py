"""An audit gives the same answer wherever it is called, and leaves the process as it was."""

import functools
import os
import random
import signal
import threading
import warnings

import _mutants
import numpy as np
import pytest
import torch

from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.numerics import audit

QUICK = ["defaults", "bias-correction", "closure"]


def findings(passport):
    """What is not as specified."""
    return {(one.name, one.dtype): one.consequence for one in passport.checks if not one.ok}


def test_the_process_is_as_before():
    """Threads, dtype, deterministic mode and the state of all random numbers, also when the optimizer changes them."""

    def seen():
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 (the user's)
            list(warnings.filters),
        )

    class Meddling(_mutants.PlainAdamW):
        def __init__(self, params, **options):
            torch.manual_seed(5)
            torch.set_num_threads(torch.get_num_threads() + 5)
            torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True)
            random.seed(5)
            np.random.seed(5)  # noqa: NPY002 (what is restored)
            super().__init__(params, **options)

    before = seen()
    audit(Meddling, checks=["closure", "deterministic-threads"])
    assert seen() == before


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.inference_mode,
        torch.no_grad,
        functools.partial(torch.autocast, "cpu", torch.bfloat16),
        functools.partial(torch.device, "meta"),
    ],
)
def test_what_the_caller_has_set_does_not_count(surroundings):
    """Not in the result."""
    with surroundings():
        assert findings(audit(torch.optim.AdamW, dtypes=[torch.float32], checks=QUICK)) == {}


def test_random_numbers_of_other_devices_are_left_alone(monkeypatch):
    """``torch.manual_seed`` seeds every device of the machine, and an audit restores only its own."""
    monkeypatch.delattr(torch, "manual_seed")
    checks = ["deterministic-runs", "deterministic-threads", "state-dict-round-trip"]
    assert findings(audit(torch.optim.AdamW, checks=checks)) == {}


def test_audits_on_two_threads():
    """They take turns, since what they restore belongs to the process: the one that ends last had found it changed."""
    before = list(warnings.filters), torch.get_default_dtype()
    first_is_in, second_is_in, first_is_done = (threading.Event() for _ in range(3))

    def first(params, **options):
        first_is_in.set()
        second_is_in.wait(0.2)  # which it never is
        return torch.optim.AdamW(params, **options)

    def second(params, **options):
        second_is_in.set()
        first_is_done.wait(30)
        return torch.optim.AdamW(params, **options)

    passports = []
    workers = [
        threading.Thread(target=lambda make=make: passports.append(audit(make, checks=["zero-grad"])))
        for make in (first, second)
    ]
    workers[0].start()
    assert first_is_in.wait(30)
    workers[1].start()
    workers[0].join(30)
    first_is_done.set()
    workers[1].join(30)
    assert [findings(one) for one in passports] == [{}, {}]
    assert (list(warnings.filters), torch.get_default_dtype()) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_process():
    """Where OpenMP waits for ever for the threads that the parent had."""
    one = torch.ones(400_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    (one + one).sum()  # the parent has threads now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of fork where there are threads
        child = os.fork()
    if not child:
        signal.alarm(60)
        found = findings(audit(torch.optim.AdamW, dtypes=[torch.float32], checks=["deterministic-threads", "closure"]))
        os._exit(len(found))
    torch.set_num_threads(threads)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("make", [lambda _, **__: None, lambda _, **__: torch.nn.Linear(1, 1)])
def test_a_factory_of_something_else(make):
    """Is refused: there would be nothing but errors."""
    with pytest.raises(ParameterValidationError, match=r"must make a torch.optim.Optimizer, and makes an object of"):
        audit(make, checks=QUICK)


@pytest.mark.parametrize("device", ["meta", "cuda:77"])
def test_a_device_without_numbers(device):
    """Is refused before anything runs."""
    with pytest.raises(ValueError, match="no number can be had from it"):
        audit(torch.optim.AdamW, device=device)


def emptying(params, **options):
    """Takes the list that it is given to pieces."""
    optimizer = torch.optim.AdamW(list(params), **options)
    params.clear()
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        emptying,
        lambda params, **options: torch.optim.AdamW((p for p in params), **options),
        functools.partial(functools.partial(torch.optim.AdamW, eps=1e-8), foreach=False),
    ],
)
def test_factories_of_every_kind(make):
    """Whatever they do with what they are given."""
    assert findings(audit(make, dtypes=[torch.float32], checks=[*QUICK, "param-groups", "state-dict-round-trip"])) == {}


def needs_cuda(_, **__):
    """Has tensors on a device that is not there."""
    msg = "Torch not compiled with CUDA enabled"
    raise AssertionError(msg)


def ends(_, **__):
    """Is a script, really."""
    raise SystemExit(3)


@pytest.mark.parametrize("make", [needs_cuda, ends])
def test_a_factory_that_always_raises(make):
    """Fails every check, also those that ask whether something is refused."""
    passport = audit(make, dtypes=[torch.float32], checks=["defaults", "keywords", "invalid-options", "formula"])
    assert {one.status for one in passport.checks} == {"fails"}


def test_numbers_that_are_none_are_equal_from_run_to_run():
    """NaN in the same places is no difference."""

    class Broken(_mutants.PlainAdamW):
        def write(self, p, value):
            super().write(p, value * float("nan"))

    (check,) = audit(Broken, dtypes=[torch.float32], checks=["deterministic-runs"]).checks
    assert check.status == "pass"
