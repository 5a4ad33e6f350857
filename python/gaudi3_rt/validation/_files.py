"""Opening a file below a folder so that nobody can lead the way out of it meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REFUSED = {
    errno.ELOOP: "a symbolic link",
    errno.ENAMETOOLONG: "no name that a file can have",
    errno.ENODEV: "no regular file",
    errno.ENXIO: "no regular file",  # a socket
}


def open_beneath(root: str | os.PathLike[str], parts: Sequence[str]) -> BinaryIO:
    """Opens ``root/parts[0]/...`` for reading; ``root`` itself may be a link, no other part.

    Raises:
        NotADirectoryError: a part before the last is a link or no folder.
        ValueError: the last part is a link, or no regular file, or longer than a name may be.
        OSError: as ``open``.
    """
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        file = os.open(parts[-1] if parts else ".", _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in _REFUSED:
            raise ValueError(_REFUSED[error.errno]) from error
        raise
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        msg = "no regular file"
        raise ValueError(msg)
    return os.fdopen(file, "rb")
