"""Which variables of a kernel lie in local memory: the writable objects of a shared library, read from its symbols."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

_SYMBOLS, _NO_BITS, _OBJECT = 2, 8, 1  # SHT_SYMTAB, SHT_NOBITS, STT_OBJECT of the ELF specification
_VECTOR_BYTES = 256
# The emulator's own variables, those of the C++ library, and guards of local statics.
_NOT_THE_KERNELS = ("_ZN9gaudi3_rt", "_ZZN9gaudi3_rt", "_ZNSt", "_ZSt", "_ZGV", "DW.ref.", "__", "completed.")


@dataclass(frozen=True)
class Variable:
    """A variable that a kernel has outside its functions' registers, and where it is from the library's start."""

    name: str
    address: int
    size: int
    initialised: bool

    @property
    def is_vector(self) -> bool:
        """In vector local memory, since it consists of whole vectors; else in scalar local memory."""
        return self.address % _VECTOR_BYTES == 0 and self.size % _VECTOR_BYTES == 0


def _source_name(symbol: str) -> str:
    """The name of a variable in the file of the kernel, whose namespace is that of _compile.py."""
    found = re.match(r"_ZN10tpc_kernelL?(\d+)", symbol)
    return symbol[found.end() :][: int(found[1])] if found else symbol


def _name(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()


def symbols(library: Path) -> tuple[list[Variable], dict[str, int]]:
    """The kernel's variables, and the addresses of all functions by name.

    Raises:
        RuntimeError: the file is no 64-bit little-endian ELF library with symbols.
    """
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        message = f"{library} is not a 64-bit ELF library; kernels are emulated on Linux"
        raise RuntimeError(message)
    (table,) = struct.unpack_from("<Q", data, 40)
    entry, count, names_index = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]

    def content(i: int) -> bytes:
        return data[sections[i][4] : sections[i][4] + sections[i][5]]

    section_names = [_name(content(names_index), s[0]) for s in sections]
    variables: list[Variable] = []
    functions: dict[str, int] = {}
    for i, section in enumerate(sections):
        if section[1] != _SYMBOLS:
            continue
        strings = content(section[6])
        for name, info, _, home, address, size in struct.iter_unpack("<IBBHQQ", content(i)):
            symbol = _name(strings, name)
            if info & 15 != _OBJECT:
                functions[symbol] = address
            elif home < count and section_names[home] in {".data", ".bss"} and not symbol.startswith(_NOT_THE_KERNELS):
                variables.append(Variable(_source_name(symbol), address, size, sections[home][1] != _NO_BITS))
    return variables, functions
