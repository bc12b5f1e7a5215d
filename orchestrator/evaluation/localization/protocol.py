"""What a project's own evaluation of manipulation masks does differently from orch's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskProtocol:
    """The rules of one evaluation. The defaults are orch's own, which have no name."""

    name: str | None = None
    counts_genuine: bool = False
    """Whether genuine images count in the means of pixel figures, each as 0."""
    is_on_canvas: bool = False
    """Whether pixels are those of the network's canvas instead of the image's."""
    needs_image_scores: bool = False
    """Whether figures of whole images need the model's own scores, instead of using the highest pixel."""


OWN_RULES = MaskProtocol()
IMDLBENCO = MaskProtocol("imdlbenco", counts_genuine=True, is_on_canvas=True, needs_image_scores=True)
"""IMDL-BenCo's evaluators (arXiv 2406.10580), which its papers' tables come from."""
