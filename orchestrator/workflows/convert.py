"""A checkpoint to the weights a stack runs, by the stack's own script in an environment of its own.

A stack that offers this has `convert/convert.py`, whose docstring is the contract, and `convert.lock`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.catalog.loader import ModelEntry, StackEntry
from orchestrator.catalog.weights import Stored, add_weights
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError, UsageError
from orchestrator.hardware import cores
from orchestrator.paths import build_logs_folder, worker_cache_folder
from orchestrator.runtimes.base import Exit, worker_environment
from orchestrator.runtimes.process import passed_on
from orchestrator.runtimes.venv import cached_environment, environment_folder, is_whole
from orchestrator.system.display import Display, Report
from orchestrator.system.files import sha256_of

SCRIPT_NAME = "convert/convert.py"
LOCK_NAME = "convert.lock"
PYTHONS = ("3.11", "3.10", "3.12")
"""What the wheels of PyTorch 2.2 and numpy 1.26 are there for."""
ENVIRONMENT_BYTES = 5 << 30
"""Measured: 4.3 GB, most of it CUDA libraries without which PyTorch's wheel does not import."""
ONNX_BYTES = 256 << 20
SUFFIX = ".onnx"
_TAIL_LINES = 12
_ERRORS: Mapping[str, type[OrchError]] = {"usage": UsageError, "machine": MachineError}


@dataclass(frozen=True)
class ConvertOptions:
    """What a user asks of a conversion. `model` None: the stack's model whose class count fits."""

    checkpoint: Path
    onnx: Path
    model: ModelEntry | None = None
    add: bool = False
    force: bool = False
    trust: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Converted:
    """A finished conversion: the file, what the script says of it, and the weights it was added as."""

    model: ModelEntry
    onnx: Path
    sha256: str
    details: Mapping[str, Any]
    environment: Path
    log: Path
    added: Stored | None

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model.name,
            "onnx": str(self.onnx),
            "size": self.onnx.stat().st_size,
            "sha256": self.sha256,
            "added": None if self.added is None else str(self.added.path),
            "details": {name: value for name, value in self.details.items() if name != "model"},
            "environment": str(self.environment),
            "log": str(self.log),
        }


def convert_checkpoint(stack: StackEntry, options: ConvertOptions, display: Display) -> Converted:
    """Convert a checkpoint; the target is there whole or not at all.

    Raises UsageError, BuildError, MachineError, RunError, Interrupted.
    """
    script, lock = find_converter(stack)
    _require_usable(options)
    _require_space(environment_folder(f"{stack.name}-convert", lock, PYTHONS), options)
    environment, fresh = cached_environment(
        f"{stack.name}-convert", lock, PYTHONS, display.detail, offline=options.offline
    )
    if fresh:
        display.say(f"built {environment}")
    command = [str(environment / "bin" / "python"), "-I", "-u", str(script)]
    log = build_logs_folder() / f"{stack.name}-convert-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    target = options.onnx.absolute()
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _sigterm_is_ctrl_c():
            job = _job(stack, options, aside)
            details = run_script(command, job, _script_environment(stack), log, display.detail)
            model = _models(stack)[details["model"]]
            _put_in_place(aside, target, force=options.force)
    except KeyboardInterrupt:
        raise Interrupted("stopped; nothing was written", hint="the same command starts over") from None
    finally:
        aside.unlink(missing_ok=True)
    added = add_weights(model, target, weights_key(model)) if options.add else None
    return Converted(model, target, sha256_of(target), details, environment, log, added)


def find_converter(stack: StackEntry) -> tuple[Path, Path]:
    """The stack's script and its lock. Raises UsageError for a stack that has none."""
    script, lock = stack.folder / SCRIPT_NAME, stack.folder / LOCK_NAME
    if not (script.is_file() and lock.is_file()):
        why = f"its folder has no {SCRIPT_NAME} with a {LOCK_NAME}: its weights are used as they are published"
        raise UsageError(f"there is nothing to convert for {stack.name}", why=why)
    return script, lock


def weights_key(entry: ModelEntry) -> str:
    """Which of the model's weights a converted file is. Raises UsageError where none can be replaced by it."""
    keys = [key for key, spec in entry.spec.weights.items() if spec.file.endswith(SUFFIX)]
    if len(keys) != 1:
        raise UsageError(f"{entry.name} has {len(keys)} {SUFFIX} files among its weights; --add needs exactly one")
    spec = entry.spec.weights[keys[0]]
    if spec.sha256 is not None or spec.bundled is not None or spec.package is not None:
        why = f"stack.yaml says exactly which file {spec.file} is, and a converted one is another"
        raise UsageError(f"a converted file cannot be added to {entry.name}", why=why, hint="leave --add out")
    return keys[0]


def checkpoint_problem(path: Path) -> str | None:
    """Why a file cannot be one that torch.save wrote, as far as can be told without PyTorch."""
    with path.open("rb") as stream:
        start = stream.read(2)
    if not start:
        return "it is empty"
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return "it is a zip archive of something else"
                damaged = archive.testzip()  # PyTorch itself takes tensors with flipped bits
        except zipfile.BadZipFile:
            return "its end is missing: it was not copied or downloaded whole"
        return None if damaged is None else f"it is damaged: the checksum of {damaged} is not right"
    return None if start[:1] == b"\x80" else "it does not begin like a PyTorch file"


def _require_usable(options: ConvertOptions) -> None:
    """Refuse early what cannot succeed. Raises UsageError."""
    checkpoint, onnx = options.checkpoint, options.onnx
    if not checkpoint.is_file():
        why = "it is not a file" if checkpoint.exists() else None
        raise UsageError(f"there is no checkpoint {checkpoint}", why=why)
    problem = checkpoint_problem(checkpoint)
    if problem is not None:
        raise UsageError(f"{checkpoint} is not a whole checkpoint", why=problem)
    if not onnx.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {onnx.parent}", hint=f"mkdir -p {onnx.parent}")
    if onnx.is_dir() or (onnx.exists() and onnx.samefile(checkpoint)):
        why = "it is a folder" if onnx.is_dir() else "it is the checkpoint itself"
        raise UsageError(f"--onnx {onnx}: name a file to write", why=why)
    if onnx.exists() and not options.force:
        raise _exists(onnx)
    if options.add and options.model is not None:
        weights_key(options.model)


def _exists(onnx: Path) -> UsageError:
    return UsageError(f"{onnx} exists", hint="choose another name, or add --force to replace it")


def _require_space(environment: Path, options: ConvertOptions) -> None:
    """Raises MachineError before anything is begun that would fill a disk."""
    wanted = [(options.onnx.absolute().parent, ONNX_BYTES, "the ONNX file", "choose another --onnx")]
    if not is_whole(environment):
        environment.parent.mkdir(parents=True, exist_ok=True)
        hint = "set ORCH_HOME to a folder on a larger disk"
        wanted.append((environment.parent, ENVIRONMENT_BYTES, "an environment with PyTorch", hint))
    for folder, needed, what, hint in wanted:
        free = shutil.disk_usage(folder).free
        if free < needed:
            why = f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
            raise MachineError(f"no room in {folder} for {what}", why=why, hint=hint)


def _models(stack: StackEntry) -> dict[str, ModelEntry]:
    return {name: ModelEntry(name, spec, stack) for name, spec in stack.spec.models.items()}


def _job(stack: StackEntry, options: ConvertOptions, aside: Path) -> dict[str, Any]:
    return {
        "checkpoint": str(options.checkpoint.absolute()),
        "onnx": str(aside),
        "model": None if options.model is None else options.model.name,
        "models": {name: len(entry.class_map) + 1 for name, entry in _models(stack).items()},
        "trust": options.trust,
    }


def _script_environment(stack: StackEntry) -> dict[str, str]:
    """As a worker's, and without GPUs: converting needs none, and is the same everywhere without."""
    cache = worker_cache_folder(stack.name, "convert")
    (cache / "home").mkdir(parents=True, exist_ok=True)
    own = worker_environment(cores(), str(cache), str(cache / "home"))
    return {**passed_on(), **own, "CUDA_VISIBLE_DEVICES": ""}


def run_script(
    command: list[str], job: Mapping[str, Any], environment: Mapping[str, str], log: Path, report: Report
) -> dict[str, Any]:
    """Run a convert script: its steps go to `report`, all it prints to the log; gives its result.

    Raises the error that the script tells, or RunError when it ends without a result.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last = ""
    with log.open("a", encoding="utf-8") as stream:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                encoding="utf-8",
                errors="replace",
                env=dict(environment),
            )
        except OSError as error:
            raise MachineError("the conversion cannot be started", why=str(error), log=log) from error
        try:
            for last in _conversation(process, json.dumps(job)):
                stream.write(last)
                stream.flush()
                if not last.startswith("{"):
                    report(last.rstrip())
            code = process.wait()
        finally:
            _end(process)
    return _result(code, last, log)


def _conversation(process: subprocess.Popen[str], job: str) -> Iterator[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it ended before reading: how, its exit status says
        process.stdin.write(job)
        process.stdin.close()
    yield from process.stdout


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _result(code: int, last: str, log: Path) -> dict[str, Any]:
    """The script's last line, understood. Raises OrchError."""
    result: object = None
    with suppress(ValueError):
        result = json.loads(last)
    if code != 0 or not isinstance(result, dict):
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        how = Exit(code).describe() if code else "it gave no result"
        raise RunError(f"the conversion failed: {how}", why="\n".join(tail) or None, log=log)
    if "error" in result:
        told = result["error"]
        raise _ERRORS.get(told["kind"], RunError)(told["message"], why=told["why"], hint=told["hint"], log=log)
    return result


def _put_in_place(aside: Path, target: Path, *, force: bool) -> None:
    if target.exists() and not force:  # it came while the conversion ran
        raise _exists(target)
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(aside, target)


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the script and removes what it wrote, as Ctrl-C does. In a thread of a host program: nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
