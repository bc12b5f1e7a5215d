"""Virtual environments, one folder for each lock, made with uv where it is installed, else with pip."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import BuildError, MachineError
from orchestrator.paths import build_logs_folder, environments_folder, shared_home
from orchestrator.runtimes.build_failure import build_error
from orchestrator.system import Report, hold_lock, read_json_object, read_output, run_subprocess, write_json

LOCKED = ("--no-deps", "--require-hashes")
"""Options with which every lock is installed: nothing in it is resolved again."""
WHEELS = ("--only-binary", ":all:")
"""Options that build nothing: a build would take whatever build requirements are newest that day."""
_MISLEADING = (
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_CONSTRAINT"),
    *("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_PYTHON", "UV_CONSTRAINT", "UV_OVERRIDE", "VIRTUAL_ENV"),
)
"""Variables that would have packages installed elsewhere, or others than those of the lock."""
_USES = ".uses"
USED_DAYS = 14
"""An environment that another machine used is kept for so long: whether its process still runs cannot be seen here."""
_MARKER = "orch-environment.json"
_FORMAT = "orch-environment/1"
MOST_PROBLEMS = 25
_MISSING = re.compile(r".*not installed\.?$|(Found|No broken) ")
"""Lines of `pip check` and `uv pip check` about missing packages, and their headings."""


def ensure_environment(
    name: str,
    lock: Path,
    pythons: Sequence[str],
    report: Report,
    *,
    build_lock: Path | None = None,
    partial: bool = False,
    offline: bool = False,
    rebuild: bool = False,
) -> tuple[Path, bool]:
    """Return the environment for a lock, made unless it is complete, and whether it was made now.

    `build_lock` has what the lock's source distributions are built with; a `partial` lock omits dependencies. Raises
    BuildError, MachineError.
    """
    folder = environment_folder(name, lock, pythons, build_lock)
    if not rebuild and is_complete(folder):  # perhaps in a cache that this user can only read
        return folder, False
    folder = environments_folder() / folder.name
    with hold_lock(folder.with_name(f".{folder.name}.lock"), wait=True):
        fresh = rebuild or not is_complete(folder)
        if fresh:
            make_environment(folder, lock, pythons, offline, report, build_lock, partial)
    return folder, fresh


def environment_folder(name: str, lock: Path, pythons: Sequence[str], build_lock: Path | None = None) -> Path:
    """Return the folder of that environment, made or not; each lock and kind of machine has a folder of its own."""
    built_with = b"" if build_lock is None else build_lock.read_bytes()
    kind = repr((tuple(pythons), platform.machine(), platform.libc_ver()[0])).encode()
    digest = hashlib.sha256(lock.read_bytes() + built_with + kind).hexdigest()[:12]
    own = environments_folder() / f"{name}-{digest}"
    shared = shared_home()
    theirs = None if shared is None else shared / own.parent.name / own.name
    return theirs if theirs is not None and is_complete(theirs) and not is_complete(own) else own


def is_complete(folder: Path) -> bool:
    """Return whether an environment was made to its end, by this version's rules, and its Python is still there.

    An upgrade of the system may remove the Python behind it.
    """
    try:
        is_current = read_json_object(folder / _MARKER).get("format", _FORMAT) == _FORMAT
    except (OSError, ValueError):
        return False
    return bool(is_current) and (folder / "bin" / "python").exists()


def mark_used(folder: Path) -> None:
    """Note that this process uses an environment, for `orch prune` on any machine that shares the cache."""
    with suppress(OSError):  # a cache that this user can only read
        uses = folder / _USES
        uses.mkdir(exist_ok=True)
        (uses / f"{socket.gethostname()}-{os.getpid()}").touch()


def find_user(folder: Path) -> str | None:
    """Return in words who uses an environment or lately did; None for nobody. Removes notes of processes that ended."""
    host = socket.gethostname()
    for note in (folder / _USES).glob("*"):
        name, _, pid = note.name.rpartition("-")
        with suppress(OSError):
            if name == host and not Path("/proc", pid).exists():
                note.unlink()
            elif name == host:
                return f"process {pid} uses it"
            elif time.time() - note.stat().st_mtime < USED_DAYS * 86400:
                return f"{name} uses it, or did in the last {USED_DAYS} days"
    return None


def make_environment(
    folder: Path,
    lock: Path,
    pythons: Sequence[str],
    offline: bool,
    report: Report,
    build_lock: Path | None = None,
    partial: bool = False,
) -> None:
    """Make a virtual environment with exactly the locked packages. Raises BuildError, MachineError."""
    log = build_logs_folder() / f"{folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    uv = find_uv()
    python = find_python(pythons)
    if python is None and (uv is None or offline):
        raise MachineError(
            f"no Python {' or '.join(pythons)} on this machine",
            why="this stack's packages exist for these versions only",
            hint=f"install uv (pip install uv), which fetches a Python itself, or apt-get install python{pythons[0]}",
        )
    inside = str(folder / "bin" / "python")
    if uv is not None:
        chosen = str(python or pythons[0])
        report(f"making an environment with uv and Python {chosen}")
        _run([uv, "venv", "--quiet", "--python", chosen, str(folder)], log, report)
        # Workers never write bytecode, and without any each start would compile all of TensorFlow anew. pip compiles.
        install = [uv, "pip", "install", "--compile-bytecode", "--python", inside]
        check = [uv, "pip", "check", "--quiet", "--python", inside]
    else:
        report(f"making an environment with {python} (venv and pip; uv is faster)")
        _run([str(python), "-m", "venv", str(folder)], log, report)
        install = [inside, "-m", "pip", "install", "--no-input"]
        check = [inside, "-m", "pip", "check"]
    report("installing locked packages")
    offline_flag = (["--offline"] if uv is not None else ["--no-index"]) if offline else []
    locked = [*install, *offline_flag, *LOCKED]
    if build_lock is None:
        _run([*locked, *WHEELS, "-r", str(lock)], log, report)
    else:
        _run([*locked, *WHEELS, "-r", str(build_lock)], log, report)
        _run([*locked, "--no-build-isolation", "-r", str(lock)], log, report)
    _require_consistent(check, lock, partial, log, report)
    write_json(folder / _MARKER, {"format": _FORMAT, "lock": lock.name, "python": str(python), "uv": uv is not None})


def _require_consistent(check: list[str], lock: Path, partial: bool, log: Path, report: Report) -> None:
    """Run `pip check`. Raises BuildError for versions that do not fit, and for missing packages unless `partial`."""
    omitted = _MISSING if partial else None
    code, problems = run_subprocess(check, log, report, environment=_clean_environment(), omit_from_tail=omitted)
    if code != 0 and (problems or not partial):
        raise BuildError(
            f"{lock}: the locked packages do not fit together",
            why="\n".join(problems[-MOST_PROBLEMS:]),
            log=log,
            hint="compile the lock again (docs/adding-a-stack.md); partial_lock: true accepts missing packages",
        )


def find_uv() -> str | None:
    """Return the path of uv beside the Python that runs orch, or on the PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def find_python(versions: Sequence[str]) -> Path | None:
    """Return a working interpreter that can make environments; earlier versions are preferred."""
    for version in versions:
        candidates = [f"python{version}", sys.executable, "python3"]
        pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
        candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)]
        for candidate in candidates:
            path = shutil.which(candidate)
            if path is not None and (interpreter := _resolve_interpreter(path, version)) is not None:
                return interpreter
    return None


def _resolve_interpreter(python: str, version: str) -> Path | None:
    """Return the interpreter behind a name, which may be a shim; None for another version."""
    code = (
        "import sys, venv, ensurepip;"
        "print('%d.%d' % sys.version_info[:2], getattr(sys, '_base_executable', '') or sys.executable)"
    )
    actual, _, path = read_output([python, "-c", code]).strip().partition(" ")
    return Path(path) if actual == version and path else None


def _clean_environment() -> dict[str, str]:
    """Return the caller's variables without those that let Python, pip or uv see or write other packages."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "CONDA_")) and name not in _MISLEADING
    } | {"PYTHONNOUSERSITE": "1"}


def _run(command: list[str], log: Path, report: Report) -> None:
    code, tail = run_subprocess(command, log, report, environment=_clean_environment())
    if code != 0:
        message = f"cannot make the environment: {Path(command[0]).name} ended with {code}"
        raise build_error(message, tail, log)
