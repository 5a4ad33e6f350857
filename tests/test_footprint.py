"""How much memory the services take that run beside a training, and the reading of its configuration."""

import json
import subprocess
import sys

MIB = 2**20
# Resident memory before the services, with all of them on, and after a configuration was read and validated.
PROBE = """
import contextlib, io, json, os, torch, gaudi3_rt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.ones(512, 512) @ torch.ones(512, 512)
sizes = [resident()]
with contextlib.ExitStack() as stack:
    stack.enter_context(gaudi3_rt.log.configure_logging("json", stream=io.StringIO()))
    stack.enter_context(gaudi3_rt.events.subscribe(lambda event: None))
    monitor = stack.enter_context(gaudi3_rt.memory.MemoryMonitor())
    device = stack.enter_context(gaudi3_rt.device.acquire("cpu"))
    call = gaudi3_rt.retry.retry_on_failure(max_attempts=2)(gaudi3_rt.retry.CircuitBreaker()(device.memory_stats))
    for step in range(100):
        gaudi3_rt.log.get_logger("probe").info("step", step=step, used=call().allocated)
        monitor.sample()
    sizes.append(resident())
    gaudi3_rt.config.load(max_steps=100, environ={})
    sizes.append(resident())
print(json.dumps(sizes))
"""


def test_services_take_little_memory():
    """Less than 10 MB while training; pydantic and the models of a configuration take about as much again."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)  # noqa: S603
    before, on, configured = json.loads(done.stdout)
    assert before < on < before + 10 * MIB
    assert configured - on < 15 * MIB
