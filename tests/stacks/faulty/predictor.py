"""faulty: bright regions by numpy, with settings that make the process misbehave."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from orch_runner.predictor import CropMask, Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor

DEFAULTS = {"sleep": 0.0, "fail_load": False, "die": "", "die_once": "", "hang": "", "report": "", "misdeed": ""}


class Predictor(BasePredictor):
    max_batch = 4

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        level = int(np.random.default_rng(seed).integers(100, 150))
        (Path(folder) / "level.json").write_text(json.dumps(level))

    def load(self, model: Model, device: str) -> None:
        self.settings, self.cache, self.level = {**DEFAULTS, **model.settings}, Path(model.cache), 200
        self.per_pixel = model.name == "faulty-forged"
        if "level" in model.weights:
            self.level = int(Path(model.weights["level"]).read_text())
        if self.settings["fail_load"]:
            raise RuntimeError("asked to fail")
        if self.settings["report"]:
            (self.cache / self.settings["report"]).write_text(json.dumps(facts()))

    def predict(self, images: List[Image]) -> List[Any]:
        for image in images:
            self._misbehave(image.file)
        if self.per_pixel:
            return [image.pixels.max(axis=2).astype(np.float32) / 255 for image in images]
        return [image.pixels.max(axis=2) > self.level for image in images]

    def _misbehave(self, file: str) -> None:
        if self.settings["misdeed"]:
            MISDEEDS[self.settings["misdeed"]](self.cache)
        time.sleep(self.settings["sleep"])
        if self.settings["hang"] and self.settings["hang"] in file:
            time.sleep(3600)
        if self.settings["die"] and self.settings["die"] in file:
            os._exit(17)
        marker = self.cache / "died-once"
        if self.settings["die_once"] and self.settings["die_once"] in file and not marker.exists():
            marker.touch()
            os._exit(17)

    def finish(self, raw: Any, image: Image) -> Prediction:
        if self.per_pixel:
            canvas = raw[:32, :32] / 3 if self.settings.get("keep_canvas") else None
            return Prediction(probability=raw, image_score=float(raw.mean()), canvas=canvas)
        rows, columns = np.flatnonzero(raw.any(axis=1)), np.flatnonzero(raw.any(axis=0))
        if not len(rows):
            return Prediction(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), [])
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        crop = raw[top:bottom, left:right]
        box = np.array([[left, top, right, bottom]], np.float32)
        return Prediction(box, np.array([0]), np.array([crop.mean()], np.float32), [CropMask(left, top, crop)])


def plant(cache: Path) -> None:
    """Leave a program that runs as its owner, whoever starts it, in all folders that can be written."""
    for folder in (cache, Path("/out")):
        copy = folder / "planted"
        shutil.copyfile("/usr/bin/id", str(copy))
        copy.chmod(0o4755)


def fill_memory(cache: Path) -> None:
    np.ones(1 << 30, np.uint8).sum()


def write_large_file(cache: Path) -> None:
    with (cache / "large").open("wb") as stream:
        for _ in range(80):
            stream.write(bytes(1 << 20))


def fill_out(cache: Path) -> None:
    for number in range(8):
        Path(f"/out/filling-{number}").write_bytes(bytes(10 << 20))
    time.sleep(20)


def fill_shared_memory(cache: Path) -> None:
    with open("/dev/shm/filling", "w+b") as file:
        file.truncate(2 << 30)
        mapped = mmap.mmap(file.fileno(), 2 << 30)
        for start in range(0, 2 << 30, 1 << 20):
            mapped[start : start + (1 << 20)] = bytes(1 << 20)


def start_threads(cache: Path) -> None:
    go_on = threading.Event()
    try:
        for _ in range(300):
            threading.Thread(target=go_on.wait, daemon=True).start()
    finally:
        go_on.set()


MISDEEDS = {
    "plant": plant,
    "fill-memory": fill_memory,
    "write-large-file": write_large_file,
    "fill-out": fill_out,
    "fill-shared-memory": fill_shared_memory,
    "start-threads": start_threads,
}


def facts() -> Dict[str, Any]:
    """What the process can see and do: for tests of the isolation."""
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "home": os.environ.get("HOME"),
        "capabilities": _status("CapEff"),
        "no_new_privileges": _status("NoNewPrivs"),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "root_writable": _writable("/orch-probe"),
        "data_writable": _writable("/data/0/orch-probe"),
        "job_writable": _writable("/job/orch-probe"),
        "tmp_writable": _writable("/tmp/orch-probe"),
        "omp_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((line.split()[1] for line in lines if line.startswith(f"{field}:")), "")


def _writable(path: str) -> bool:
    try:
        Path(path).write_text("x")
    except OSError:
        return False
    os.unlink(path)
    return True
