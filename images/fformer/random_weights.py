"""Random weights of the published architectures, for trying the whole way where the published files are not at hand.

What they find means nothing. The values come from numpy, name by name: they are the same on every version of torch.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, List, Mapping, Tuple

import numpy as np
import torch
from torch.nn import functional

FILES: Mapping[str, str] = {
    "fformer-swin": "fashionformer_swin_b_3x.pth",
    "fformer-r50-fpn": "fashionformer_r50_3x.pth",
}
"""What each model's weights file is called, as in stack.yaml."""

# Without what training brings, each residual block would double the spread of its input.
BLOCK_ENDS = (".bn3.weight", ".attn.w_msa.proj.weight", ".ffn.layers.1.weight", "attention.attn.out_proj.weight")
BLOCK_GAIN = 0.25
SHARED = (".kernel_update_conv.norm_out.weight",)
SHARED_GAIN = 0.1
"""What proposals take from the image, which to random filters looks the same everywhere."""
CLASS_MEAN, CLASS_SPREAD = -6.0, 1.2
"""Of the class logits: of the hundred best, a few dozen are above the published floor of 0.05."""
PROPOSAL_SPREAD = 1e4
"""Of the first kernels: features summed over whole masks are added to them, and would make them all alike."""
MASK_SHIFT = 1.0
"""How far from the middle a mask begins, in spreads of its logits: a sixth of the pixels are inside."""
SIDE = 256
"""Pixels along a side of the picture on which the network is balanced."""


def write_random_weights(network: Any, model: str, folder: str, seed: int = 0) -> str:
    """Write the model's weights file into `folder`, the same values for the same seed; the result is its path."""
    if model not in FILES:
        raise ValueError(f"there is no model {model!r}, only {', '.join(FILES)}")
    network.load_state_dict({name: _values(name, tensor, seed) for name, tensor in network.state_dict().items()})
    balance(network, seed)
    path = Path(folder) / FILES[model]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save({"meta": {"random": True}, "state_dict": network.state_dict()}, str(aside))
    os.replace(str(aside), str(path))
    return str(path)


def _values(name: str, tensor: Any, seed: int) -> Any:
    """Values of one tensor: what normalization starts from, zero for biases, He's initialization for the rest."""
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        return tensor.clone()  # counters, and tables of positions
    if len(shape) == 1:
        return torch.from_numpy(np.full(shape, _constant(name), np.float32))
    random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = random.standard_normal(shape, np.float32)
    return torch.from_numpy(values * np.float32(_spread(name, shape)))


def _constant(name: str) -> float:
    if name.endswith(BLOCK_ENDS):
        return BLOCK_GAIN
    if name.endswith(SHARED):
        return SHARED_GAIN
    return 1.0 if name.endswith((".weight", ".running_var")) else 0.0


def _spread(name: str, shape: Tuple[int, ...]) -> float:
    """Standard deviation of a weight's values."""
    if name.endswith("attr_kernels.weight"):
        return 1.0
    if name == "rpn_head.init_kernels.weight":
        return PROPOSAL_SPREAD
    if name.endswith("relative_position_bias_table"):
        return 0.02
    return float((BLOCK_GAIN if name.endswith(BLOCK_ENDS) else 1.0) * np.sqrt(2 / np.prod(shape[1:])))


def balance(network: Any, seed: int) -> None:
    """Have the network look at a made-up picture, and turn its masks and classes away from what is common.

    Else all masks would be the whole image, and all proposals of one class. The features keep what is common to them:
    without it, they would hang on single pixels at the edges of masks, and rounding would show.
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
    told = {"img_shape": (SIDE, SIDE, 3), "ori_shape": (SIDE, SIDE, 3), "batch_input_shape": (SIDE, SIDE)}
    with torch.no_grad():
        network.simple_test(picture, [told])
        for hook in hooks:
            hook.remove()
        _lower_masks(last, MASK_SHIFT * float(logits[0].std()))


def _let_masks_ignore_mean(head: Any) -> List[Any]:
    """Hooks by which a head's mask kernels give nothing for the mean over the pixels of what they are applied to."""
    means: List[Any] = []

    def turn(module: Any, given: Any, output: Any) -> Any:
        direction = means[-1] / means[-1].norm()
        module.weight.data -= direction[:, None] * (direction @ module.weight.data)[None]
        module.bias.data -= direction * (direction @ module.bias.data)
        return output - (output @ direction)[..., None] * direction

    def remember(module: Any, given: Any, output: Any) -> None:
        means.append(output.mean(dim=(0, 2, 3)))

    return [head.feat_transform.register_forward_hook(remember), head.fc_mask.register_forward_hook(turn)]


def _ignore_mean(module: Any, given: Any) -> None:
    """Turn a convolution's kernels so that the mean of its input over the pixels gives nothing."""
    mean = given[0].mean(dim=(0, 2, 3))
    kernels = module.weight.data[:, :, 0, 0]
    kernels -= (kernels @ mean)[:, None] * mean[None] / mean.square().sum()


def _spread_classes(module: Any, given: Any, output: Any) -> None:
    """Scale and move the class logits so that over the proposals each class has the mean and spread wanted."""
    del given
    logits = output.reshape(-1, output.shape[-1])
    scale = CLASS_SPREAD / logits.std(dim=0).clamp(min=1e-6)
    module.weight.data *= scale[:, None]
    module.bias.data = CLASS_MEAN - (logits.mean(dim=0) - module.bias.data) * scale


def _lower_masks(head: Any, shift: float) -> None:
    """Have the head's mask logits come out lower, by way of a channel that is the same for all pixels."""
    head.feat_transform.conv.weight.data[0] = 0
    head.feat_transform.conv.bias.data[0] = -1
    head.fc_mask.weight.data[0] = 0
    head.fc_mask.bias.data[0] = shift
