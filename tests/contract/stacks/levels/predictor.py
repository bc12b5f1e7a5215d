"""A stack for tests: every grey level above zero of an image is an instance. Settings make it misbehave on demand."""

# ruff: noqa: UP006, UP035, UP045, I001  (it runs under Python 3.8)

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from pycocotools import mask as coco_mask

from orch_runner.predictor import CropMask, Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor


def per_pixel(pixels: np.ndarray, file: str) -> Optional[np.ndarray]:
    """The red channel as a probability, spoilt as the file's name says."""
    values = pixels[:, :, 0].astype(np.float32) / 255
    if file == "none.png":
        return None
    return values[::2] if file == "shape.png" else values + (file == "range.png")


def make_noise() -> None:
    """Print as libraries do: from Python, from C, and from a child process."""
    print("noise from Python")
    os.write(1, b"noise from C\n")


class Predictor(BasePredictor):
    color = os.environ.get("LEVELS_COLOR", "RGB")
    decoder = os.environ.get("LEVELS_DECODER", "pillow")
    max_batch = 4

    def load(self, model: Model, device: str) -> None:
        self.settings, self.cache = model.settings, Path(model.cache)
        make_noise()
        os.system("echo noise from a child")
        (self.cache / "loading").touch()
        how = self.settings.get("load")
        if how == "raise":
            raise RuntimeError("no such layer: backbone.stem")
        if how == "crowded" and not (self.cache / "crowded").exists():
            (self.cache / "crowded").touch()
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if how == "exit":
            raise SystemExit("upstream gave up")
        if how == "sleep":
            time.sleep(60)
        if how == "weights":
            (self.cache / "weights.json").write_text(json.dumps(model.weights))

    def predict(self, images: List[Image]) -> List[Any]:
        make_noise()
        with (self.cache / "batches.jsonl").open("a") as stream:
            stream.write(json.dumps([image.file for image in images]) + "\n")
        if self.settings.get("wait_at") in [image.file for image in images]:
            (self.cache / "waiting").touch()
            while not (self.cache / "go").exists():
                time.sleep(0.01)
        time.sleep(self.settings.get("seconds", 0))
        if len(images) > self.settings.get("memory", 99):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        for image in images:
            fault(self.settings.get("predict", {}).get(image.file))
        if self.settings.get("short") and len(images) > 1:
            return []
        return [image.pixels for image in images]

    def finish(self, raw: Any, image: Image) -> Prediction:
        fault(self.settings.get("finish", {}).get(image.file))
        if self.settings.get("dump"):
            np.save(self.cache / (image.file.replace("/", "_") + ".npy"), raw)
        if self.settings.get("probability"):
            return Prediction(probability=per_pixel(raw, image.file), image_score=0.25)
        form = self.settings.get("masks", "full")
        form = image.file.split(".")[0] if form == "as named" else form
        prediction = self.instances(raw[:, :, 0], form)
        spoil: Optional[Callable[[Prediction], Any]] = SPOILERS.get(self.settings.get("spoil", {}).get(image.file))
        if spoil is not None:
            spoil(prediction)
        return prediction

    def instances(self, grey: np.ndarray, form: str) -> Prediction:
        levels = [int(level) for level in np.unique(grey) if level > 0]
        boxes = []
        for level in levels:
            rows, columns = np.nonzero(grey == level)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes.append([box[i] for i in (1, 0, 3, 2)] if self.settings.get("order") == "yxyx" else box)
        base = self.settings.get("class_base", 0)
        scores = [self.settings.get("score", level / 255) for level in levels]
        prediction = Prediction(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.array([base + level % 3 for level in levels], np.int64),
            scores=np.array(scores, np.float64),
            masks=FORMS[form](grey, levels),
        )
        if self.settings.get("extras"):
            prediction.attributes = np.array([[level / 255, 1 - level / 255] for level in levels]).reshape(-1, 2)
            prediction.image_score = max(levels, default=0) / 255
        return prediction


def fault(kind: Optional[str]) -> None:
    """Go wrong in the way named."""
    if kind == "raise":
        raise ValueError("cannot\nbroadcast")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "die":
        os._exit(7)
    if kind == "device":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def crops(grey: np.ndarray, levels: List[int]) -> List[CropMask]:
    return [CropMask(0, 0, grey == level) for level in levels]


def encoded(grey: np.ndarray, levels: List[int]) -> List[Dict[str, Any]]:
    return [coco_mask.encode(np.asfortranarray(grey == level)) for level in levels]


FORMS: Dict[str, Callable[[np.ndarray, List[int]], Any]] = {
    "full": lambda grey, levels: np.array([grey == level for level in levels], bool).reshape(-1, *grey.shape),
    "crop": crops,
    "rle": encoded,
    "none": lambda grey, levels: None,
}


def set_field(name: str, change: Callable[[Any], Any]) -> Callable[[Prediction], None]:
    return lambda prediction: setattr(prediction, name, change(getattr(prediction, name)))


SPOILERS: Dict[Optional[str], Callable[[Prediction], Any]] = {
    "boxes of another shape": set_field("boxes", lambda boxes: boxes.T),
    "NaN in boxes": set_field("boxes", lambda boxes: boxes * np.nan),
    "a class outside": set_field("classes", lambda classes: classes + 3),
    "classes that are fractions": set_field("classes", lambda classes: classes + 0.5),
    "scores over one": set_field("scores", lambda scores: scores + 1),
    "NaN in scores": set_field("scores", lambda scores: scores * np.nan),
    "scores in two dimensions": set_field("scores", lambda scores: scores[None]),
    "masks of another size": set_field("masks", lambda masks: masks[:, 1:]),
    "masks of probabilities": set_field("masks", lambda masks: masks * 0.5),
    "too few masks": set_field("masks", lambda masks: masks[1:]),
}
