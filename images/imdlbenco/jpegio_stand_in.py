"""Replace jpegio, which has no wheels, with jpeglib for the few functions that upstream uses.

Upstream (IMDLBenCo.datasets.utils) imports jpegio when it reads a JPEG; call `install` before.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import List

import numpy as np


@dataclass(frozen=True)
class Component:
    """Sampling factors and the quantization table of one of Y, Cb, Cr."""

    v_samp_factor: int
    h_samp_factor: int
    quant_tbl_no: int


@dataclass(frozen=True)
class Jpeg:
    """Quantized DCT coefficients, an (8 rows, 8 columns) array of blocks for each component, and tables."""

    comp_info: List[Component]
    coef_arrays: List[np.ndarray]
    quant_tables: List[np.ndarray]


def read(path: str) -> Jpeg:
    """Read the file's coefficients as stored."""
    import jpeglib

    image = jpeglib.read_dct(path)
    planes = [image.Y] if image.Cb is None else [image.Y, image.Cb, image.Cr]
    components = [
        Component(int(vertical), int(horizontal), int(table))
        for (vertical, horizontal), table in zip(image.samp_factor, image.quant_tbl_no)
    ]
    return Jpeg(components, [join_blocks(plane) for plane in planes], list(image.qt))


def join_blocks(blocks: np.ndarray) -> np.ndarray:
    """Join (rows, columns, 8, 8) blocks into one (8 rows, 8 columns) array."""
    rows, columns = blocks.shape[:2]
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8))


def install() -> None:
    """Make `import jpegio` return this module's `read`, unless the real jpegio is imported."""
    if "jpegio" not in sys.modules:
        module = types.ModuleType("jpegio")
        module.read = read  # type: ignore[attr-defined]
        sys.modules["jpegio"] = module
