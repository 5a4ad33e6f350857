"""Every error of a device, and every event of the runtime, reached by a script: the services as a job uses them.

What a script does to the software HPU is followed through retry, breaker, memory, classifier and error file.
"""

import json
import random

import pytest

from gaudi3_rt import device, errors, events, health, memory, retry
from gaudi3_rt.testing import KINDS, SimulatedError, SoftwareHPU, capture_events, parse_script
from gaudi3_rt.testing._messages import STATUS

MIB = 2**20
MEANINGS = {
    "synStatus 4": (errors.HPUMemoryError, False),
    "synStatus 7": (errors.HPUDriverError, False),
    "synStatus 8": (errors.HPUNotAvailableError, False),
    "synStatus 14": (errors.HPUMemoryError, False),
    "synStatus 16": (errors.HPUNotAvailableError, False),
    "synStatus 17": (errors.HPUNotAvailableError, True),
    "synStatus 20": (errors.HPUNotAvailableError, True),
    "synStatus 22": (errors.HPUNotAvailableError, True),
    "synStatus 23": (errors.HPUNotAvailableError, False),
    "synStatus 24": (errors.HPUNotAvailableError, False),
    "synStatus 26": (errors.TrainingStepError, False),
    "synStatus 27": (errors.HPUMemoryError, False),
    "synStatus 37": (errors.HPUDriverError, False),
    "synStatus 40": (errors.NetworkConnectionError, False),
    "synStatus 42": (errors.HPUDriverError, False),
    "oom": (errors.HPUMemoryError, False),
    "device lost": (errors.HPUNotAvailableError, True),
    "leak 64 MiB a step": (errors.HPUMemoryError, False),
}
"""What a step that ends with a fault means, and whether the same call may succeed later."""
RAISE_NOTHING = {"busy", "hang", "slow", "ecc", "ecc corrected", "telemetry unavailable", "temperature", "power"}
"""Faults that a step does not raise; ``busy`` is met by acquiring, the others are counted, measured or waited for."""


def test_every_fault_is_in_this_file():
    """All statuses that a script can name, and all kinds."""
    assert {f"synStatus {code}" for code in STATUS} <= set(MEANINGS)
    assert {fault.kind for text in MEANINGS for fault in parse_script(text)} | RAISE_NOTHING == set(KINDS)


@pytest.mark.parametrize("fault", MEANINGS)
def test_a_step_that_fails(fault, tmp_path, monkeypatch):
    """Becomes one of our errors, is never called again by itself, and torchrun's error file says what it was."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    kind, retryable = MEANINGS[fault]
    with SoftwareHPU(script=f"step 3: {fault}", memory="63 MiB", rank=5) as hpu:

        @errors.record
        def train():
            with device.acquire("simulated", clock=hpu.clock) as mine, memory.explain_oom(device=mine):
                for _ in range(4):
                    mine.step()

        with capture_events(events.DeviceReleased) as released, pytest.raises(Exception, match=r".") as caught:
            train()
        assert hpu.device().steps == 3
        assert [event.device for event in released] == ["simulated:0"]
    assert isinstance(errors.from_exception(caught.value), kind)
    assert errors.classify(caught.value).retryable == retryable
    ends = json.loads(file.read_text())["message"]
    assert ends["extraInfo"]["gaudi3_rt"]["error"]["code"] == kind.code
    assert "simulated" in ends["message"].lower()


def test_every_event_is_reached_by_one_job(monkeypatch):
    """Its node is busy, its sensors fail, its memory leaks, its device is lost and comes back.

    Acquiring is tried again by ``acquire`` itself, then by a retry with a breaker around it, as a launcher does.
    """
    script = """
        step 0: busy 7 times
        leak 1 MiB a step to step 200
        telemetry unavailable from step 5 to step 6
        step 210: device lost to step 210
    """
    with SoftwareHPU(script=script, memory="210 MiB") as hpu, capture_events() as captured:
        mine = hpu.device()
        breaker = retry.CircuitBreaker(2, 60.0, name="node", clock=hpu.clock)
        policy = retry.RetryPolicy(max_attempts=2, clock=hpu.clock, rng=random.Random(0))

        @breaker
        def start():
            with device.acquire("simulated:0", clock=hpu.clock, attempts=2) as one:
                return one.name

        with pytest.raises(errors.HPUNotAvailableError) as busy:
            retry.execute_with_retry(start, policy=policy)
        assert busy.value.retryable
        with pytest.raises(errors.ServiceUnavailableError):
            start()
        hpu.clock.advance(60)
        assert breaker.state is retry.BreakerState.HALF_OPEN
        with pytest.raises(errors.HPUNotAvailableError):
            start()
        hpu.clock.advance(60)
        assert start() == "simulated:0"
        assert breaker.state is retry.BreakerState.CLOSED
        monitor = memory.MemoryMonitor(mine, clock=hpu.clock, warmup=2, min_growth=8 * MIB)
        watch = health.HealthMonitor([health.HpuDeviceCheck(device="simulated:0")], clock=hpu.clock)
        watch.check_now()
        sampler = device.DeviceSampler([mine])
        mine.open()
        for _ in range(209):
            mine.step()
            sampler.sample()
            hpu.clock.advance(1)
            monitor.step()
            monitor.sample()
        mine.advance()
        with pytest.raises(SimulatedError, match="Device in reset"):
            mine.synchronize()
        watch.check_now()
        mine.close()
        mine.advance()
        with device.acquire("simulated:0", clock=hpu.clock):
            monitor.sample()

        # The bridge counts memory on the host, so no fault of a device makes it unreadable: something else has to.
        monkeypatch.delattr(type(mine), "memory_stats")
        monitor.sample()
    names = {type(event).__name__ for event in captured}
    of_several_ranks = {"ReductionFailed"}  # tests/reduce/test_reducer_failures.py
    of_training = {  # tests/monitor
        "Anomaly",
        "CheckpointCompleted",
        "RunFinished",
        "RunStarted",
        "StepCompleted",
        "TrainingResumed",
    }
    every = {name for name, kind in vars(events).items() if kind in events.Event.__subclasses__()}
    assert names == every - of_several_ranks - of_training
    assert all(event.simulated for event in captured if hasattr(event, "simulated") or hasattr(event, "device"))
