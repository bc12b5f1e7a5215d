"""What the host tells a worker, compared whole; the reference is the docstring of orch_runner.__main__."""

from __future__ import annotations

from pathlib import PurePosixPath

from orchestrator.inputs.collect import InputImage
from orchestrator.runtimes.guest_contract import (
    ALIVE_TIMEOUT,
    CONTRACT,
    PART_EVERY,
    GuestPaths,
    ShardOrder,
    WorkerSettings,
    job_document,
)

SETTINGS = WorkerSettings(
    run="run1", plan="plan1", predictor="predictor.py:P", model="m", task="instance-segmentation",
    settings={"grey": 200}, config=None, weights={"onnx": {"file": "w", "sha256": None, "package": None}},
    native={"box_order": "xyxy", "class_base": 0, "class_map": [1]}, device="cpu", exif="apply", score_threshold=0.05,
    max_detections=None, max_pixels=250, batch_size=2, threads=3, readers=4, attributes=0, image_scores=False,
)  # fmt: skip
PATHS = GuestPaths(
    *(PurePosixPath(f"/{name}") for name in ("data", "weights", "out", "cache", "job/queue", "stack")),
    sources={"up": PurePosixPath("/sources/up")},
)


def test_the_job_document() -> None:
    assert job_document(SETTINGS, "w0-1", PATHS) == {
        "contract": CONTRACT, "worker": "w0-1", "run": "run1", "plan": "plan1", "predictor": "predictor.py:P",
        "model": {"name": "m", "task": "instance-segmentation", "settings": {"grey": 200}, "config": None,
                  "weights": {"onnx": {"file": "w", "sha256": None, "package": None}}},
        "native": {"box_order": "xyxy", "class_base": 0, "class_map": [1]},
        "device": "cpu", "exif": "apply", "score_threshold": 0.05, "max_detections": None, "max_pixels": 250,
        "batch_size": 2, "threads": 3, "readers": 4, "attributes": 0, "image_scores": False,
        "alive_timeout": ALIVE_TIMEOUT,
        "part_every": PART_EVERY,
        "paths": {"data": "/data", "weights": "/weights", "out": "/out", "cache": "/cache", "queue": "/job/queue",
                  "stack": "/stack", "sources": {"up": "/sources/up"}},
    }  # fmt: skip


def test_a_shard_document_skips_what_is_known_to_be_unreadable() -> None:
    images = [
        InputImage(4, "a.jpg", "0/a.jpg", 5, 1, 1),
        InputImage(5, "b.jpg", "", 6, 0, 0, "no such file"),
        InputImage(6, "c.jpg", "0/c.jpg", 7, 1, 1),
    ]
    assert ShardOrder(2, images, {6: "died"}, True, frozenset({6, 4})).document() == {
        "shard": 2,
        "images": [
            {"index": 4, "file": "a.jpg", "path": "0/a.jpg"},
            {"index": 5, "file": "b.jpg", "path": ""},
            {"index": 6, "file": "c.jpg", "path": "0/c.jpg"},
        ],
        "skip": {"5": "no such file", "6": "died"},
        "careful": True,
        "alone": [4, 6],
    }
