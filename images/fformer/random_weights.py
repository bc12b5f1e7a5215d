"""Make random weights of the published architectures, for tests without the published files.

Their detections mean nothing. The values come from numpy, name by name, so they do not depend on torch's version.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, List, Mapping, Tuple

import numpy as np
import torch
from orch_runner.files import open_replacement
from torch.nn import functional

FILES: Mapping[str, str] = {
    "fformer-swin": "fashionformer_swin_b_3x.pth",
    "fformer-r50-fpn": "fashionformer_r50_3x.pth",
}
"""The name of each model's weights file, as in stack.yaml."""

# In an untrained network, each residual block would double the spread of its input.
BLOCK_ENDS = (".bn3.weight", ".attn.w_msa.proj.weight", ".ffn.layers.1.weight", "attention.attn.out_proj.weight")
BLOCK_GAIN = 0.25
SHARED = (".kernel_update_conv.norm_out.weight",)
SHARED_GAIN = 0.1
"""Weight of the image features in the proposals; random filters give similar features everywhere."""
CLASS_MEAN, CLASS_SPREAD = -6.0, 1.2
"""Mean and deviation of the class logits: a few dozen of the best hundred exceed the published floor of 0.05."""
PROPOSAL_SPREAD = 1e4
"""Deviation of the first kernels; smaller ones would be dominated by the mask features added to them."""
MASK_SHIFT = 1.0
"""Threshold of masks in deviations of their logits: a sixth of the pixels are inside."""
SIDE = 256
"""Side in pixels of the picture that `balance` uses."""


def write_random_weights(network: Any, model: str, folder: str, seed: int = 0) -> str:
    """Write the model's weights file into `folder`, equal values for equal seeds; return its path."""
    if model not in FILES:
        raise ValueError(f"unknown model {model!r}, known: {', '.join(FILES)}")
    network.load_state_dict({name: _make_values(name, tensor, seed) for name, tensor in network.state_dict().items()})
    balance(network, seed)
    path = Path(folder) / FILES[model]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(path) as stream:
        torch.save({"meta": {"random": True}, "state_dict": network.state_dict()}, stream)
    return str(path)


def _make_values(name: str, tensor: Any, seed: int) -> Any:
    """Return the values of one tensor: constants for normalization and biases, else He's initialization."""
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        return tensor.clone()  # counters, and tables of positions
    if len(shape) == 1:
        return torch.from_numpy(np.full(shape, _choose_constant(name), np.float32))
    random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = random.standard_normal(shape, np.float32)
    return torch.from_numpy(values * np.float32(_choose_spread(name, shape)))


def _choose_constant(name: str) -> float:
    if name.endswith(BLOCK_ENDS):
        return BLOCK_GAIN
    if name.endswith(SHARED):
        return SHARED_GAIN
    return 1.0 if name.endswith((".weight", ".running_var")) else 0.0


def _choose_spread(name: str, shape: Tuple[int, ...]) -> float:
    """Return the standard deviation of a weight's values."""
    if name.endswith("attr_kernels.weight"):
        return 1.0
    if name == "rpn_head.init_kernels.weight":
        return PROPOSAL_SPREAD
    if name.endswith("relative_position_bias_table"):
        return 0.02
    return float((BLOCK_GAIN if name.endswith(BLOCK_ENDS) else 1.0) * np.sqrt(2 / np.prod(shape[1:])))


def balance(network: Any, seed: int) -> None:
    """Run the network on a random picture, and remove the common part of its masks and classes.

    Otherwise all masks would cover the whole image, and all proposals would have one class. The features keep their
    common part: without it, they would depend on single pixels at the edges of masks, and so on rounding.
    """
    last = network.roi_head.mask_head[-1]
    hooks = [network.rpn_head.init_kernels.register_forward_pre_hook(_ignore_mean)]
    for head in network.roi_head.mask_head:
        hooks += _let_masks_ignore_mean(head)
    hooks.append(last.fc_cls.register_forward_hook(_spread_classes))
    logits: List[Any] = []
    hooks.append(last.register_forward_hook(lambda module, given, output: logits.append(output[2])))
    random = np.random.Generator(np.random.PCG64(seed))
    coarse = torch.from_numpy(random.standard_normal((1, 3, SIDE // 16, SIDE // 16), np.float32))
    picture = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    meta = {"img_shape": (SIDE, SIDE, 3), "ori_shape": (SIDE, SIDE, 3), "batch_input_shape": (SIDE, SIDE)}
    with torch.no_grad():
        network.simple_test(picture, [meta])
        for hook in hooks:
            hook.remove()
        _lower_masks(last, MASK_SHIFT * float(logits[0].std()))


def _let_masks_ignore_mean(head: Any) -> List[Any]:
    """Add hooks that make a head's mask kernels orthogonal to the mean of their input over the pixels."""
    means: List[Any] = []

    def project(module: Any, given: Any, output: Any) -> Any:
        direction = means[-1] / means[-1].norm()
        module.weight.data -= direction[:, None] * (direction @ module.weight.data)[None]
        module.bias.data -= direction * (direction @ module.bias.data)
        return output - (output @ direction)[..., None] * direction

    def remember(module: Any, given: Any, output: Any) -> None:
        means.append(output.mean(dim=(0, 2, 3)))

    return [head.feat_transform.register_forward_hook(remember), head.fc_mask.register_forward_hook(project)]


def _ignore_mean(module: Any, given: Any) -> None:
    """Make a convolution's kernels orthogonal to the mean of its input over the pixels."""
    mean = given[0].mean(dim=(0, 2, 3))
    kernels = module.weight.data[:, :, 0, 0]
    kernels -= (kernels @ mean)[:, None] * mean[None] / mean.square().sum()


def _spread_classes(module: Any, given: Any, output: Any) -> None:
    """Scale and shift the class logits to CLASS_MEAN and CLASS_SPREAD over the proposals, for each class."""
    del given
    logits = output.reshape(-1, output.shape[-1])
    scale = CLASS_SPREAD / logits.std(dim=0).clamp(min=1e-6)
    module.weight.data *= scale[:, None]
    module.bias.data = CLASS_MEAN - (logits.mean(dim=0) - module.bias.data) * scale


def _lower_masks(head: Any, shift: float) -> None:
    """Lower the head's mask logits by `shift`, with a channel that is the same for all pixels."""
    head.feat_transform.conv.weight.data[0] = 0
    head.feat_transform.conv.bias.data[0] = -1
    head.fc_mask.weight.data[0] = 0
    head.fc_mask.bias.data[0] = shift
