"""Small predictions and shards that the tests of predictions, collecting, exporting and evaluating start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions import rle
from orchestrator.predictions.npz import NpzWriter
from orchestrator.predictions.schema import FORMAT, SCHEMA, SHARD_FORMAT

Arrays = dict[str, NDArray[Any]]

FILES = ("a.jpg", "sub/b.jpg", "sub/c.png", "other/b.jpg")
SIZES = ((40, 60), (50, 30), (20, 20), (64, 48))
COUNTS = (2, 3, 0, 1)  # instances per image; the third image failed
META: dict[str, Any] = {
    "format": FORMAT,
    "orch_version": "0.1.0",
    "model": "sample",
    "stack": "samples",
    "variant": "cpu",
    "task": "instance-segmentation",
    "categories": [{"id": 0, "name": "shirt"}, {"id": 5, "name": "hat"}, {"id": 7, "name": "bag"}],
    "settings": {},
    "score_threshold": 0.05,
    "max_detections": 100,
    "exif": "apply",
    "device": "cpu",
    "taxonomy": "sample",
    "weights": {"model": {"file": "model.onnx", "sha256": "0" * 64}},
    "runtime": "venv",
    "image_digest": "sha256:0",
    "inputs": {"count": 4, "digest": "0"},
    "native": {"box_order": "yxyx", "class_base": 1, "class_map": [0, 5, 7]},
    "attribute_names": ["striped", "long"],
}


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """A mask (height, width) filled within x1, y1, x2, y2."""
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def digests(files: Sequence[str]) -> NDArray[np.uint8]:
    """(I,32) digests, of the files' names in place of their content."""
    return np.frombuffer(b"".join(sha256(file.encode()).digest() for file in files), np.uint8).reshape(-1, 32)


def sample_arrays() -> Arrays:
    """Valid predictions of four images, one of them failed, with every optional array."""
    sizes = [size for size, count in zip(SIZES, COUNTS, strict=True) for _ in range(count)]
    boxes = [(2 + n, 3 + n, 12 + 2 * n, 17 + n) for n in range(len(sizes))]
    counts = [rle.encode(box_mask(size, box)) for size, box in zip(sizes, boxes, strict=True)]
    return {
        "image_file": np.array(FILES),
        "image_id": np.array(["11", "12", "13", "14"]),
        "image_sha256": digests(FILES) * np.array([1, 1, 0, 1], np.uint8)[:, None],
        "image_size": np.array(SIZES, np.int32),
        "status": np.array([0, 0, 1, 0], np.uint8),
        "error": np.array(["", "", "truncated file", ""]),
        "offsets": np.cumsum([0, *COUNTS], dtype=np.int64),
        "boxes": np.array(boxes, np.float32),
        "classes": np.array([0, 5, 7, 0, 5, 7], np.int32),
        "scores": np.array([0.9, 0.4, 0.8, 0.7, 0.7, 0.3], np.float32),
        "masks": np.frombuffer(b"".join(counts), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, counts)], dtype=np.int64),
        "attributes": np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2),
        "image_scores": np.array([0.1, 0.2, np.nan, 0.4], np.float32),
        "meta": np.array(json.dumps(META)),
    }


def save(arrays: Arrays, path: Path) -> Path:
    """Write arrays as a predictions file."""
    with NpzWriter(path, compress=True) as writer:
        for name in arrays:
            writer.write_array(name, arrays[name])
    return path


def shard_arrays(arrays: Arrays, first: int, stop: int, number: int, plan: str = "plan") -> Arrays:
    """Images first:stop of predictions as the arrays of a shard."""
    rows = slice(*arrays["offsets"][[first, stop]].tolist())
    cuts = arrays.get("mask_offsets", np.zeros(len(arrays["scores"]) + 1, np.int64))[rows.start : rows.stop + 1]
    part: Arrays = {}
    for spec in SCHEMA:
        if spec.name not in arrays or spec.name in ("image_id", "meta"):
            continue
        if spec.name == "offsets":
            part[spec.name] = arrays["offsets"][first : stop + 1] - rows.start
        elif spec.name == "mask_offsets":
            part[spec.name] = cuts - cuts[0]
        elif spec.name == "masks":
            part[spec.name] = arrays["masks"][cuts[0] : cuts[-1]]
        else:
            part[spec.name] = arrays[spec.name][slice(first, stop) if spec.shape[0] == "I" else rows]
    meta = {"format": SHARD_FORMAT, "shard": number, "plan": plan, "images": stop - first}
    return {**part, "meta": np.array(json.dumps(meta))}


def write_shards(arrays: Arrays, cuts: list[int], folder: Path) -> list[Path]:
    """Predictions cut into shards at `cuts`, written as runners write them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (first, stop) in enumerate(pairwise(cuts)):
        paths.append(folder / f"{number:05d}.npz")
        part: Any = shard_arrays(arrays, first, stop, number)
        np.savez(paths[-1], **part)
    return paths
