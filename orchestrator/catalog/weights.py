"""Weights: fetched once, verified, kept in the cache; the digest of a first use is trusted and recorded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from orchestrator.catalog.loader import SPEC_NAME, ModelEntry
from orchestrator.catalog.spec import Weights
from orchestrator.catalog.weights_content import content_problem
from orchestrator.errors import MachineError, SpecError, UsageError
from orchestrator.paths import shared_home, weights_folder
from orchestrator.system import (
    TransferProgress,
    did_you_mean,
    fetch,
    hold_lock,
    is_archive,
    remove,
    replace_path,
    require_format,
    sha256_of,
    sha256_of_tree,
    state_of_tree,
    unpack,
    write_json,
)

RECORD_FORMAT = "orch-weights/1"


@dataclass(frozen=True)
class Stored:
    """One weights file, or folder, as a run uses it; `path` is None for a file inside the stack's image.

    `sha256` is that of the file or of the archive that a folder was unpacked from, else that of `sha256_of_tree`.
    """

    key: str
    file: str
    path: Path | None
    sha256: str | None
    package: str | None = None

    def as_job(self) -> Mapping[str, str | None]:
        return {"file": self.file, "sha256": self.sha256, "package": self.package}


def ensure_weights(entry: ModelEntry, *, offline: bool, progress: TransferProgress) -> dict[str, Stored]:
    """Return all weights of a model, fetched where missing. Raises MachineError that says how to get them."""
    return {key: _ensure(entry, key, spec, offline, progress) for key, spec in entry.spec.weights.items()}


def weights_in(entry: ModelEntry, folder: Path) -> dict[str, Stored]:
    """Return a model's weights as unchecked files of a folder, for random weights. Raises MachineError."""
    stored: dict[str, Stored] = {}
    for key, spec in entry.spec.weights.items():
        path = folder / spec.file
        if not path.exists():
            raise MachineError(f"{spec.file} is not in {folder}")
        stored[key] = Stored(key, spec.file, path, sha256_of_tree(path) if path.is_dir() else sha256_of(path))
    return stored


def known_digests(entry: ModelEntry) -> dict[str, str | None]:
    """Return the digests of a model's weights that are there, by key; fetches nothing.

    Raises MachineError for weights that changed since they were stored.
    """
    digests: dict[str, str | None] = {}
    for key, spec in entry.spec.weights.items():
        bundled = None if spec.bundled is None else entry.stack.folder / spec.bundled
        if spec.package is not None:
            digests[key] = spec.sha256
        elif spec.path is not None:
            digests[key] = _own_digest(entry, key, spec, Path(spec.path))
        elif bundled is not None:
            digests[key] = sha256_of(bundled) if bundled.is_file() else None
        else:
            record = _record(entry, spec)
            if record is not None:
                digests[key] = record["sha256"]
    return digests


def weights_folder_of(entry: ModelEntry) -> Path:
    """Return the folder of a model's weights: the shared cache's where only that one has all of them."""
    own, shared = weights_folder(entry.stack.name, entry.name), shared_home()
    kept = [spec for spec in entry.spec.weights.values() if spec.package is None]
    if shared is None or not kept or any(spec.path or _record_path(own, spec).exists() for spec in kept):
        return own
    theirs = weights_folder(entry.stack.name, entry.name, shared)
    return theirs if all(_fits(theirs, entry, spec) for spec in kept) else own


def _fits(folder: Path, entry: ModelEntry, spec: Weights) -> bool:
    """Return whether a shared folder has these weights as stack.yaml describes them."""
    record = _read_record(folder, spec)
    expected = spec.sha256 if spec.bundled is None else _bundled_digest(entry, spec)
    return bool(record) and (folder / spec.file).exists() and expected in (None, record.get("sha256"))


def weights_state(entry: ModelEntry, key: str) -> str:
    """Return "in the image", "present", "missing" or "changed", for lists."""
    spec = entry.spec.weights[key]
    if spec.package is not None:
        return "in the image"
    if spec.path is not None:
        return "present" if Path(spec.path).exists() else "missing"
    if spec.bundled is not None:
        return "present"
    try:
        return "present" if _record(entry, spec) is not None else "missing"
    except MachineError:
        return "changed"


def add_weights(entry: ModelEntry, path: Path, key: str | None = None, *, force: bool = False) -> Stored:
    """Copy a user's file, folder or archive into the cache as the weights `key`.

    Raises UsageError; without `force` also for a file that does not begin like weights, and where others are stored.
    """
    keys = list(entry.spec.weights)
    if not key and len(keys) != 1:
        raise UsageError(f"{entry.name} has several weights", why=", ".join(keys), hint="choose with --key")
    key = key or keys[0]
    if key not in entry.spec.weights:
        raise UsageError(f"{entry.name} has no weights {key!r}", why=did_you_mean(key, entry.spec.weights))
    spec = entry.spec.weights[key]
    if spec.path is not None:
        raise UsageError(
            f"cannot add the weights {key!r} of {entry.name}",
            why=f"{entry.file} says that they are {spec.path}",
            hint="replace that file, or write another one there",
        )
    if spec.package is not None or spec.bundled is not None:
        raise UsageError(f"cannot add the weights {key!r} of {entry.name}: they come with orch")
    if not path.exists():
        raise UsageError(f"{path} does not exist", hint="orch weights list says where the files come from")
    problem = _kind_problem(spec, path) or (_problem(spec, path) if path.is_file() else None)
    if problem is not None:
        raise UsageError(f"{path} is not {spec.file} of {entry.name}", why=problem)
    unlikely = None if force or spec.sha256 is not None else content_problem(path, spec)
    if unlikely is not None:
        raise UsageError(f"{path} does not look like {spec.file}", why=unlikely, hint="--force adds it all the same")
    folder = weights_folder(entry.stack.name, entry.name)
    with hold_lock(folder / ".lock", wait=True):
        if not force:
            _refuse_replacing(entry, key, spec, path)
        return _install(entry, key, spec, path, source=str(path.absolute()), move=False)


def _refuse_replacing(entry: ModelEntry, key: str, spec: Weights, path: Path) -> None:
    """Raise UsageError where other weights than `path` are stored."""
    folder = weights_folder(entry.stack.name, entry.name)
    target, record = folder / spec.file, _read_record(folder, spec)
    digest = sha256_of_tree(path) if path.is_dir() else sha256_of(path)
    if target.exists() and record and digest not in (record.get("sha256"), record.get("tree")):
        raise UsageError(
            f"{entry.name} has other weights {key!r} already",
            why=f"stored: {_describe_content(target, record.get('sha256'))}\nnew: {_describe_content(path, digest)}",
            hint=f"orch weights add {entry.name} {path} --force replaces them; "
            f"to keep both: orch new model NAME --like {entry.name} --weights {path}",
        )


def _describe_content(path: Path, digest: object) -> str:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files)} bytes, sha256 {digest}, {path}"


def _own_digest(entry: ModelEntry, key: str, spec: Weights, path: Path) -> str:
    """Return the digest of the user's own file or folder, read only where it changed since it was copied.

    Raises MachineError where it is missing.
    """
    if not path.exists():
        hint = f"put it there, or write another path into {entry.file}"
        raise MachineError(f"the weights {key!r} of {entry.name} are missing", why=f"{path} does not exist", hint=hint)
    record = _read_record(weights_folder(entry.stack.name, entry.name), spec)
    if record.get("source") == str(path) and record.get("source_state") == _state_of(path):
        return str(record["sha256"])
    return sha256_of_tree(path) if path.is_dir() else sha256_of(path)


def _state_of(path: Path) -> Any:
    """Return what changes whenever a file's or a folder's content does, without reading it."""
    if path.is_dir():
        return state_of_tree(path)
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _ensure_own(entry: ModelEntry, key: str, spec: Weights, path: Path) -> Stored:
    """Copy the user's own file into the cache, unless it is there: workers see one weights folder."""
    state = _state_of(path) if path.exists() else None
    digest, record = _own_digest(entry, key, spec, path), _record(entry, spec)
    if record is not None and record["sha256"] == digest:
        folder, origin = weights_folder(entry.stack.name, entry.name), {"source": str(path), "source_state": state}
        if {**record, **origin} != record:
            write_json(_record_path(folder, spec), {**record, **origin})
        return Stored(key, spec.file, folder / spec.file, digest)
    problem = _kind_problem(spec, path) or content_problem(path, spec)
    if problem is not None:
        raise UsageError(f"{path} does not look like weights of {entry.name} ({spec.file})", why=problem)
    return _install(entry, key, spec, path, source=str(path), move=False)


def _kind_problem(spec: Weights, path: Path) -> str | None:
    """Return why a path has the wrong kind: a file, or an archive or the folder unpacked from it, is expected."""
    if path.is_dir() and not spec.unpack:
        return "it is a folder; one file is expected"
    if path.is_dir() and spec.sha256 is not None:
        return "the archive's sha256 is published: add the archive itself, so that it can be checked"
    if path.is_file() and spec.unpack and not is_archive(path):
        return "a .zip or .tar archive is expected" + ("" if spec.sha256 else ", or the folder unpacked from it")
    return None


def verify_weights(entry: ModelEntry) -> list[tuple[str, str, bool]]:
    """Read every file again; return (key, finding, whether it is right) of each."""
    findings: list[tuple[str, str, bool]] = []
    for key, spec in entry.spec.weights.items():
        if spec.package is not None:
            findings.append((key, "in the image; checked at every start", True))
            continue
        folder = weights_folder_of(entry)
        record = _read_record(folder, spec)
        expected = spec.sha256 or record.get("sha256")
        path = folder / spec.file if spec.bundled is None else entry.stack.folder / spec.bundled
        if spec.path is not None:  # the next run copies it, whatever it is
            path, record, expected = Path(spec.path), {}, None
        if not path.exists():
            findings.append((key, "missing", False))
        elif path.is_dir():
            findings.append((key, *_verify_folder(path, record)))
        else:
            digest = sha256_of(path)
            right = expected in (None, digest)
            findings.append((key, f"sha256 {digest}" if right else f"sha256 {digest}, expected {expected}", right))
    return findings


def _verify_folder(path: Path, record: Mapping[str, Any]) -> tuple[str, bool]:
    """Read a folder of weights again; return the finding and whether it is right."""
    digest, expected = sha256_of_tree(path), record.get("tree")
    if expected is None:
        return f"tree sha256 {digest}, of which no record was kept", True
    right = digest == expected
    return f"tree sha256 {digest}" + ("" if right else f", expected {expected}"), right


def _ensure(entry: ModelEntry, key: str, spec: Weights, offline: bool, progress: TransferProgress) -> Stored:
    if spec.package is not None:
        return Stored(key, spec.file, None, spec.sha256, spec.package)
    folder = weights_folder_of(entry)
    if spec.path is not None:
        with hold_lock(folder / ".lock", wait=True):
            return _ensure_own(entry, key, spec, Path(spec.path))
    record = _record(entry, spec)
    if record is not None and (spec.bundled is None or record["sha256"] == _bundled_digest(entry, spec)):
        # Nothing is written, so no lock is needed: the cache may be one that this user can only read.
        return Stored(key, spec.file, folder / spec.file, record["sha256"])
    folder = weights_folder(entry.stack.name, entry.name)
    with hold_lock(folder / ".lock", wait=True):
        if spec.bundled is not None:
            return _ensure_bundled(entry, key, spec)
        record = _record(entry, spec)
        if record is not None:
            return Stored(key, spec.file, folder / spec.file, record["sha256"])
        if spec.url is not None and not offline:
            return _download(entry, key, spec, spec.url, progress)
    raise _missing(entry, key, spec)


def _bundled_digest(entry: ModelEntry, spec: Weights) -> str | None:
    bundled = entry.stack.folder / str(spec.bundled)
    return sha256_of(bundled) if bundled.is_file() else None


def _ensure_bundled(entry: ModelEntry, key: str, spec: Weights) -> Stored:
    """Copy the stack's own file into the cache: workers see one weights folder, whatever the origin."""
    bundled = entry.stack.folder / str(spec.bundled)
    field = f"{entry.stack.folder / SPEC_NAME}: models.{entry.name}.weights.{key}.bundled"
    if not bundled.is_file():
        raise SpecError(f"{field}: the file {spec.bundled} does not exist")
    problem = _problem(spec, bundled)
    if problem is not None:
        raise SpecError(f"{field}: {spec.bundled} is not the file described", why=problem)
    record = _record(entry, spec)
    if record is None or record["sha256"] != sha256_of(bundled):
        return _install(entry, key, spec, bundled, source="bundled with the stack", move=False)
    return Stored(key, spec.file, weights_folder_of(entry) / spec.file, record["sha256"])


def _download(entry: ModelEntry, key: str, spec: Weights, url: str, progress: TransferProgress) -> Stored:
    folder = weights_folder(entry.stack.name, entry.name)
    download = folder / "downloads" / f"{key}-{PurePosixPath(urlsplit(url).path).name}"
    earlier = _read_record(folder, spec)
    trusted = earlier.get("sha256") if earlier.get("source") == url else None
    if spec.sha256 is None and trusted is not None:
        hint = f"if the new file is right, delete {_record_path(folder, spec)} and type the same command again"
    else:
        hint = f"orch weights add {entry.name} PATH, with a file from elsewhere"
    try:
        fetch(url, download, sha256=spec.sha256 or trusted, size=spec.size, progress=progress)
        problem = _kind_problem(spec, download) or _problem(spec, download)
        if spec.sha256 is None:
            problem = problem or content_problem(download, spec)
    except MachineError as error:
        raise MachineError(error.message, why=error.why, hint=error.hint or hint) from error
    if problem is not None:
        download.unlink()
        raise MachineError(f"{url} is not {spec.file} of {entry.name}", why=problem, hint=hint)
    return _install(entry, key, spec, download, source=url, move=True)


def _missing(entry: ModelEntry, key: str, spec: Weights) -> MachineError:
    add = f"orch weights add {entry.name} PATH"
    if len(entry.spec.weights) > 1:
        add += f" --key {key}"
    if spec.url is not None:
        why, hint = "--offline was given and they are not in the cache", f"orch weights fetch {entry.name}, or {add}"
    else:
        why, hint = f"they must be downloaded manually: {spec.manual} (file {_expected(spec)})", add
    return MachineError(f"the weights of {entry.name} are missing", why=why, hint=hint)


def _expected(spec: Weights) -> str:
    """Return a file's name and its size, where known."""
    if spec.size is not None:
        return f"{spec.file}, {spec.size} bytes"
    if spec.size_range is not None:
        least, most = (round(size / 1e6) for size in spec.size_range)
        return f"{spec.file}, {least} to {most} MB"
    return spec.file


def _install(entry: ModelEntry, key: str, spec: Weights, path: Path, *, source: str, move: bool) -> Stored:
    """Move or copy into the cache, unpack an archive, and record the digest."""
    folder = weights_folder(entry.stack.name, entry.name)
    target = folder / spec.file
    digest, source_state = sha256_of(path) if spec.unpack and path.is_file() else None, _state_of(path)
    try:
        with replace_path(target) as aside:
            _copy(path, aside, unpacking=spec.unpack, move=move)
            if aside.is_file():  # a training that goes on may have changed the file meanwhile
                digest = sha256_of(aside)
            if target.is_dir():
                shutil.rmtree(target)
        state = target.stat()
        record = {
            "format": RECORD_FORMAT,
            "sha256": digest,
            "size": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            "source": source,
            "source_state": source_state,
        }
        if target.is_dir():
            tree = _describe_tree(target)
            digest = digest or tree["tree"]
            record |= {**tree, "sha256": digest}
        write_json(_record_path(folder, spec), record)
    except OSError as error:
        raise MachineError(f"cannot store {target}", why=error.strerror or str(error)) from error
    finally:
        if move:
            remove(path)
    return Stored(key, spec.file, target, digest)


def _describe_tree(folder: Path) -> dict[str, str]:
    return {"tree": sha256_of_tree(folder), "tree_state": state_of_tree(folder)}


def _copy(path: Path, aside: Path, *, unpacking: bool, move: bool) -> None:
    if path.is_dir():
        shutil.copytree(path, aside)
    elif unpacking:
        aside.mkdir()
        _unpack(path, aside)
    elif move:
        os.replace(path, aside)
    else:
        shutil.copyfile(path, aside)


def _unpack(archive: Path, folder: Path) -> None:
    unpacked, skipped = unpack(archive, folder, lambda name, read: None)
    damaged = [member for member in [*unpacked, *skipped] if member.error]
    if damaged or not unpacked:
        why = f"{damaged[0].name}: {damaged[0].error}" if damaged else "it is empty"
        raise MachineError(f"the archive {archive} cannot be used", why=why)


def _problem(spec: Weights, path: Path) -> str | None:
    """Return why a file is not the described one, or None."""
    digest, size = sha256_of(path), path.stat().st_size
    if spec.sha256 is not None and digest != spec.sha256:
        return f"sha256 {digest}, expected {spec.sha256}"
    if spec.size is not None and size != spec.size:
        return f"it has {size} bytes, expected {spec.size}"
    if spec.size_range is not None and not spec.size_range[0] <= size <= spec.size_range[1]:
        return f"it has {size} bytes, expected {spec.size_range[0]} to {spec.size_range[1]}"
    return None


def _record_path(folder: Path, spec: Weights) -> Path:
    return folder / f"{spec.file}.json"


def _read_record(folder: Path, spec: Weights) -> dict[str, Any]:
    """Return what was recorded when the file was stored; empty if nothing was."""
    try:
        record = json.loads(_record_path(folder, spec).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    hint = f"use the version that wrote it, or remove {folder / spec.file} and it, and fetch or add the weights again"
    require_format(record, RECORD_FORMAT, _record_path(folder, spec), hint)
    return record


def _record(entry: ModelEntry, spec: Weights) -> dict[str, Any] | None:
    """Return the record of a file that exists unchanged and fits stack.yaml, else None. Raises MachineError."""
    folder = weights_folder_of(entry)
    target = folder / spec.file
    record = _read_record(folder, spec)
    if not record or not target.exists():
        return None
    source = str(record.get("source"))
    if (spec.sha256 is not None and record.get("sha256") != spec.sha256) or (
        spec.url is not None and source.startswith(("https:", "http:")) and source != spec.url
    ):
        return None  # the stack was updated to other weights
    digest, expected = _compare_tree(target, record) if target.is_dir() else _compare_file(target, record)
    if digest != expected:
        raise MachineError(
            f"the weights {target} changed since they were stored",
            why=f"sha256 is no longer {expected}",
            hint=f"delete {target}, then orch weights fetch {entry.name} (or orch weights add)",
        )
    if target.is_dir() and "tree" not in record:  # stored by a version that kept no digest of folders
        record |= {"format": RECORD_FORMAT, **_describe_tree(target)}
        record["sha256"] = record["sha256"] or record["tree"]
        with suppress(OSError):
            write_json(_record_path(folder, spec), record)
    return record


def _compare_file(path: Path, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the digests of a file as it is and as it was stored; it is read only where its size or time changed."""
    state, expected = path.stat(), record.get("sha256")
    is_touched = (record.get("size"), record.get("mtime_ns")) != (state.st_size, state.st_mtime_ns)
    return sha256_of(path) if is_touched else expected, expected


def _compare_tree(folder: Path, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the digests of a folder as it is and as it was stored, read only where a size or time changed."""
    expected = record.get("tree")
    is_touched = expected is not None and state_of_tree(folder) != record.get("tree_state")
    return sha256_of_tree(folder) if is_touched else expected, expected
