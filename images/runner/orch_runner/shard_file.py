"""Write and read shard files: the rows of a shard as .npz, replaced in one step."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from orch_runner.contract import SHARD_FORMAT, Fatal, RunnerJob
from orch_runner.files import open_replacement, remove_file
from orch_runner.shard_rows import ShardRow


def shard_path(out: Path, number: int, part: bool = False) -> Path:
    """Return the path of shard `number`; `part`: of its part file, which an unfinished shard has."""
    return out / f"{number:05d}{'.part' if part else ''}.npz"


def write_rows(job: RunnerJob, number: int, rows: Sequence[ShardRow], part: bool = False) -> Path:
    """Write rows as shard `number` (or its part). Raises Fatal("output") when the file cannot be written."""
    check_masks(rows)
    target = shard_path(job.out, number, part)
    try:
        with open_replacement(target) as stream:
            np.savez(stream, **_make_arrays(job, number, rows))  # type: ignore[arg-type]  # numpy 2's stub
        _sync_folder(job.out)
    except OSError as error:
        raise output_error(target.name, error) from error
    return target


def check_masks(rows: Sequence[ShardRow]) -> None:
    """Raise Fatal("output") where some images' instances have masks and others' have none."""
    given = {row.masks is not None: row.file for row in rows if len(row.scores)}
    if len(given) == 2:
        message = f"the predictor gave masks for {given[True]} and none for {given[False]}"
        raise Fatal("output", 5, message, "Prediction.masks must be None for all images of a model, or for none")


def check_writable(job: RunnerJob) -> None:
    """Raise Fatal("output") if the out folder cannot be written; called before the model is loaded."""
    probe = job.out / f".{job.worker}.tmp"
    try:
        probe.write_bytes(b"")
    except OSError as error:
        raise output_error(str(job.out), error) from error
    remove_file(probe)


def output_error(name: str, error: OSError) -> Fatal:
    """Return the Fatal for a file of the out folder that cannot be written."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free disk space" if is_full else "the output folder must exist and be writable by the runner's user"
    return Fatal("output", 5, f"cannot write {name}: {error.strerror or error}", hint)


def remove_part(job: RunnerJob, number: int) -> None:
    """Delete the part file of a shard that is complete now."""
    remove_file(shard_path(job.out, number, part=True))


def read_part(job: RunnerJob, number: int, files: Sequence[str]) -> List[ShardRow]:
    """Return the rows in a part file of this shard and plan; no rows if there is none or it does not fit."""
    path = shard_path(job.out, number, part=True)
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        meta = json.loads(str(arrays["meta"][()]))
        rows = _make_rows(arrays)
        fits = meta == _make_meta(job, number, rows) and [row.file for row in rows] == list(files[: len(rows)])
    except Exception:  # whatever is wrong with the file: its images are predicted again
        return []
    return rows if fits else []


def _make_meta(job: RunnerJob, number: int, rows: Sequence[ShardRow]) -> Dict[str, Any]:
    return {"format": SHARD_FORMAT, "shard": number, "plan": job.plan, "images": len(rows)}


def _make_arrays(job: RunnerJob, number: int, rows: Sequence[ShardRow]) -> Dict[str, np.ndarray]:
    counts = [len(row.scores) for row in rows]
    arrays = {
        "image_file": np.array([row.file for row in rows], dtype=np.str_),
        "image_sha256": np.frombuffer(b"".join(row.sha256 for row in rows), np.uint8).reshape(-1, 32),
        "image_size": np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        "status": np.array([1 if row.error else 0 for row in rows], np.uint8),
        "error": np.array([row.error for row in rows], dtype=np.str_),
        "offsets": np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        "boxes": _concatenate([row.boxes for row in rows], (0, 4), np.float32),
        "classes": _concatenate([row.classes for row in rows], (0,), np.int32),
        "scores": _concatenate([row.scores for row in rows], (0,), np.float32),
        "meta": np.array(json.dumps(_make_meta(job, number, rows))),
    }
    if any(row.masks is not None for row in rows):
        masks = [mask for row in rows for mask in row.masks or ()]
        arrays["masks"] = np.frombuffer(b"".join(masks), np.uint8)
        arrays["mask_offsets"] = np.concatenate(([0], np.cumsum([len(mask) for mask in masks]))).astype(np.int64)
    if job.attributes:
        attributes = [row.attributes for row in rows if row.attributes is not None]
        arrays["attributes"] = _concatenate(attributes, (0, job.attributes), np.float32)
    if job.image_scores:
        arrays["image_scores"] = np.array([row.image_score for row in rows], np.float32)
    return arrays


def _concatenate(parts: Sequence[np.ndarray], empty: Tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *parts]).astype(dtype, copy=False)


def _make_rows(arrays: Dict[str, np.ndarray]) -> List[ShardRow]:
    rows: List[ShardRow] = []
    offsets, masks = arrays["offsets"], arrays["masks"].tobytes() if "masks" in arrays else b""
    attributes: Optional[np.ndarray] = arrays.get("attributes")
    for index, file in enumerate(arrays["image_file"].tolist()):
        first, last = int(offsets[index]), int(offsets[index + 1])
        cuts = arrays["mask_offsets"][first : last + 1].tolist() if "masks" in arrays else []
        row = ShardRow(
            file,
            (int(arrays["image_size"][index, 0]), int(arrays["image_size"][index, 1])),
            str(arrays["error"][index]),
            arrays["boxes"][first:last],
            arrays["classes"][first:last],
            arrays["scores"][first:last],
            [masks[start:end] for start, end in zip(cuts, cuts[1:])] if "masks" in arrays else None,
            sha256=arrays["image_sha256"][index].tobytes(),
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
