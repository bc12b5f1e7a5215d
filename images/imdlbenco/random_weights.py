"""Random checkpoints of the published architectures, in the form upstream's trainer saves.

They let the whole way be tried where the published files cannot be had. What they find means nothing. Batch norms get
statistics and the last layer is centred, by two made-up pictures: else a random network says the same everywhere, or is
so touchy that the rounding of its sums decides.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

import numpy as np
from construct import build_network, cuda_only_where, post_function
from sizing import Sizing
from zoo import ARCHITECTURES, Architecture

PICTURES, RECTANGLES = 2, 12
SPREAD = 2.0
"""Standard deviation of a mask's logits after centring."""
LEAST_VARIANCE = 0.1
"""Least of a channel's variance that its batch norm keeps, in parts of the layer's mean. A channel that the made-up
pictures hardly stir would else be blown up a hundredfold by a photograph that does, in layer after layer."""
GAINS: Dict[str, Dict[str, float]] = {
    # Attention over thousands of places: with random weights a softmax of sums so large that it only ever picks one.
    "pscc-net": {f"SegNet.getmask{number}.theta": 1e-3 for number in (1, 2, 3, 4)},
    # Its last layers are no weights, so nothing can be centred: they hear the picture above their own biases like this.
    "span": {"outlier_trans": 1000.0},
}
"""Factors for layers."""


def write_random_weights(model_name: str, folder: str, seed: int = 0) -> str:
    """Write the model's checkpoint into `folder`; the result is its path."""
    import torch

    if model_name not in ARCHITECTURES:
        raise ValueError(f"there is no model {model_name!r}, only {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[model_name]
    torch.manual_seed(seed)
    network = build_network(architecture, "cpu")
    for layer, gain in GAINS.get(model_name, {}).items():
        network.get_submodule(layer).weight.data *= gain
    with torch.no_grad(), cuda_only_where("cpu"):
        fields = _fields(architecture, seed)
        _settle_norms(network, fields)
        _centre(network, architecture, fields)
    path = Path(folder) / f"{model_name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save({"model": network.state_dict(), "epoch": 0}, aside)
    os.replace(aside, path)
    return str(path)


def picture(size: int, random: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8 as varied as a photograph: noise with a 1/f spectrum, flat and sharp-edged rectangles."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    spectrum = np.fft.rfft2(random.standard_normal((3, size, size))) / np.maximum(frequency, 1 / size)
    values = np.fft.irfft2(spectrum, (size, size))
    values = values / values.std() * 50 + 128
    for _ in range(RECTANGLES):
        (top, bottom), (left, right) = np.sort(random.integers(0, size, (2, 2)), axis=1)
        values[:, top:bottom, left:right] = random.uniform(0, 255, (3, 1, 1))
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _fields(architecture: Architecture, seed: int) -> Any:
    """Two pictures as the network's fields, with zeros for the ground truth."""
    import torch

    sizing, post = Sizing(architecture.size, architecture.sizing), post_function(architecture)
    transform, random = sizing.transform(), np.random.default_rng(seed)
    records = []
    for _ in range(PICTURES):
        record = {"image": transform(image=picture(architecture.size, random))["image"]}
        if post is not None:
            post(record)
        records.append(record)
    fields = torch.utils.data.default_collate(records)
    fields["mask"] = fields["edge_mask"] = torch.zeros(PICTURES, 1, architecture.size, architecture.size)
    fields["label"] = torch.zeros(PICTURES)
    return fields


def _settle_norms(network: Any, fields: Any) -> None:
    """One pass with the batch norms in training, which then keep these statistics; all else in eval mode."""
    import torch

    network.eval()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    network(**fields)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.running_var.clamp_(min=LEAST_VARIANCE * float(norm.running_var.mean()))
    network.eval()


def _centre(network: Any, architecture: Architecture, fields: Any) -> None:
    """Scale and shift the last layers so that the masks' logits have their median at 0."""
    import torch

    if not architecture.last:
        return
    probability = network(**fields)["pred_mask"].double().clamp(1e-12, 1 - 1e-12)
    logits = torch.log(probability / (1 - probability))
    middle, gain = float(logits.median()), SPREAD / max(float(logits.std()), 1e-6)
    layers = dict(network.named_modules())
    for name in architecture.last:
        layers[name].weight.data *= gain
        layers[name].bias.data *= gain
        layers[name].bias.data[-1] -= middle * gain
