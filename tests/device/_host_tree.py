"""A folder that looks like a machine with HPUs: device nodes, the driver's files, processes."""


class Host:
    """Nodes, processes and files below one folder.

    Attributes:
        root: the folder.
    """

    def __init__(self, root):
        self.root = root
        for name in ("dev", "proc", "sys"):
            (root / name).mkdir()

    def add_hpu(self, minor, module=None, *, vendor="0x1da3", old=False, **files):
        """A node and what the driver says of it."""
        node = self.root / ("dev" if old else "dev/accel") / f"{'hl' if old else 'accel'}{minor}"
        node.parent.mkdir(exist_ok=True)
        node.touch()
        place = f"sys/class/habanalabs/hl{minor}" if old else f"sys/class/accel/accel{minor}/device"
        system = self.root / place
        system.mkdir(parents=True)
        if not old:
            files["vendor"] = vendor
        if module is not None:
            files["module_id"] = str(module)
        for name, text in files.items():
            (system / name).write_text(f"{text}\n")
        return f"/{node.relative_to(self.root)}"

    def set_driver(self, version):
        """Version of the kernel's module."""
        folder = self.root / "sys/module/habanalabs"
        folder.mkdir(parents=True)
        (folder / "version").write_text(f"{version}\n")

    def add_process(self, pid, *opened, command=("python", "train.py"), comm="python"):
        """A process with files open."""
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        for number, target in enumerate(opened):
            (folder / "fd" / str(number)).symlink_to(target)
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))
        (folder / "comm").write_text(f"{comm}\n")
        return folder
