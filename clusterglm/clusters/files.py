"""Files that are written whole or not at all, and are their owner's alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

PARTIAL = ".tmp"  # the end of the names of files that a killed writer has left


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file (0600): a temporary one beside it, fsync, replace, fsync the folder.

    Raises
    ------
    OSError
        It cannot be written. The old file is as it was, and no other is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o600), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(OSError):  # which some network file systems refuse
        os.fsync(folder)
    os.close(folder)
