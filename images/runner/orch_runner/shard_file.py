"""Shard files: the rows of a shard as .npz, written aside, fsynced and renamed, so that readers see all or nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from orch_runner.contract import SHARD_FORMAT, Fatal, Job
from orch_runner.shard_rows import Row


def shard_path(out: Path, number: int, part: bool = False) -> Path:
    """Where shard `number` is written; `part` for one that was interrupted."""
    return out / f"{number:05d}{'.part' if part else ''}.npz"


def write_rows(job: Job, number: int, rows: Sequence[Row], part: bool = False) -> Path:
    """Write rows as shard `number` (or its first part). Raises Fatal("output") when the disk refuses."""
    target = shard_path(job.out, number, part)
    aside = job.out / f".{target.stem}.{job.worker}.tmp"
    try:
        with aside.open("wb") as stream:
            np.savez(stream, **_arrays(job, number, rows))  # type: ignore[arg-type]  # numpy 2's stub
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, target)
        _sync_folder(job.out)
    except OSError as error:
        _remove(aside)
        raise output_refused(target.name, error) from error
    return target


def check_writable(job: Job) -> None:
    """Find out before the model is loaded that nothing could be written. Raises Fatal("output")."""
    probe = job.out / f".{job.worker}.tmp"
    try:
        probe.write_bytes(b"")
    except OSError as error:
        raise output_refused(str(job.out), error) from error
    _remove(probe)


def output_refused(name: str, error: OSError) -> Fatal:
    """What ends the worker when a file of the out folder cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free disk space" if full else "the output folder must exist and be writable by the runner's user"
    return Fatal("output", 5, f"cannot write {name}: {error.strerror or error}", hint)


def remove_part(job: Job, number: int) -> None:
    """Delete the part file of a shard that is complete now."""
    _remove(shard_path(job.out, number, part=True))


def read_part(job: Job, number: int, files: Sequence[str]) -> List[Row]:
    """The rows an interrupted runner left of this shard of this plan; none if there is nothing that fits."""
    path = shard_path(job.out, number, part=True)
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        meta = json.loads(str(arrays["meta"][()]))
        rows = _rows(arrays)
        fits = meta == _meta(job, number, rows) and [row.file for row in rows] == list(files[: len(rows)])
    except Exception:  # whatever is wrong with it, its images are simply predicted again
        return []
    return rows if fits else []


def _meta(job: Job, number: int, rows: Sequence[Row]) -> Dict[str, Any]:
    return {"format": SHARD_FORMAT, "shard": number, "plan": job.plan, "images": len(rows)}


def _arrays(job: Job, number: int, rows: Sequence[Row]) -> Dict[str, np.ndarray]:
    counts = [len(row.scores) for row in rows]
    masks = [mask for row in rows for mask in row.masks]
    arrays = {
        "image_file": np.array([row.file for row in rows], dtype=np.str_),
        "image_size": np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        "status": np.array([1 if row.error else 0 for row in rows], np.uint8),
        "error": np.array([row.error for row in rows], dtype=np.str_),
        "offsets": np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        "boxes": _stack([row.boxes for row in rows], (0, 4), np.float32),
        "classes": _stack([row.classes for row in rows], (0,), np.int32),
        "scores": _stack([row.scores for row in rows], (0,), np.float32),
        "masks": np.frombuffer(b"".join(masks), np.uint8),
        "mask_offsets": np.concatenate(([0], np.cumsum([len(mask) for mask in masks]))).astype(np.int64),
        "meta": np.array(json.dumps(_meta(job, number, rows))),
    }
    if job.attributes:
        given = [row.attributes for row in rows if row.attributes is not None]
        arrays["attributes"] = _stack(given, (0, job.attributes), np.float32)
    if job.image_scores:
        arrays["image_scores"] = np.array([row.image_score for row in rows], np.float32)
    return arrays


def _stack(parts: Sequence[np.ndarray], empty: Tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *parts]).astype(dtype, copy=False)


def _rows(arrays: Dict[str, np.ndarray]) -> List[Row]:
    rows: List[Row] = []
    offsets, mask_offsets, masks = arrays["offsets"], arrays["mask_offsets"], arrays["masks"].tobytes()
    attributes: Optional[np.ndarray] = arrays.get("attributes")
    for index, file in enumerate(arrays["image_file"].tolist()):
        first, last = int(offsets[index]), int(offsets[index + 1])
        cuts = mask_offsets[first : last + 1].tolist()
        row = Row(
            file,
            (int(arrays["image_size"][index, 0]), int(arrays["image_size"][index, 1])),
            str(arrays["error"][index]),
            arrays["boxes"][first:last],
            arrays["classes"][first:last],
            arrays["scores"][first:last],
            [masks[start:end] for start, end in zip(cuts, cuts[1:])],
        )
        if attributes is not None:
            row.attributes = attributes[first:last]
        if "image_scores" in arrays:
            row.image_score = float(arrays["image_scores"][index])
        rows.append(row)
    return rows


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network and FUSE mounts cannot; the rename itself is still atomic
        pass
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass
