"""Check before any work that what a command writes can be written, and say why a file cannot be used."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from orchestrator.errors import MachineError, OrchError, UsageError

PROBE_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, *_FULL)
"""The machine's refusals; a user can name a file that gives one of these without being wrong."""
_MISNAMED = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def explain_refusal(error: OSError) -> OrchError | None:
    """Return the error for users about a file that cannot be used; None for what only a bug can cause."""
    file = error.filename2 or error.filename
    what = "the machine refuses" if file is None else f"cannot use {os.fsdecode(file)}"
    if error.errno in _FULL:
        hint = "free disk space (orch prune --dry-run), or choose a folder on another disk; $ORCH_HOME moves the cache"
        return MachineError(what, why=error.strerror or str(error), hint=hint)
    if error.errno in _REFUSED:
        hint = "change its permissions, or choose another file or folder; $ORCH_HOME moves the cache"
        hint = "orch doctor" if file is None else hint
        return MachineError(what, why=error.strerror or str(error), hint=hint)
    is_file_for_folder = error.errno == errno.EEXIST and file is not None and not Path(os.fsdecode(file)).is_dir()
    if error.errno in _MISNAMED or is_file_for_folder:
        return UsageError(what, why=error.strerror or str(error), hint="name another file or folder")
    return None


def require_file(path: Path, option: str, *, append: bool = False) -> None:
    """Raise UsageError or MachineError where the file that `option` names cannot be written. Writes nothing.

    `append`: the file is appended to, so it may also be a device or a pipe; else it is replaced.
    """
    try:
        state = path.stat() if os.path.lexists(path) else None
        if state is not None and stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if state is not None and append:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC))
            return
        if state is not None and not stat.S_ISREG(state.st_mode):
            raise OSError(errno.ENOTDIR, "it is a device, pipe or socket")
        _probe(path.absolute().parent, path.name)
    except OSError as error:
        raise _refusal(path, option, error) from None


def require_folder(path: Path, option: str) -> None:
    """Raise UsageError or MachineError where nothing can be written into the folder, which need not exist."""
    try:
        _probe(path.absolute(), "")
    except OSError as error:
        raise _refusal(path, option, error) from None


def _probe(folder: Path, name: str) -> None:
    """Write a file without a name into the folder, or the nearest one above it that exists. Raises OSError."""
    missing = [name]
    while not os.path.lexists(folder):
        missing.append(folder.name)
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, not a folder")
    for part in filter(None, missing):
        if len(os.fsencode(part)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, f"a name of {len(os.fsencode(part))} bytes is too long")
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(bytes(PROBE_BYTES))


def _refusal(path: Path, option: str, error: OSError) -> OrchError:
    kind = UsageError if error.errno in (errno.ENOENT, *_MISNAMED) else MachineError
    first = "free disk space, or " if error.errno in _FULL else ""
    why = error.strerror or str(error)
    return kind(f"cannot write {path}", why=why, hint=f"{first}choose another place: {option}")
