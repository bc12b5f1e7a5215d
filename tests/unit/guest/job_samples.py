"""A job as orch_runner.contract reads it, with all fields, in a folder of a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orch_runner.contract import RunnerJob, read_job

FOLDERS = ("data", "weights", "out", "cache", "queue", "stack")


def make_job(folder: Path, settings: dict[str, Any] | None = None, **changes: Any) -> RunnerJob:
    """Write job.json and make its folders; `changes` replace top-level fields."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    document = {
        "contract": "orch-job/2",
        "run": "run",
        "worker": "w0",
        "plan": "sha256:1",
        "predictor": "predictor.py:Predictor",
        "model": {"name": "m", "task": "x", "settings": settings or {}, "config": None, "weights": {}},
        "native": {"box_order": "xyxy", "class_base": 0, "class_map": [5, 6, 7]},
        "device": "cpu",
        "exif": "apply",
        "score_threshold": None,
        "max_detections": None,
        "max_pixels": 1_000_000,
        "max_file_bytes": 1 << 20,
        "decode_timeout": 60.0,
        "batch_size": 4,
        "threads": 1,
        "readers": 2,
        "attributes": 0,
        "image_scores": False,
        "masks": True,
        "pixels": None,
        "alive_timeout": 60,
        "part_every": 600,
        "paths": {**{name: str(folder / name) for name in FOLDERS}, "sources": {}},
        **changes,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(document))
    return read_job(path)


def put_shard(folder: Path, number: int, files: tuple[str, ...] = ("a.png",), careful: bool = False) -> None:
    """Write a shard into the queue."""
    images = [
        {"index": index, "file": file, "path": file, "size": None, "mtime_ns": None} for index, file in enumerate(files)
    ]
    order = {"shard": number, "images": images, "skip": {}, "careful": careful, "alone": []}
    (folder / "queue" / f"{number:05d}.json").write_text(json.dumps(order))
