"""The software HPU: when a script's faults are met, in which words, and that nothing is left of it afterwards."""

import sys
import threading
import time

import pytest
import torch

from gaudi3_rt import _providers, events
from gaudi3_rt.errors import ParameterValidationError
from gaudi3_rt.testing import FakeClock, Fault, SoftwareHPU, capture_events

MIB = 2**20


def words_of(call):
    """First line of what a call raises; None if it does not."""
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]


def happens(device, steps):
    """What each step raises, by its number."""
    found = [(device.steps, words) for words in (words_of(device.step) for _ in range(steps)) if words]
    return dict(found)


def test_the_words_are_the_drivers():
    """As users have reported them, so that retry code can be tested with them."""
    script = "step 0: busy; step 2: synStatus 26 on rank 3; step 3: synStatus 20; step 4: oom; step 5: device lost"
    device = SoftwareHPU(rank=3, script=script, memory="1 GiB").device()
    with pytest.raises(RuntimeError) as caught:
        device.open()
    assert str(caught.value) == "synStatus=20 [Device already acquired] Device acquire failed."
    device.open()
    device.advance(2)
    with pytest.raises(RuntimeError) as caught:
        device.mark_step()
    assert str(caught.value) == (
        "[Rank:3] FATAL ERROR :: MODULE:PT_BRIDGE Exception in Launch thread...\n"
        "Check $HABANA_LOGS/ for detailsGraph compile failed. synStatus=synStatus 26 [Generic failure]. "
    )
    device.mark_step()
    device.advance()
    with pytest.raises(RuntimeError, match=r"synStatus=20 \[Device already acquired\]"):
        device.synchronize()
    device.advance()
    with pytest.raises(RuntimeError) as caught:
        device.allocate("896 MiB")
    words = "[Rank:3] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::939524096 (896)MB"
    assert str(caught.value) == words
    device.advance()
    for call in (device.mark_step, device.synchronize, lambda: device.allocate(1)):
        with pytest.raises(RuntimeError, match=r"synLaunch failed\. synStatus=synStatus 17 \[Device in reset\]"):
            call()
    device.close()
    with pytest.raises(RuntimeError) as caught:
        device.open()
    assert str(caught.value) == "synStatus=8 [Device not found] Device acquire failed. No devices found."


def test_faults_come_at_their_step():
    """To the rank that they are for, once; the same at each run."""
    script = "step 2: synStatus 26 on rank 1; step 4: synStatus 37 2 times; step 6: oom on rank 0"
    found = []
    for _ in range(2):
        hpu = SoftwareHPU(2, script=script)
        found.append([happens(device, 8) for device in hpu.devices()])
    launch = "[Rank:{}] FATAL ERROR :: MODULE:PT_BRIDGE Exception in Launch thread..."
    workspace = f"[Rank:0] FATAL ERROR :: MODULE:PT_SYNHELPER workspace Allocation of size ::{2**37} failed!"
    assert found[0] == [
        {4: launch.format(0), 5: launch.format(0), 6: workspace},
        {2: launch.format(1), 4: launch.format(1), 5: launch.format(1)},
    ]
    assert found[1] == found[0]


def test_a_late_call_meets_what_was_due():
    """As with a queue: the error of step 3 is raised by the first call after it."""
    device = SoftwareHPU(script="step 3: synStatus 26").device()
    device.open()
    device.advance(7)
    with pytest.raises(RuntimeError, match="synStatus 26"):
        device.mark_step()
    device.mark_step()


def test_a_hang_takes_no_real_time():
    """It takes the clock's."""
    hpu = SoftwareHPU(script="step 2: hang 30 s; step 3: slow 250 ms to step 4")
    began = time.monotonic()
    assert happens(hpu.device(), 6) == {}
    assert hpu.clock.slept == [30.0, 0.25, 0.25]
    assert time.monotonic() - began < 20


def test_a_hang_on_a_clock_of_ones_own():
    """A watchdog in another thread sees it: the call returns when the clock lets it."""
    entered, leave = threading.Event(), threading.Event()

    class Blocking(FakeClock):
        def sleep(self, seconds):
            entered.set()
            assert leave.wait(30)
            super().sleep(seconds)

    hpu = SoftwareHPU(script="step 1: hang 5 min", clock=Blocking())
    trainer = threading.Thread(target=hpu.device().step)
    trainer.start()
    assert entered.wait(30)
    assert trainer.is_alive()
    assert hpu.device().telemetry().memory_total_bytes  # sensors answer meanwhile
    leave.set()
    trainer.join(30)
    assert not trainer.is_alive()
    assert hpu.clock.slept == [300.0]


def test_a_leak_ends_in_an_error():
    """At each step a little less is free; when nothing is, the next call says so."""
    hpu = SoftwareHPU(memory="10 MiB", script="leak 1 MiB a step from step 3")
    device = hpu.device()
    assert list(happens(device, 13)) == [13]
    assert device.memory_stats().allocated == 10 * MIB
    device.close()
    assert device.memory_stats().allocated == 0


def test_memory_out_at_a_byte():
    """What fits is given; one byte more is not, though half of the memory is free."""
    device = SoftwareHPU(memory="8 MiB", workspace="1 MiB").device()
    device.open()
    blocks = [device.allocate("1 MiB") for _ in range(7)]
    for block in blocks[::2]:
        block.free()
        block.free()
    stats = device.memory_stats()
    assert (stats.allocated, stats.peak, stats.limit, stats.workspace) == (3 * MIB, 7 * MIB, 8 * MIB, MIB)
    assert stats.simulated
    with pytest.raises(RuntimeError, match="Allocation failed for size::1048577"):
        device.allocate(MIB + 1)
    with device.allocate(MIB):
        assert device.memory_stats().allocated == 4 * MIB
    device.grow_workspace("2 MiB")
    with pytest.raises(RuntimeError, match="PT_SYNHELPER workspace Allocation of size ::4194304 failed!"):
        device.grow_workspace("4 MiB")
    device.reset_peak_memory()
    assert device.memory_stats().peak == 3 * MIB


def test_a_block_of_an_earlier_life():
    """Given back after its device was closed and opened again, it changes nothing."""
    device = SoftwareHPU(memory="8 MiB").device()
    old = device.allocate("2 MiB")
    device.close()
    new = device.allocate("3 MiB")
    old.free()
    assert device.memory_stats().allocated == new.size


def test_ecc_counts():
    """Errors that could not be corrected and those that could; nothing is raised."""
    hpu = SoftwareHPU(script="step 2: ecc; step 3: ecc corrected 5 times; step 4: ecc uncorrected 2 times")
    device = hpu.device()
    counts = []
    for _ in range(4):
        device.step()
        counts.append((device.telemetry().ecc_corrected, device.telemetry().ecc_uncorrected))
    assert counts == [(0, 0), (0, 1), (5, 1), (5, 3)]


def test_sensors_follow_the_load():
    """Warm with work, cool without; the seed decides on the noise; a script can say something else."""
    hpu = SoftwareHPU(2, script="temperature 97 C from step 40 to step 41; step 42: power 1200 W", seed=7)
    working, idle = hpu.devices()
    for _ in range(30):
        working.step()
        idle.advance()
    hot, cool = working.telemetry(), idle.telemetry()
    assert hot.temperature_celsius > 70
    assert hot.power_watts > 750
    assert cool.temperature_celsius < 40
    assert cool.power_watts < 250
    assert (hot.utilization_ratio > 0.99, cool.utilization_ratio) == (True, 0.0)
    assert hot.simulated
    assert cool.simulated
    again = SoftwareHPU(2, seed=7).device()
    other = SoftwareHPU(2, seed=8).device()
    for _ in range(30):
        again.step()
        other.step()
    assert again.telemetry() == hot
    assert other.telemetry() != hot
    idle.advance(10)
    assert (idle.steps, idle.telemetry().temperature_celsius) == (40, 97.0)
    idle.advance(2)
    assert idle.telemetry().temperature_celsius < 40
    assert idle.telemetry().power_watts == 1200.0


def test_energy_is_power_by_time():
    """On the device's clock; an idle device draws about 220 W."""
    hpu = SoftwareHPU()
    assert hpu.device().telemetry().energy_joules == 0
    hpu.clock.advance(100)
    assert 215 * 100 < hpu.device().telemetry().energy_joules < 225 * 100


def test_telemetry_that_is_unavailable():
    """None everywhere, still marked; one event each time it begins."""
    device = SoftwareHPU(script="telemetry unavailable from step 1 to step 2; step 4: device lost").device()
    with capture_events(events.TelemetryUnavailable) as captured:
        for _ in range(5):
            device.advance()
            reading = device.telemetry()
            assert reading.simulated
            assert (reading.power_watts is None) == (device.steps != 3)
    assert [event.reason for event in captured] == ["simulated: the script says so", "simulated: the device is lost"]


def test_what_waits_until_mark_step():
    """A second mark_step executes nothing; reading a value breaks the graph."""
    device = SoftwareHPU().device()
    device.advance()
    with device.record() as queue:
        x = torch.ones(4) * 2
        assert queue.waiting == ["aten.ones", "aten.mul"]
        device.mark_step()
        device.mark_step()
        assert (x + 1).sum().item() == 12
        x += 1
    device.synchronize()
    assert [(graph.reason, graph.operators) for graph in queue.graphs] == [
        ("mark_step", ("aten.ones", "aten.mul")),
        ("aten._local_scalar_dense", ("aten.add", "aten.sum")),
        ("synchronize", ("aten.add_",)),
    ]
    assert len(queue.breaks) == 1
    device.enqueue("custom", 2)
    device.close()
    assert queue.waiting == []


def test_steps_that_mark_step_counts():
    """For code that calls it twice a step."""
    device = SoftwareHPU(script="step 2: synStatus 26", marks_per_step=2).device()
    device.mark_step()
    device.mark_step()
    device.mark_step()
    assert device.steps == 1
    device.mark_step()
    assert device.steps == 2
    with pytest.raises(RuntimeError, match="synStatus 26"):
        device.mark_step()


def test_simulated_is_written_everywhere():
    """Wherever its numbers or names appear."""
    hpu = SoftwareHPU(2)
    device = hpu.device(1)
    assert "simulated" in repr(hpu)
    assert "simulated" in repr(device)
    assert device.name == "simulated:1"
    properties = device.properties()
    assert "simulated" in properties.name
    assert "simulated" in properties.driver_version
    for record in (properties, device.memory_stats(), device.telemetry()):
        assert record.simulated
    assert "simulated" in hpu.torch_hpu(1).get_device_name()
    assert "simulated" in hpu.torch_hpu(1).memory_summary()


def test_nothing_is_left():
    """Neither devices nor modules, also when the block fails; two at once are refused."""
    before = set(sys.modules)
    hpu = SoftwareHPU()
    device = hpu.device()

    def use():
        with hpu, hpu.installed():
            device.open()
            with pytest.raises(RuntimeError, match="'simulated' devices is open already"), SoftwareHPU():
                pytest.fail("names would be ambiguous")
            assert _providers.find("simulated") is hpu
            1 / 0  # noqa: B018 (it raises)

    with pytest.raises(ZeroDivisionError):
        use()
    assert _providers.find("simulated") is None
    assert not device.is_open
    assert {name for name in sys.modules if name.startswith("habana")} <= before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": True}, "count is True"),
        ({"count": 1025}, "count is 1025"),
        ({"rank": -1}, "rank is -1"),
        ({"marks_per_step": 0}, "marks_per_step is 0"),
        ({"memory": "lots"}, "memory is 'lots'; it has to be a size such as '96 GiB'"),
        ({"memory": 0}, "memory is 0"),
        ({"memory": 1.5}, "memory is 1.5"),
        ({"memory": "1 MiB", "workspace": "1 MiB"}, "leaves nothing of memory"),
        ({"versions": {"drivers": "1"}}, "versions has drivers; it can have driver, firmware, plugin, torch"),
        ({"script": "oops"}, "entry 1 of the script"),
        ({"script": ["step 3: oom"]}, "the script has 'step 3: oom'; it has to be Fault objects, or one text"),
        ({"count": 4, "script": "oom on rank 4"}, "names a rank that is not there; ranks are 0 to 3"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """Before anything exists."""
    with pytest.raises(ParameterValidationError) as caught:
        SoftwareHPU(**arguments)
    assert message in str(caught.value)


def test_one_script_for_all_processes():
    """Each process makes one device and says which rank it is; faults of others are not its own."""
    script = [Fault("synstatus", 1, 26, ranks=frozenset({3}))]
    assert happens(SoftwareHPU(script=script, rank=2).device(), 2) == {}
    assert list(happens(SoftwareHPU(script=script, rank=3).device(), 2)) == [1]


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_steps_go_forwards(steps):
    """One at least."""
    with pytest.raises(ParameterValidationError, match="steps is"):
        SoftwareHPU().advance(steps)


def test_a_clock_does_not_run_backwards():
    """Nor by no number."""
    clock = FakeClock(time=100.0)
    clock.sleep(2)
    assert (clock.monotonic(), clock.time(), clock.slept) == (2.0, 102.0, [2])
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="only forwards"):
            clock.advance(seconds)
