"""How each of IMDL-BenCo's models is built, its inputs and outputs.

Sizes and sizing methods are those of the package's own test scripts (statics/model_zoo/runs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

RESIZE, PAD = "resize", "pad"


@dataclass(frozen=True)
class Architecture:
    """One model of the package; `registry` is its name there."""

    registry: str
    size: int
    """Side of the square canvas in pixels; fixed by the checkpoint or hard-coded in most models."""
    sizing: str = RESIZE
    """How upstream's test script brings an image onto the canvas."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments. File names of backbones are required, but nothing is read from them."""
    config: str = ""
    """The constructor's argument for a file of the package, if any."""
    config_file: str = ""
    """That file, inside the installed package."""
    takes_device: bool = False
    image_score: bool = False
    """Whether it has an image-level output."""
    jpeg: bool = False
    """Whether its inputs include DCT coefficients, made by the post function of upstream's dataset."""
    draws_at_random: bool = False
    """Whether a forward pass draws random numbers even in eval mode."""
    changed_by_forward: Tuple[str, ...] = ()
    """Parameters that a forward pass overwrites (Bayar's constraint); they are restored before the next one."""
    last: Tuple[str, ...] = ()
    """The layers that make the mask's logits, which random weights centre; the last channel is "manipulated"."""


_CONFIGS = "statics/model_zoo/configs/"

ARCHITECTURES: Dict[str, Architecture] = {
    "mvss-net": Architecture(
        "MVSSNet",
        512,
        image_score=True,
        changed_by_forward=("constrain_conv.kernel",),
        last=("head.out.1",),
    ),
    "iml-vit": Architecture("IML_ViT", 1024, PAD, last=("predict_head.linear_predict",)),
    "cat-net": Architecture(
        "Cat_Net",
        512,
        config="cfg_file",
        config_file=_CONFIGS + "CAT_full.yaml",
        jpeg=True,
        last=("model.last_layer.3",),
    ),
    "trufor": Architecture(
        "Trufor",
        512,
        arguments={"phase": 2, "np_pretrain_weights": "unread", "mit_b2_pretrain_weights": "unread"},
        config="config_path",
        config_file=_CONFIGS + "trufor.yaml",
        image_score=True,
        last=("model.decode_head.linear_pred",),
    ),
    "pscc-net": Architecture(
        "PSCC_Net", 256, arguments={"pretrain_path": ""}, image_score=True, last=("SegNet.getmask1.getmask.2",)
    ),
    "mantra-net": Architecture(
        "MantraNet",
        512,
        PAD,
        takes_device=True,
        changed_by_forward=("IMTFE.BayarConv2D.weight",),
        last=("AnomalyDetector.end.0",),
    ),
    "span": Architecture(
        "SPAN",
        224,
        arguments={"weight_path": "unread"},
        takes_device=True,
        draws_at_random=True,
        changed_by_forward=("featex.BayarConv2D.weight",),
    ),
    "object-former": Architecture("ObjectFormer", 224, last=("localization.2",)),
    "mesorch": Architecture("Mesorch", 512, last=tuple(f"inverse.{number}" for number in range(8))),
    "sparse-vit": Architecture("SparseViT", 512, last=("lmu.conv_last",)),
    "mscdi-net": Architecture("MSCDI_Net", 512, arguments={"backbone_weights_path": "unread"}, last=("final_conv",)),
}
