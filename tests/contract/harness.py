"""Starts the runner as the process it is, with a job and a queue in a folder, and collects what it says and leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
RUNNER = REPOSITORY / "images" / "runner"
STACK = Path(__file__).parent / "stacks" / "levels"
PATIENCE_SECONDS = 60

# For tests of what may differ between Pythons and the libraries that go with them; the others run under one.
every_python = pytest.mark.parametrize("python", ["own", "3.8"], indirect=True)

Arrays = dict[str, np.ndarray]
Event = dict[str, Any]


@dataclass
class Outcome:
    """What a runner that has ended left behind: its exit status, its events and its log."""

    status: int
    events: list[Event]
    log: str

    def named(self, name: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == name]

    def one(self, name: str) -> Event:
        """The only event of one kind."""
        (event,) = self.named(name)
        return event

    @property
    def errors(self) -> dict[str, str]:
        """Why each failed image failed."""
        return {event["file"]: event["error"] for event in self.named("image_failed")}

    @property
    def story(self) -> list[str]:
        """The names of the events in order, without those that depend on the clock."""
        return [event["event"] for event in self.events if event["event"] not in ("heartbeat", "progress")]


class Running:
    """A runner at work. Whatever it prints on stdout must be events."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, env=environment)
        self._watchdog = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        self._watchdog.start()
        self.events: list[Event] = []

    def until(self, name: str, times: int = 1) -> None:
        """Read events until one of that kind came so many times."""
        while sum(event["event"] == name for event in self.events) < times:
            assert self._read(), f"ended without {name}: {self._log.read_text()}"

    def terminate(self) -> Outcome:
        """Send SIGTERM and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> Outcome:
        """Wait for the end."""
        while self._read():
            pass
        status = self.process.wait()
        self.close()
        numbers = [event["seq"] for event in self.events]
        assert numbers == list(range(1, len(numbers) + 1))
        assert all(isinstance(event["time"], float) for event in self.events)
        return Outcome(status, self.events, self._log.read_text())

    def close(self) -> None:
        """Leave nothing running or open."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> bool:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            self.events.append(json.loads(line))
        return bool(line)


@dataclass
class Guest:
    """The folders of one job, as a host would lay them out."""

    python: str
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("data", "weights", "out", "cache", "queue"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def save(self, file: str, image: np.ndarray | Image.Image, **options: Any) -> str:
        """Put an image among the inputs."""
        path = self.root / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
        return file

    def put(
        self,
        number: int,
        files: Sequence[str],
        skip: Mapping[int, str] | None = None,
        careful: bool = False,
        alone: Sequence[int] = (),
        **changes: Any,
    ) -> None:
        """Hand over a shard; its images are numbered from 100 x its number. `changes`: fields of each image."""
        images = [
            {"index": 100 * number + at, "file": file, "path": file, "size": None, "mtime_ns": None, **changes}
            for at, file in enumerate(files)
        ]
        order = {"shard": number, "images": images, "skip": skip or {}, "careful": careful, "alone": list(alone)}
        aside = self.root / "queue" / "order.tmp"
        aside.write_text(json.dumps(order))
        aside.replace(self.root / "queue" / f"{number:05d}.json")

    def end(self) -> None:
        """Say that nothing more will come."""
        (self.root / "queue" / "end").touch()

    def job(self, settings: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """A job with all fields; `changes` replace some."""
        names = ("data", "weights", "out", "cache", "queue")
        job: dict[str, Any] = {
            "contract": "orch-job/2",
            "run": "run",
            "worker": "w0",
            "plan": "sha256:1",
            "predictor": "predictor.py:Predictor",
            "model": {
                "name": "levels",
                "task": "instance-segmentation",
                "settings": settings,
                "config": None,
                "weights": {},
            },
            "native": {"box_order": "xyxy", "class_base": 0, "class_map": [5, 6, 7]},
            "device": "cpu",
            "exif": "apply",
            "score_threshold": None,
            "max_detections": None,
            "max_pixels": 1_000_000,
            "batch_size": 4,
            "threads": 1,
            "readers": 2,
            "attributes": 0,
            "image_scores": False,
            "masks": True,
            "pixels": None,
            "alive_timeout": 60,
            "part_every": 600,
            "max_file_bytes": 1 << 20,
            "decode_timeout": 30,
            "paths": {**{name: str(self.root / name) for name in names}, "stack": str(STACK), "sources": {}},
        }
        return {**job, **changes}

    def start(self, settings: Mapping[str, Any] | None = None, **changes: Any) -> Running:
        """Start a runner on a job made of `settings` and `changes`."""
        return self.start_raw(json.dumps(self.job(settings or {}, **changes)))

    def start_raw(self, job: str) -> Running:
        """Start a runner on this text as its job.json."""
        path = self.root / "job.json"
        path.write_text(job)
        environment = {**os.environ, "PYTHONPATH": str(RUNNER), "PYTHONWARNINGS": "default", **self.environment}
        command = [self.python, "-m", "orch_runner", str(path)]
        self.started.append(Running(command, environment, self.root / "log.txt"))
        return self.started[-1]

    def run(self, settings: Mapping[str, Any] | None = None, **changes: Any) -> Outcome:
        """Say that the queue is complete, run to the end, and check that nothing half-written is left."""
        self.end()
        outcome = self.start(settings, **changes).wait()
        assert not [path.name for path in (self.root / "out").glob(".*")]
        return outcome

    def shard(self, number: int, part: bool = False) -> Arrays:
        """The arrays of a shard file."""
        name = f"{number:05d}{'.part' if part else ''}.npz"
        with np.load(self.root / "out" / name, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}

    @property
    def outputs(self) -> list[str]:
        """The names of all files in the out folder."""
        return sorted(path.name for path in (self.root / "out").iterdir())

    @property
    def batches(self) -> list[list[str]]:
        """What predict() was called with, in order."""
        path = self.root / "cache" / "batches.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def levels(*values: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """An RGB image with a vertical bar of each value, one pixel apart, on black."""
    pixels = np.zeros((*size, 3), np.uint8)
    for at, value in enumerate(values):
        pixels[1 : size[0] - at, 2 * at + 1] = value
    return pixels
