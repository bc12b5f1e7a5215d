"""Weights: fetched once, verified, kept in one cache all runs share; the digest of a first use is trusted and kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.archives import is_archive, unpack
from orchestrator.catalog import ModelEntry
from orchestrator.download import Progress, fetch
from orchestrator.errors import MachineError, UsageError
from orchestrator.files import exclusive, sha256_of, write_json
from orchestrator.paths import weights_folder
from orchestrator.spec import Weights


@dataclass(frozen=True)
class Stored:
    """One weights file as a run uses it; `path` is None for one that lies in the stack's own image."""

    key: str
    file: str
    path: Path | None
    sha256: str | None
    package: str | None = None

    def as_job(self) -> Mapping[str, str | None]:
        """What job.json says of it."""
        return {"file": self.file, "sha256": self.sha256, "package": self.package}


def ensure_weights(entry: ModelEntry, *, offline: bool, progress: Progress) -> dict[str, Stored]:
    """All weights of a model, fetched where missing. Raises MachineError with the way to get them."""
    return {key: _ensure(entry, key, spec, offline, progress) for key, spec in entry.spec.weights.items()}


def weights_state(entry: ModelEntry, key: str) -> str:
    """ "in the image", "present" or "missing", for lists."""
    spec = entry.spec.weights[key]
    if spec.package is not None:
        return "in the image"
    if spec.bundled is not None:
        return "present"
    return "present" if _record(entry, spec) is not None else "missing"


def add_weights(entry: ModelEntry, path: Path, key: str | None = None) -> Stored:
    """Put a file, folder or archive a person has into the cache as the weights `key`. Raises UsageError."""
    key = key or _only_key(entry)
    if key not in entry.spec.weights:
        known = ", ".join(entry.spec.weights)
        raise UsageError(f"{entry.name} has no weights {key!r}", why=f"it has {known}")
    spec = entry.spec.weights[key]
    if spec.package is not None or spec.bundled is not None:
        raise UsageError(f"the weights {key!r} of {entry.name} come with orch; there is nothing to add")
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if path.is_file():
        _check(entry, spec, path, sha256_of(path))
    folder = weights_folder(entry.stack.name, entry.name)
    with exclusive(folder / ".lock", wait=True):
        return _install(entry, key, spec, path, source=str(path.absolute()), move=False)


def verify_weights(entry: ModelEntry) -> list[tuple[str, str, bool]]:
    """Read every file again: (key, finding, whether it is right)."""
    findings: list[tuple[str, str, bool]] = []
    for key, spec in entry.spec.weights.items():
        if spec.package is not None:
            findings.append((key, "in the image; checked at every start", True))
            continue
        path = _bundled_path(entry, spec) or weights_folder(entry.stack.name, entry.name) / spec.file
        record = _record(entry, spec)
        expected = spec.sha256 or (record or {}).get("sha256")
        if not path.exists():
            findings.append((key, "missing", False))
        elif path.is_dir():
            findings.append((key, f"present, unpacked from an archive with sha256 {expected}", True))
        else:
            digest = sha256_of(path)
            right = expected in (None, digest)
            findings.append((key, f"sha256 {digest}" if right else f"sha256 {digest}, expected {expected}", right))
    return findings


def _ensure(entry: ModelEntry, key: str, spec: Weights, offline: bool, progress: Progress) -> Stored:
    if spec.package is not None:
        return Stored(key, spec.file, None, spec.sha256, spec.package)
    folder = weights_folder(entry.stack.name, entry.name)
    with exclusive(folder / ".lock", wait=True):
        record = _record(entry, spec)
        bundled = _bundled_path(entry, spec)
        if record is not None and (bundled is None or sha256_of(bundled) == record["sha256"]):
            return Stored(key, spec.file, folder / spec.file, record["sha256"])
        if bundled is not None:
            _check(entry, spec, bundled, sha256_of(bundled))
            return _install(entry, key, spec, bundled, source="bundled with the stack", move=False)
        if spec.url is not None and not offline:
            download = folder / "downloads" / Path(spec.url.partition("?")[0]).name
            fetch(spec.url, download, sha256=spec.sha256, size=spec.size, progress=progress)
            return _install(entry, key, spec, download, source=spec.url, move=True)
    raise _missing(entry, key, spec)


def _missing(entry: ModelEntry, key: str, spec: Weights) -> MachineError:
    add = f"orch weights add {entry.name} PATH"
    if len(entry.spec.weights) > 1:
        add += f" --key {key}"
    if spec.url is not None:
        why, hint = "--offline was given and they are not in the cache", f"orch weights fetch {entry.name}, or {add}"
    else:
        why, hint = f"they can only be had by hand: {spec.manual} (file {spec.file})", add
    return MachineError(f"the weights of {entry.name} are missing", why=why, hint=hint)


def _install(entry: ModelEntry, key: str, spec: Weights, path: Path, *, source: str, move: bool) -> Stored:
    """Move or copy into the cache, unpacking archives, and write down the digest."""
    folder = weights_folder(entry.stack.name, entry.name)
    target = folder / spec.file
    digest = sha256_of(path) if path.is_file() else None
    aside = folder / f".{target.name}.{os.getpid()}.tmp"
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, aside)
    elif spec.unpack and is_archive(path):
        aside.mkdir(parents=True)
        _unpack(path, aside)
    elif move:
        os.replace(path, aside)
    else:
        shutil.copyfile(path, aside)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(aside, target)
    if move:
        path.unlink(missing_ok=True)
    state = target.stat()
    record = {"sha256": digest, "size": state.st_size, "mtime_ns": state.st_mtime_ns, "source": source}
    write_json(_record_path(folder, spec), record)
    return Stored(key, spec.file, target, digest)


def _unpack(archive: Path, folder: Path) -> None:
    taken, left = unpack(archive, folder, lambda name: None)
    damaged = [member for member in [*taken, *left] if member.error]
    if damaged or not taken:
        why = f"{damaged[0].name}: {damaged[0].error}" if damaged else "it is empty"
        shutil.rmtree(folder)
        raise MachineError(f"the archive {archive} cannot be used", why=why)


def _check(entry: ModelEntry, spec: Weights, path: Path, digest: str) -> None:
    size = path.stat().st_size
    if spec.sha256 is not None and digest != spec.sha256:
        raise UsageError(f"{path} is not {spec.file} of {entry.name}", why=f"sha256 {digest}, expected {spec.sha256}")
    if spec.size_range is not None and not spec.size_range[0] <= size <= spec.size_range[1]:
        low, high = (bound >> 20 for bound in spec.size_range)
        raise UsageError(f"{path} cannot be {spec.file}", why=f"it has {size >> 20} MB, expected {low} to {high}")


def _record_path(folder: Path, spec: Weights) -> Path:
    return folder / f"{spec.file}.json"


def _record(entry: ModelEntry, spec: Weights) -> dict[str, Any] | None:
    """What was written down of a file that is still there, unchanged and right; None where it is not."""
    folder = weights_folder(entry.stack.name, entry.name)
    target = folder / spec.file
    try:
        record: dict[str, Any] = json.loads(_record_path(folder, spec).read_text(encoding="utf-8"))
        state = target.stat()
    except (OSError, ValueError):
        return None
    touched = (record.get("size"), record.get("mtime_ns")) != (state.st_size, state.st_mtime_ns)
    if target.is_file() and touched and sha256_of(target) != record.get("sha256"):
        raise MachineError(
            f"the weights {target} changed since they were stored",
            why=f"sha256 is no longer {record.get('sha256')}",
            hint=f"delete the file, then orch weights fetch {entry.name} (or orch weights add)",
        )
    if spec.sha256 is not None and record.get("sha256") != spec.sha256:
        return None  # the stack was updated to other weights
    return record


def _bundled_path(entry: ModelEntry, spec: Weights) -> Path | None:
    return None if spec.bundled is None else entry.stack.folder / spec.bundled


def _only_key(entry: ModelEntry) -> str:
    keys = list(entry.spec.weights)
    if len(keys) != 1:
        raise UsageError(f"{entry.name} has several weights", why=", ".join(keys), hint="name one with --key")
    return keys[0]
