"""`orch convert`: convert a checkpoint to the weights of a stack, by the stack's own script and environment.

A stack that supports this has `convert/convert.py`, whose docstring is the contract, and `convert.lock`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.catalog import ModelEntry, StackEntry, Stored, add_weights
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError, UsageError
from orchestrator.hardware import cores
from orchestrator.paths import build_logs_folder, worker_cache_folder
from orchestrator.runtimes import (
    Exit,
    ensure_environment,
    environment_folder,
    inherited_variables,
    is_complete,
    worker_environment,
)
from orchestrator.system import Display, Need, Report, raise_on_sigterm, replace_path, require_space, sha256_of

SCRIPT_NAME = "convert/convert.py"
LOCK_NAME = "convert.lock"
PYTHONS = ("3.11", "3.10", "3.12")  # versions that PyTorch 2.2 and numpy 1.26 have wheels for
ENVIRONMENT_BYTES = 5 << 30
"""Measured: 4.3 GB, most of it CUDA libraries, without which PyTorch's wheel cannot be imported."""
ONNX_BYTES = 256 << 20
SUFFIX = ".onnx"
_TAIL_LINES = 12
_ERRORS: Mapping[str, type[OrchError]] = {"usage": UsageError, "machine": MachineError}


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion. `model` None: the stack's model whose class count fits."""

    checkpoint: Path
    onnx: Path
    model: ModelEntry | None = None
    add: bool = False
    force: bool = False
    trust: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Converted:
    """A finished conversion: the file, the details that the script reports, and the weights it was added as."""

    model: ModelEntry | None
    """None: no model of the stack has so many classes."""
    onnx: Path
    sha256: str
    details: Mapping[str, Any]
    environment: Path
    log: Path
    added: Stored | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": None if self.model is None else self.model.name,
            "onnx": str(self.onnx),
            "size": self.onnx.stat().st_size,
            "sha256": self.sha256,
            "added": None if self.added is None else str(self.added.path),
            "details": {name: value for name, value in self.details.items() if name != "model"},
            "environment": str(self.environment),
            "log": str(self.log),
        }


def convert_checkpoint(stack: StackEntry, options: ConvertOptions, display: Display) -> Converted:
    """Convert a checkpoint. The target is written completely or not at all.

    Raises UsageError, BuildError, MachineError, RunError, Interrupted.
    """
    script, lock = find_converter(stack)
    _require_usable(options)
    _require_space(environment_folder(f"{stack.name}-convert", lock, PYTHONS), options)
    environment, fresh = ensure_environment(
        f"{stack.name}-convert", lock, PYTHONS, display.detail, partial=True, offline=options.offline
    )
    if fresh:
        display.say(f"built {environment}")
    command = [str(environment / "bin" / "python"), "-I", "-u", str(script)]
    log = build_logs_folder() / f"{stack.name}-convert-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    target = options.onnx.absolute()
    try:
        with raise_on_sigterm(KeyboardInterrupt()), replace_path(target) as aside:
            models = {name: ModelEntry(name, spec, stack) for name, spec in stack.spec.models.items()}
            job = {
                "checkpoint": str(options.checkpoint.absolute()),
                "onnx": str(aside),
                "model": None if options.model is None else options.model.name,
                "models": {name: len(entry.class_map) + 1 for name, entry in models.items()},
                "trust": options.trust,
            }
            details = run_script(command, job, _script_environment(stack), log, display.detail)
            model = models.get(details["model"])
            if target.exists() and not options.force:  # another program wrote it meanwhile
                raise _exists(target)
    except KeyboardInterrupt:
        raise Interrupted("stopped; nothing was written", hint="the same command starts again") from None
    converted = Converted(model, target, sha256_of(target), details, environment, log, None)
    if not options.add:
        return converted
    if model is None:
        why = f"no model of {stack.name} has {details['classes']} classes, counting the background"
        raise UsageError(f"wrote {target}, which cannot be added", why=why, hint=suggest_model(stack, converted))
    return replace(converted, added=add_weights(model, target, weights_key(model), force=options.force))


def suggest_model(stack: StackEntry, converted: Converted) -> str:
    """Return the command that makes a model of the converted file."""
    names = ",".join(f"NAME{number}" for number in range(1, converted.details["classes"]))
    like = next(iter(stack.spec.models))
    return f"orch new model my-model --like {like} --weights {converted.onnx} --categories {names}"


def find_converter(stack: StackEntry) -> tuple[Path, Path]:
    """Return the stack's script and lock. Raises UsageError for a stack that has none."""
    script, lock = stack.folder / SCRIPT_NAME, stack.folder / LOCK_NAME
    if not (script.is_file() and lock.is_file()):
        why = f"its folder has no {SCRIPT_NAME} with a {LOCK_NAME}: it uses weights as they are published"
        raise UsageError(f"{stack.name} has no conversion", why=why)
    return script, lock


def weights_key(entry: ModelEntry) -> str:
    """Return which of the model's weights a converted file replaces. Raises UsageError where it can replace none."""
    keys = [key for key, spec in entry.spec.weights.items() if spec.file.endswith(SUFFIX)]
    if len(keys) != 1:
        raise UsageError(f"{entry.name} has {len(keys)} {SUFFIX} files among its weights; --add needs exactly one")
    spec = entry.spec.weights[keys[0]]
    if spec.path is not None:
        raise UsageError(
            f"cannot add a converted file to {entry.name}",
            why=f"{entry.file} says that its weights are {spec.path}",
            hint=f"run it without --add, with --onnx {spec.path}",
        )
    if spec.sha256 is not None or spec.bundled is not None or spec.package is not None:
        why = f"stack.yaml states the digest or origin of {spec.file}, which a converted file does not have"
        raise UsageError(f"cannot add a converted file to {entry.name}", why=why, hint="run it without --add")
    return keys[0]


def checkpoint_problem(path: Path) -> str | None:
    """Return why torch.save cannot have written a file, as far as it can be checked without PyTorch; else None."""
    with path.open("rb") as stream:
        start = stream.read(2)
    if not start:
        return "it is empty"
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return "it is a zip archive, but not of PyTorch"
                damaged = archive.testzip()  # PyTorch itself accepts tensors with flipped bits
        except zipfile.BadZipFile:
            return "its end is missing: it was not copied or downloaded completely"
        return None if damaged is None else f"it is damaged: the checksum of {damaged} is wrong"
    return None if start[:1] == b"\x80" else "it does not begin like a PyTorch file"


def _require_usable(options: ConvertOptions) -> None:
    """Check all that can be checked without the environment. Raises UsageError."""
    checkpoint, onnx = options.checkpoint, options.onnx
    if not checkpoint.is_file():
        raise UsageError(f"no checkpoint at {checkpoint}", why="it is not a file" if checkpoint.exists() else None)
    problem = checkpoint_problem(checkpoint)
    if problem is not None:
        raise UsageError(f"{checkpoint} is not a complete checkpoint", why=problem)
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
    """Raise MachineError where a disk has too little space, before anything is written."""
    needs = [Need(options.onnx.absolute().parent, ONNX_BYTES, "the ONNX file")]
    if not is_complete(environment):
        needs.append(Need(environment.parent, ENVIRONMENT_BYTES, "an environment with PyTorch"))
    require_space(needs, "the conversion")


def _script_environment(stack: StackEntry) -> dict[str, str]:
    """Return a worker's environment variables, without GPUs: the conversion then gives the same bytes everywhere."""
    cache = worker_cache_folder(stack.name, "convert")
    (cache / "home").mkdir(parents=True, exist_ok=True)
    own = worker_environment(cores(), str(cache), str(cache / "home"))
    return {**inherited_variables(), **own, "CUDA_VISIBLE_DEVICES": ""}


def run_script(
    command: list[str], job: Mapping[str, Any], environment: Mapping[str, str], log: Path, report: Report
) -> dict[str, Any]:
    """Run a conversion script and return its result; its steps go to `report`, all that it prints to the log.

    Raises the error that the script reports, or RunError when it ends without a result.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last = ""
    with log.open("a", encoding="utf-8") as stream, tempfile.TemporaryFile("w+") as job_file:
        json.dump(job, job_file)
        job_file.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=job_file,
                stdout=subprocess.PIPE,
                stderr=stream,
                encoding="utf-8",
                errors="replace",
                env=dict(environment),
            )
        except OSError as error:
            raise MachineError("cannot start the conversion", why=str(error), log=log) from error
        with process:  # waits for it and closes its output
            assert process.stdout is not None
            try:
                for last in process.stdout:
                    stream.write(last)
                    stream.flush()
                    if not last.startswith("{"):
                        report(last.rstrip())
                code = process.wait()
            finally:
                process.kill()
    return _result(code, last, log)


def _result(code: int, last: str, log: Path) -> dict[str, Any]:
    """Return the result in the script's last line. Raises OrchError."""
    result: object = None
    with suppress(ValueError):
        result = json.loads(last)
    if code != 0 or not isinstance(result, dict):
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        how = Exit(code).describe() if code else "it printed no result"
        raise RunError(f"the conversion failed: {how}", why="\n".join(tail) or None, log=log)
    if "error" in result:
        error = result["error"]
        raise _ERRORS.get(error["kind"], RunError)(error["message"], why=error["why"], hint=error["hint"], log=log)
    return result
