"""The venv runtime: one cached virtual environment per variant, made with uv where there is one, else venv and pip."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.catalog.bundled import RUNNER
from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.upstream_code import ensure_sources, tree_folder
from orchestrator.errors import BuildError, MachineError
from orchestrator.hardware.gpu_code import FILE_NAME, MODULE, parse
from orchestrator.paths import build_logs_folder, environments_folder
from orchestrator.runtimes.base import BuildOptions, Prepared, WorkerSpec, worker_environment
from orchestrator.runtimes.build_inputs import build_inputs, build_lock_of, find_variant
from orchestrator.runtimes.guest_contract import JOB_NAME, QUEUE_NAME, GuestPaths
from orchestrator.runtimes.process import ProcessWorker, passed_on, reap_processes, visible_gpus
from orchestrator.system.display import Report
from orchestrator.system.files import write_json, write_text
from orchestrator.system.locks import hold_lock
from orchestrator.system.subprocesses import run_subprocess

_MARKER = "orch-environment.json"


class VenvRuntime:
    """Workers as processes of this machine. Isolated from other stacks, not from the machine."""

    name = "venv"

    def available(self) -> str | None:
        """Always: whether a fitting Python is there depends on the variant."""
        return None

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Make the variant's environment unless it is there. Raises BuildError, MachineError."""
        spec = find_variant(stack, variant)
        inputs = build_inputs(stack, variant, options)
        asked = [name for name, argument in spec.build_args.items() if argument.default is None]
        if asked:
            raise MachineError(
                f"the variant {variant} of {stack.name} can only be built as an image",
                why=f"its Dockerfile needs {', '.join(asked)}: {spec.build_args[asked[0]].help}",
                hint="--runtime docker, or another --variant",
            )
        pythons = (spec.python, *spec.also_python)
        started = time.monotonic()
        ensure_sources(stack.name, inputs.sources, report, offline=options.offline)
        folder, fresh = cached_environment(
            f"{stack.name}-{variant}",
            inputs.lock,
            pythons,
            report,
            build_lock=build_lock_of(stack, variant),
            offline=options.offline,
            rebuild=options.rebuild,
        )
        if spec.device == "cuda" and not (folder / FILE_NAME).exists():
            _read_binaries(folder, report)
        seconds = time.monotonic() - started
        return Prepared(stack, variant, self.name, inputs.identity, str(folder), None, fresh, seconds)

    def build_place(self, stack: StackEntry, variant: str, options: BuildOptions) -> Path | None:
        """The folder of environments, unless the variant's is there."""
        spec, inputs = find_variant(stack, variant), build_inputs(stack, variant, options)
        pythons, name = (spec.python, *spec.also_python), f"{stack.name}-{variant}"
        folder = environment_folder(name, inputs.lock, pythons, build_lock_of(stack, variant))
        return folder.parent if options.rebuild or not is_whole(folder) else None

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """The host's own paths: nothing is mounted."""
        stack, queue = prepared.stack, spec.job / QUEUE_NAME
        sources = {name: tree_folder(name, source) for name, source in stack.spec.sources.items()}
        return GuestPaths(spec.data, spec.weights, spec.out, spec.cache, queue, stack.folder, sources=sources)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> ProcessWorker:
        """Start the runner with the environment's Python. Raises MachineError."""
        (spec.cache / "home").mkdir(parents=True, exist_ok=True)
        return ProcessWorker(spec, worker_command(prepared, spec), worker_process_environment(spec))

    def require(self, devices: Sequence[str]) -> None:
        """Workers see what this machine has: the environment's variables leave each its GPU."""
        del devices

    def reap(self, run: str, jobs: Path) -> int:
        """Kill runners whose job folder is one of this run's."""
        del run
        return reap_processes(jobs)


def _read_binaries(folder: Path, report: Report) -> None:
    """Have an environment say what its GPU code runs on, and keep that beside it."""
    report("reading what its GPU code runs on")
    command = [str(folder / "bin" / "python"), "-m", MODULE]
    try:
        environment = {**passed_on(), "PYTHONPATH": str(RUNNER), "PYTHONDONTWRITEBYTECODE": "1"}
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
        parse(answer.stdout)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        report(f"what its GPU code runs on could not be read; stack.yaml's lists stand: {error}")
        return
    write_text(folder / FILE_NAME, answer.stdout)


def worker_command(prepared: Prepared, spec: WorkerSpec) -> list[str]:
    """The runner's command line."""
    python = Path(prepared.location) / "bin" / "python"
    return [str(python), "-m", spec.module, str(spec.job / JOB_NAME)]


def worker_process_environment(spec: WorkerSpec) -> dict[str, str]:
    """The runner's environment: the few variables passed on, and the runner's package."""
    own = worker_environment(spec.threads, str(spec.cache), str(spec.cache / "home"))
    return {**passed_on(), **visible_gpus(spec.device), **own, "PYTHONPATH": str(RUNNER)}


def cached_environment(
    name: str,
    lock: Path,
    pythons: Sequence[str],
    report: Report,
    *,
    build_lock: Path | None = None,
    offline: bool = False,
    rebuild: bool = False,
) -> tuple[Path, bool]:
    """The environment for a lock, made unless it is there, and whether it was. Raises BuildError, MachineError.

    `build_lock` has what the lock's source distributions are built with.
    """
    folder = environment_folder(name, lock, pythons, build_lock)
    with hold_lock(folder.with_name(f".{folder.name}.lock"), wait=True):
        fresh = rebuild or not is_whole(folder)
        if fresh:
            make_environment(folder, lock, pythons, offline, report, build_lock)
    return folder, fresh


def environment_folder(name: str, lock: Path, pythons: Sequence[str], build_lock: Path | None = None) -> Path:
    """Where that environment is or would be: another lock, another folder."""
    built_with = b"" if build_lock is None else build_lock.read_bytes()
    digest = hashlib.sha256(lock.read_bytes() + built_with + repr(tuple(pythons)).encode()).hexdigest()[:12]
    return environments_folder() / f"{name}-{digest}"


def is_whole(folder: Path) -> bool:
    """Whether an environment was made to the end."""
    return (folder / _MARKER).is_file()


def make_environment(
    folder: Path, lock: Path, pythons: Sequence[str], offline: bool, report: Report, build_lock: Path | None = None
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
        wanted = " or ".join(pythons)
        raise MachineError(
            f"there is no Python {wanted} on this machine",
            why="this stack's packages exist for these versions only",
            hint=f"install uv (pip install uv), which fetches a Python itself, or apt-get install python{pythons[0]}",
        )
    if uv is not None:
        chosen = str(python) if python else pythons[0]
        report(f"making an environment with uv and Python {pythons[0] if python is None else python}")
        _step([uv, "venv", "--quiet", "--python", chosen, str(folder)], log, report)
        # Workers never write bytecode, and without any each start would compile all of TensorFlow anew. pip compiles.
        install = [uv, "pip", "install", "--compile-bytecode", "--python", str(folder / "bin" / "python")]
    else:
        report(f"making an environment with {python} (venv and pip; it is quicker with uv)")
        _step([str(python), "-m", "venv", str(folder)], log, report)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input"]
    report("installing locked packages")
    offline_flag = (["--offline"] if uv is not None else ["--no-index"]) if offline else []
    locked = [*install, *offline_flag, "--no-deps", "--require-hashes"]
    if build_lock is not None:
        _step([*locked, "-r", str(build_lock)], log, report)
        locked.append("--no-build-isolation")
    _step([*locked, "-r", str(lock)], log, report)
    write_json(folder / _MARKER, {"lock": lock.name, "python": str(python), "uv": uv is not None})


def find_uv() -> str | None:
    """uv beside the Python that runs orch, or on the PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def find_python(versions: Sequence[str]) -> Path | None:
    """An interpreter of one of the versions that really runs and can make environments; the first version wins."""
    for version in versions:
        candidates = [f"python{version}", sys.executable, "python3"]
        pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
        candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)]
        for candidate in candidates:
            path = shutil.which(candidate)
            found = None if path is None else _real_interpreter(path, version)
            if found is not None:
                return found
    return None


def _real_interpreter(python: str, version: str) -> Path | None:
    """The interpreter behind a name, which may be a version manager's shim; None if it is not of that version."""
    code = (
        "import sys, venv, ensurepip;"
        "print('%d.%d' % sys.version_info[:2], getattr(sys, '_base_executable', '') or sys.executable)"
    )
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found, _, path = answer.stdout.strip().partition(" ")
    return Path(path) if answer.returncode == 0 and found == version and path else None


def _step(command: list[str], log: Path, report: Report) -> None:
    code, tail = run_subprocess(command, log, report)
    if code != 0:
        message = f"the environment could not be made: {Path(command[0]).name} ended with {code}"
        raise BuildError(message, why="\n".join(tail), log=log)
