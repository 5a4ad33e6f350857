"""A machine as a folder, packages as metadata, and hl-smi as a script: all that doctor looks at."""

import os
import stat

GAUDI_TORCH = "2.11.0a0+git0000000"
HEADER = (
    "module_id, name, driver_version, temperature.aip [C], utilization.aip [%], memory.total [MiB], memory.used [MiB], "
    "power.draw [W], ecc.errors.corrected.volatile.total, ecc.errors.uncorrected.volatile.total"
)
TABLE = f"""{HEADER}
0, HL-325L, 1.22.1-9, 36 C, 0 %, 131072 MiB, 672 MiB, 226 W, 3, 0
1, HL-325L, 1.22.1-9, 37 C, 5 %, 131072 MiB, 672 MiB, 227 W, 0, 0
"""


class FakeHost:
    """A machine; empty but for its memory.

    Attributes:
        root: its folder.
        environment: its variables.
    """

    def __init__(self, folder, monkeypatch):
        self.root = folder / "root"
        self.packages = folder / "packages"
        self.bin = folder / "bin"
        for path in (self.root / "dev/shm", self.root / "proc", self.root / "sys", self.packages, self.bin):
            path.mkdir(parents=True)
        self.environment = {"PATH": str(self.bin)}
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.syspath_prepend(str(self.packages))
        self.memory(total=64 << 20, available=32 << 20)

    def file(self, path, text=""):
        """A file below the root."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        return place

    def memory(self, *, total, available, huge_free=8):
        """``/proc/meminfo``; sizes in KiB."""
        lines = {"MemTotal": f"{total} kB", "MemAvailable": f"{available} kB", "HugePages_Total": 8}
        lines |= {"HugePages_Free": huge_free, "Hugepagesize": "2048 kB"}
        self.file("proc/meminfo", "".join(f"{name}: {value}\n" for name, value in lines.items()))

    def hpus(self, count=2):
        """Boards on the bus, their nodes, and what the driver says of them."""
        self.boards(count)
        self.file("sys/module/habanalabs/version", "1.22.1-9\n")
        self.file("usr/lib/habanalabs/libhlml.so")
        for number in range(count):
            self.file(f"dev/accel/accel{number}")
            self.file(f"sys/class/accel/accel{number}/device/vendor", "0x1da3\n")
            self.file(f"sys/class/accel/accel{number}/device/module_id", f"{number}\n")

    def boards(self, count):
        """Boards on the bus, without a driver."""
        for number in range(count):
            self.file(f"sys/bus/pci/devices/0000:{number:02x}:00.0/vendor", "0x1da3\n")

    def install(self, name, version):
        """Metadata of a package; of the bridge, also a package that must not be imported."""
        folder = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        if name == "habana-torch-plugin":
            package = self.packages / "habana_frameworks"
            package.mkdir()
            (package / "__init__.py").write_text("raise AssertionError('doctor imported the plugin')\n")

    def hl_smi(self, text=TABLE, status=0):
        """The command, which prints a text whatever it is asked."""
        (self.bin / "table").write_bytes(text if isinstance(text, bytes) else text.encode())
        script = self.bin / "hl-smi"
        script.write_text(f"#!/bin/sh\n/bin/cat {self.bin / 'table'}\nexit {status}\n", encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def gaudi(self):
        """A machine on which everything is right, but for kernels that were not compiled."""
        self.hpus()
        self.hl_smi()
        self.install("habana-torch-plugin", "1.22.1.6")
        self.install("torch", GAUDI_TORCH)

    def limit(self, size):
        """A cgroup's limit of memory for this process, in bytes."""
        self.file(f"proc/{os.getpid()}/cgroup", "0::/job\n")
        self.file("sys/fs/cgroup/job/memory.max", f"{size}\n")
