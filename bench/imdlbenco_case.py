"""One case of bench/imdlbenco.py, in a process of its own inside the stack's environment; prints one JSON object.

Usage: python imdlbenco_case.py RUNNER_FOLDER STACK_FOLDER LISTING.json OUT CASE [MODEL CHECKPOINT]
CASE: upstream (the package's data set, loader and inference_and_save_one_epoch) or ours (this project's decoding,
predictor and writing). LISTING has [[image, mask or "Negative"], …], as upstream's JsonDataset wants it. Without a
model the network is a stand-in that gives one mask at once: what is left is the work around a forward pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np

BATCH = 2
STAND_IN_SIZE, STAND_IN_FOR = 512, "mesorch"
"""Resized to 512 pixels, as the published recipe does with MVSS-Net."""
EDGE_WIDTH = 7
"""As in the published recipe."""


def stand_in() -> Any:
    """A network that has always made up its mind: a blob like that of a trained one."""
    import torch  # type: ignore[import-not-found]

    class StandIn(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            rows, columns = np.mgrid[:STAND_IN_SIZE, :STAND_IN_SIZE].astype(np.float32) / STAND_IN_SIZE - 0.5
            blob = 1 / (1 + np.exp(200 * (rows**2 + 2 * columns**2 - 0.06)))
            self.mask = torch.from_numpy(blob)[None, None]

        def forward(self, image: Any, **_: Any) -> dict[str, Any]:
            count = len(image)
            return {"pred_mask": self.mask.expand(count, -1, -1, -1), "pred_label": torch.full((count,), 0.75)}

    return StandIn()


def real(model: str, checkpoint: str) -> Any:
    """Upstream's network with a checkpoint's weights."""
    import torch
    from construct import build_network  # type: ignore[import-not-found]
    from zoo import ARCHITECTURES  # type: ignore[import-not-found]

    network = build_network(ARCHITECTURES[model], "cpu")
    network.load_state_dict(torch.load(checkpoint, map_location="cpu")["model"], strict=True)
    return network


def upstream(listing: str, out: str, network: Any, size: int, rule: str) -> None:
    """Upstream's own script from its data set to its files; only torchrun is left out."""
    from torch.utils.data import DataLoader  # type: ignore[import-not-found]

    # The script imports all of its package's evaluation, with dependencies that inference does not need.
    for name in ("image", "model_targets", "svd_on_activations"):
        sys.modules[f"pytorch_grad_cam.utils.{name}"] = MagicMock()
    for name in ("pytorch_grad_cam", "pytorch_grad_cam.utils", "ttach"):
        sys.modules[name] = MagicMock()
    from IMDLBenCo.datasets import JsonDataset  # type: ignore[import-not-found]
    from IMDLBenCo.training_scripts.tester import inference_and_save_one_epoch  # type: ignore[import-not-found]

    options = SimpleNamespace(
        no_model_eval=False, if_padding=rule == "pad", if_resizing=rule == "resize", output_dir=out, distributed=False
    )
    data = JsonDataset(
        listing,
        is_padding=options.if_padding,
        is_resizing=options.if_resizing,
        output_size=(size, size),
        common_transforms=None,
        edge_width=EDGE_WIDTH,
    )
    loader = DataLoader(data, batch_size=BATCH, shuffle=False, drop_last=False)
    inference_and_save_one_epoch(network, loader, "cpu", args=options)


def ours(listing: str, out: str, network: Any) -> None:
    """What this project's runner does to every image, without its threads; the network is given."""
    from orch_runner import probability
    from orch_runner.contract import NativeFormat
    from orch_runner.decode import decode
    from orch_runner.predictor import Image, Model
    from orch_runner.shard_rows import make_row
    from predictor import Predictor  # type: ignore[import-not-found]

    predictor = Predictor()
    predictor.prepare(Model(STAND_IN_FOR, {}, {}, 1), "cpu")
    predictor.use(network)
    job: Any = SimpleNamespace(
        settings={}, native=NativeFormat("xyxy", 0, (0,)), out=Path(out), worker="0", score_threshold=None,
        max_detections=None, attributes=0, image_scores=True,
    )  # fmt: skip
    paths = [Path(record[0]) for record in json.loads(Path(listing).read_text())]
    for start in range(0, len(paths), BATCH):
        pixels = [decode(path, "pillow", "RGB", "apply", 10**8) for path in paths[start : start + BATCH]]
        images = [Image(path.name, array) for path, array in zip(paths[start : start + BATCH], pixels, strict=True)]
        for number, (image, raw) in enumerate(zip(images, predictor.predict(images), strict=True), start):
            height, width = image.pixels.shape[:2]
            prediction = predictor.finish(raw, image)
            values = probability.check_probability(prediction.probability, height, width)
            prediction = probability.make_instance(job, prediction, values)
            probability.write_picture(job, 0, number, values)
            make_row(job, image.file, (height, width), prediction)


def main(runner: str, stack: str, listing: str, out: str, case: str, model: str = "", checkpoint: str = "") -> None:
    """Run the case twice where it is timed: the first warms up."""
    sys.path[:0] = [runner, stack]
    import torch

    torch.set_num_threads(1)
    from zoo import ARCHITECTURES

    network = real(model, checkpoint) if model else stand_in()
    architecture = ARCHITECTURES[model or STAND_IN_FOR]
    images = len(json.loads(Path(listing).read_text()))
    seconds: list[float] = []
    with contextlib.redirect_stdout(Path(os.devnull).open("w")):
        for _ in range(1 if model else 2):
            started = time.process_time()
            if case == "upstream":
                upstream(listing, out, network, architecture.size, architecture.sizing)
            else:
                ours(listing, out, network)
            seconds.append(time.process_time() - started)
    print(json.dumps({"images": images, "milliseconds": 1000 * min(seconds) / images}))


if __name__ == "__main__":
    main(*sys.argv[1:])
