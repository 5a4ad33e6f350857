"""Files of ``torch.save``, mapped, without executing anything that is in them."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from gaudi3_rt.errors import CheckpointCorruptError, CheckpointNotFoundError, DataValidationError
from gaudi3_rt.numerics.convert import _torchao, _zero

_GLOBAL = re.compile(r"GLOBAL ([\w.]+) (?:was not|whose)")
"""What torch says of a name that it refuses to look up."""


def load(path: Path) -> Any:
    """What a file holds, its tensors mapped; objects of DeepSpeed and torchao are inert.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointCorruptError: it is none of ``torch.save``, or cut off.
        DataValidationError: loading it would execute something, or it is one of safetensors.
    """
    if not path.is_file():
        message = f"{path} is {'a folder' if path.is_dir() else 'no file that exists'}"
        raise CheckpointNotFoundError(message)
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        message = (
            f"{path} is a file of safetensors, which has tensors by name, and neither their order nor options of an "
            "optimizer; needed is a file of torch.save"
        )
        advice = "Save optimizer.state_dict(), or the state_dict() of the model for --params, with torch.save"
        raise DataValidationError(message, suggestions=(advice,))
    mapped = head.startswith(b"PK\x03\x04")  # files before torch 1.6 are no archives and cannot be mapped
    with torch.serialization.safe_globals(_inert()):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what follows is an error
                return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
        except pickle.UnpicklingError as error:
            raise _refused(path, error) from None
        except Exception as error:  # whatever a damaged or hostile file makes it raise
            message = f"{path} cannot be read: it is cut off, or was not written by torch.save ({one_line(error)})"
            raise CheckpointCorruptError(message) from error


def _inert() -> list[Any]:
    known = {f"{one.__module__}.{one.__qualname__}" for one in map(_type_of, torch.serialization.get_safe_globals())}
    inert = [(_zero.Inert, name) for name in _zero.CLASSES] + [(_torchao.Codes, name) for name in _torchao.CLASSES]
    return [pair for pair in inert if pair[1] not in known]


def _type_of(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple) else entry


def _refused(path: Path, error: Exception) -> Exception:
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 (whatever a hostile file makes it raise)
        wanted = []
    wanted = wanted or _GLOBAL.findall(str(error))  # of files that are no archives nothing is listed
    if not wanted and "Unsupported" not in str(error) and "GLOBAL" not in str(error):
        message = f"{path} cannot be read: it is cut off, or was not written by torch.save ({one_line(error)})"
        return CheckpointCorruptError(message)
    asks = ", ".join(sorted(wanted)[:5]) if wanted else one_line(error)
    message = f"{path} is refused: loading it would call or make {asks}; nothing of it was executed"
    advice = (
        "Save state_dict() alone: tensors, numbers, strings, lists and dicts",
        "If you trust the file, load it where its classes are installed and save optimizer.state_dict() again",
    )
    return DataValidationError(message, suggestions=advice)


def one_line(error: Exception) -> str:
    """Of an error, its message."""
    return " ".join(str(error).split())[:150]
