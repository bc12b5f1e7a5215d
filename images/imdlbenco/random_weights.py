"""Random checkpoints of the published architectures, in the form upstream's trainer saves.

They let the whole way be tried where the published files cannot be had. What they find means nothing. Batch norms get
statistics and the last layer is centred, by two made-up pictures: else a random network says the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from construct import build_network, cuda_only_where, post_function
from sizing import Sizing
from zoo import ARCHITECTURES, Architecture

PICTURES = 2
SPREAD = 2.0
"""Standard deviation of a mask's logits after centring."""
LOUDER = {"span": ("outlier_trans", 1000.0)}
"""SPAN's last layers are no weights, so nothing can be centred: they hear the picture above their own biases if this
layer speaks up."""


def write_random_weights(model_name: str, folder: str, seed: int = 0) -> str:
    """Write the model's checkpoint into `folder`; the result is its path."""
    import torch

    if model_name not in ARCHITECTURES:
        raise ValueError(f"there is no model {model_name!r}, only {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[model_name]
    torch.manual_seed(seed)
    network = build_network(architecture, "cpu")
    with torch.no_grad(), cuda_only_where("cpu"):
        fields = _fields(architecture, seed)
        _settle_norms(network, fields)
        _centre(network, architecture, fields)
    for layer, gain in filter(None, [LOUDER.get(model_name)]):
        network.get_submodule(layer).weight.data *= gain
    path = Path(folder) / f"{model_name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save({"model": network.state_dict(), "epoch": 0}, aside)
    os.replace(aside, path)
    return str(path)


def picture(size: int, random: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8 that is as smooth and as varied as a photograph: noise with a 1/f spectrum."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    spectrum = np.fft.rfft2(random.standard_normal((3, size, size))) / np.maximum(frequency, 1 / size)
    values = np.fft.irfft2(spectrum, (size, size))
    values = values / values.std() * 50 + 128
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
