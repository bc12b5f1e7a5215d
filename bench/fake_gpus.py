"""GPUs that are none: a stand-in for nvidia-smi, a stack whose predictor sleeps on them, and images that tell how long.

What is real: the plan, leases, dispatch, workers in processes of their own, collecting. What is not: any kernel.
"""

from __future__ import annotations

import random
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.catalog.scaffold import create_stack

STACK = "sleepy"
MODEL = f"{STACK}-example"
_SMI = """#!{python}
import sys
fields = next((one.partition("=")[2] for one in sys.argv if one.startswith("--query-gpu=")), "").split(",")
for index in range({count} if fields != [""] else 0):
    known = {{"index": index, "uuid": f"GPU-fake-{{index}}", "name": "Fake GPU", "memory.total": 16384,
             "memory.free": 16000, "compute_cap": "8.0", "driver_version": "550.54.14"}}
    print(", ".join(str(known.get(field, "")) for field in fields))
"""
_SETTINGS = """
      scale: {default: 1.0, minimum: 0, help: the milliseconds in an image's name times this}
      lose: {default: "", help: the GPU that is lost once it has predicted an image}
"""
_PREDICTOR = '''"""sleepy on GPUs that are none: sleeps as long as an image's name says; a GPU may fall off the bus."""

import os
import time
from pathlib import Path

import numpy as np
from orch_runner.contract import Fatal
from orch_runner.predictor import CropMask, Prediction
from orch_runner.predictor import Predictor as BasePredictor


class Predictor(BasePredictor):
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def probe(self):
        if not self.gpu.startswith("GPU-fake-"):
            raise Fatal("device", 4, f"shown {self.gpu!r}, not one GPU")
        return self.gpu

    def load(self, model, device):
        self.lost, self.settings = Path(model.cache) / f"lost-{self.gpu}", model.settings
        if self.lost.exists():
            raise Fatal("device", 4, "CUDA error: no device, it has fallen off the bus")
        with (Path(model.cache) / "used").open("a") as used:
            used.write(self.gpu + "\\n")

    def predict(self, images):
        for image in images:
            time.sleep(int(Path(image.file).stem.partition("-")[2]) * self.settings["scale"] / 1000)
        if self.gpu and self.gpu == self.settings["lose"]:
            self.lost.touch()
            raise RuntimeError("CUDA error: it has fallen off the bus")
        return [image.pixels.max(axis=2) > self.settings["threshold"] for image in images]

    def finish(self, raw, image):
        if not raw.any():
            return Prediction(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), [])
        box = np.array([[0, 0, raw.shape[1], raw.shape[0]]], np.float32)
        return Prediction(box, np.array([0]), np.array([raw.mean()], np.float32), [CropMask(0, 0, raw)])
'''


def write_nvidia_smi(folder: Path, gpus: int) -> Path:
    """A folder for the PATH, with an nvidia-smi that lists so many GPUs: GPU-fake-0, …"""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "nvidia-smi"
    command.write_text(_SMI.format(python=sys.executable, count=gpus))
    command.chmod(command.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return folder


def write_sleepy_stack(parent: Path) -> Path:
    """The skeleton of `orch new stack` with a variant for GPUs and the sleeping predictor; gives `parent`."""
    folder = create_stack(STACK, parent)
    spec = (folder / "stack.yaml").read_text()
    cpu = spec[spec.index("  cpu:\n") : spec.index("taxonomies:")].rstrip() + "\n"
    cuda = cpu.replace("  cpu:\n", "  cuda:\n").replace("device: cpu", 'device: cuda\n    cuda: "12.1"')
    spec = spec.replace("taxonomies:", f"{cuda}\ntaxonomies:").replace("    settings:\n", f"    settings:{_SETTINGS}")
    (folder / "stack.yaml").write_text(spec)
    (folder / "predictor.py").write_text(_PREDICTOR)
    return parent


def uneven_costs(count: int, mean: float, seed: int = 0) -> list[int]:
    """Milliseconds an image takes: log-normal, the dearest one some ten times the mean, neighbours alike."""
    chance = random.Random(seed)
    drawn = sorted(chance.lognormvariate(0, 0.8) for _ in range(count))
    together = [drawn[place : place + 20] for place in range(0, count, 20)]
    chance.shuffle(together)  # like folders of large and of small pictures
    scale = mean * count / sum(drawn)
    return [max(1, round(cost * scale)) for group in together for cost in group]


def write_images(folder: Path, costs: Iterable[int], seed: int = 0) -> Path:
    """One noisy image per cost, larger where it is dearer, but not strictly so."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for number, cost in enumerate(costs):
        side = max(4, int(4 * (cost * chance.lognormal(0, 0.3)) ** 0.5))
        pixels = chance.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}-{cost}.png")
    return folder
