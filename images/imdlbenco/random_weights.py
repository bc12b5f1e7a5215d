"""Make random checkpoints of the published architectures, in the format of upstream's trainer.

They are for tests without the published files; their masks mean nothing. Two synthetic pictures set the batch norms'
statistics and centre the last layer: otherwise a random network gives the same value everywhere, or depends on the
rounding of its sums.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
from construct import build_network, ignore_cuda_calls, post_function
from orch_runner.files import open_replacement
from sizing import Sizing
from zoo import ARCHITECTURES, Architecture

PICTURES, RECTANGLES = 2, 12
SPREAD = 2.0
"""Standard deviation of a mask's logits after centring."""
MIN_VARIANCE = 0.1
"""Lower bound of a channel's variance in its batch norm, as a share of the layer's mean. Otherwise a channel that is
almost constant on the synthetic pictures would be amplified a hundredfold on a photograph, in layer after layer."""
GAINS: Dict[str, Dict[str, float]] = {
    # Attention over thousands of positions: with random weights, the softmax would always pick a single one.
    "pscc-net": {f"SegNet.getmask{number}.theta": 1e-3 for number in (1, 2, 3, 4)},
    # Its last layers have no weights to centre; this factor makes the picture outweigh their biases.
    "span": {"outlier_trans": 1000.0},
}
"""Factors for layers."""


def write_random_weights(model_name: str, folder: str, seed: int = 0) -> str:
    """Write the model's checkpoint into `folder`; return its path."""
    import torch

    if model_name not in ARCHITECTURES:
        raise ValueError(f"unknown model {model_name!r}, known: {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[model_name]
    torch.manual_seed(seed)
    network = build_network(architecture, "cpu")
    for layer, gain in GAINS.get(model_name, {}).items():
        network.get_submodule(layer).weight.data *= gain
    with torch.no_grad(), ignore_cuda_calls("cpu"):
        fields = _make_fields(architecture, seed)
        _set_norm_statistics(network, fields)
        _centre(network, architecture, fields)
    path = Path(folder) / f"{model_name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(path) as stream:
        torch.save({"model": network.state_dict(), "epoch": 0}, stream)
    return str(path)


def draw_picture(size: int, random: np.random.Generator) -> np.ndarray:
    """Return a (size, size, 3) uint8 picture like a photograph: 1/f noise, and flat rectangles with sharp edges."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    spectrum = np.fft.rfft2(random.standard_normal((3, size, size))) / np.maximum(frequency, 1 / size)
    values = np.fft.irfft2(spectrum, (size, size))
    values = values / values.std() * 50 + 128
    for _ in range(RECTANGLES):
        (top, bottom), (left, right) = np.sort(random.integers(0, size, (2, 2)), axis=1)
        values[:, top:bottom, left:right] = random.uniform(0, 255, (3, 1, 1))
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _make_fields(architecture: Architecture, seed: int) -> Any:
    """Return two pictures as the network's fields, with zeros for the ground truth."""
    import torch

    sizing, post = Sizing(architecture.size, architecture.sizing), post_function(architecture)
    transform, random = sizing.transform(), np.random.default_rng(seed)
    records = []
    for _ in range(PICTURES):
        record = {"image": transform(image=draw_picture(architecture.size, random))["image"]}
        if post is not None:
            post(record)
        records.append(record)
    fields = torch.utils.data.default_collate(records)
    fields["mask"] = fields["edge_mask"] = torch.zeros(PICTURES, 1, architecture.size, architecture.size)
    fields["label"] = torch.zeros(PICTURES)
    return fields


def _set_norm_statistics(network: Any, fields: Any) -> None:
    """Set the batch norms' statistics by one pass in training mode; all other modules stay in eval mode."""
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
        norm.running_var.clamp_(min=MIN_VARIANCE * float(norm.running_var.mean()))
    network.eval()


def _centre(network: Any, architecture: Architecture, fields: Any) -> None:
    """Scale and shift the last layers so that the masks' logits have the median 0."""
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
