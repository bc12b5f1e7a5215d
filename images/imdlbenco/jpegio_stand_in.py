"""The few things upstream asks of jpegio, which has no wheels, done by jpeglib, which has.

Upstream (IMDLBenCo.datasets.utils) imports it where a JPEG is read; `install` must have been called before.
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
    """Quantized DCT coefficients, each component's blocks side by side as an (8 rows, 8 columns) array, and tables."""

    comp_info: List[Component]
    coef_arrays: List[np.ndarray]
    quant_tables: List[np.ndarray]


def read(path: str) -> Jpeg:
    """The file's coefficients as they are stored."""
    import jpeglib

    found = jpeglib.read_dct(path)
    planes = [found.Y] if found.Cb is None else [found.Y, found.Cb, found.Cr]
    components = [
        Component(int(vertical), int(horizontal), int(table))
        for (vertical, horizontal), table in zip(found.samp_factor, found.quant_tbl_no)
    ]
    return Jpeg(components, [side_by_side(plane) for plane in planes], list(found.qt))


def side_by_side(blocks: np.ndarray) -> np.ndarray:
    """(rows, columns, 8, 8) blocks as one (8 rows, 8 columns) array."""
    rows, columns = blocks.shape[:2]
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8))


def install() -> None:
    """Make `import jpegio` find this module's `read`, unless the real one is there."""
    if "jpegio" not in sys.modules:
        module = types.ModuleType("jpegio")
        module.read = read  # type: ignore[attr-defined]
        sys.modules["jpegio"] = module
