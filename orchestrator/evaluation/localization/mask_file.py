"""Read a true mask in the ways in which public data sets draw them; refuse what can be meant in more than one way.

CASIA, IMD2020, DEFACTO, CocoGlide: 0 and 255. GRIP, tampCOCO: 0 and 1. Columbia: red and green, named *_edgemask.
Realistic Tampering: black, grey, white. NIST16, DSO-1: black is manipulated, which `is_inverted` has to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import UsageError

COLOURFUL = 48  # difference of channels from which a pixel is coloured; JPEG tints grey by less
DARK = 64  # an uncoloured pixel below this is black
SHARE = 0.01  # of the pixels: less of a colour or of white is an artefact of compression
EDGE_MASK = "edgemask"  # ends the names of Columbia's masks
HUES = {4: "red", 6: "yellow", 2: "green", 3: "cyan", 1: "blue", 5: "magenta", 7: "a pale colour"}

ONES = "have the values 0 and 1, the others have higher ones: 1 counts as manipulated"
FAINT = "have one value besides 0, more than 1 and at most half of white: it counts as manipulated"
COLOURED = "are drawn in one colour on black: it counts as manipulated"
RED_AND_GREEN = "are drawn in red and green, as Columbia's: green counts as manipulated"
THREE_LEVELS = "have a third level between black and white: of its grey, 128 of 255 and more counts as manipulated"


@dataclass(frozen=True)
class Drawing:
    """What is kept of how a true mask is drawn: `how` if that is worth a warning, and what it looks like.

    It looks inverted if most pixels, and most at the border, are manipulated, though not all.
    """

    how: str | None
    has_manipulated: bool
    looks_inverted: bool


@dataclass(frozen=True)
class DrawnMask:
    """The manipulated pixels (H,W), and how the mask is drawn if that is worth a warning."""

    inside: NDArray[np.bool_]
    how: str | None = None

    @property
    def drawing(self) -> Drawing:
        border = np.concatenate((self.inside[[0, -1]].ravel(), self.inside[:, [0, -1]].ravel()))
        share = float(self.inside.mean())
        return Drawing(self.how, share > 0, 0.5 < share < 1 and float(border.mean()) > 0.75)


def read_true_mask(path: Path, is_inverted: bool = False) -> DrawnMask:
    """Return a true mask; with `is_inverted` black is manipulated. UsageError when the file is no clear mask."""
    try:
        pixels = _read_pixels(path)
        mask = _read_colours(pixels, path.stem) if pixels.ndim == 3 else _read_levels(pixels)
    except _Unclear as error:
        hint = "draw it in black (0) and white (255), white where the image is manipulated"
        raise UsageError(f"the true mask {path} is not clear", why=str(error), hint=hint) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot read the true mask {path}", why=str(error)) from error
    return DrawnMask(~mask.inside, mask.how) if is_inverted else mask


class _Unclear(Exception):
    """A mask that can be meant in several ways; the message says what is drawn."""


def _read_pixels(path: Path) -> NDArray[Any]:
    """Return (H,W) levels, as integers up to 255 or other numbers as they are, or (H,W,3) where pixels are coloured."""
    with Image.open(path) as image:
        if image.mode[0] in "IF":  # 16 or 32 bits: convert() would clip instead of scale
            return np.asarray(image).astype(np.float64)
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        if image.has_transparency_data:
            _refuse_transparency(image.convert("RGBA"))
        colours = np.asarray(image.convert("RGB"))
        is_coloured = np.ptp(colours, axis=2) > COLOURFUL
        return colours if is_coloured.any() else np.asarray(image.convert("L"))


def _refuse_transparency(image: Image.Image) -> None:
    bands = image.getextrema()
    if all(low == high for low, high in bands[:3]) and bands[3][0] != bands[3][1]:  # type: ignore[misc]
        raise _Unclear("it is one colour, and drawn in its transparency alone")


def _read_levels(levels: NDArray[Any]) -> DrawnMask:
    """Read levels of grey: above half of white is manipulated; in faint masks the one value besides 0."""
    if not np.isfinite(levels).all() or levels.min(initial=0) < 0:
        raise _Unclear("it has values below 0, or that are no numbers")
    values = np.flatnonzero(np.bincount(levels.ravel())) if levels.dtype == np.uint8 else np.unique(levels)
    highest = float(values.max(initial=0))
    white = 255 if levels.dtype == np.uint8 else _guess_white(highest, levels)
    if highest > white / 2:
        has_three = len(values) == 3 and values[0] == 0 and 0.1 < values[1] / highest < 0.9
        return DrawnMask(levels > white / 2, THREE_LEVELS if has_three else None)
    lit = values[values > 0]
    if len(lit) > 1 or (len(lit) == 1 and values[0] > 0 and lit[0] != 1):
        raise _Unclear(f"its values are {_list(values)}, all at most half of white ({white:g})")
    return DrawnMask(levels > 0, None if not len(lit) else ONES if lit[0] == 1 else FAINT)


def _guess_white(highest: float, levels: NDArray[Any]) -> float:
    """Return the value of white: of fractions 1; else that of the fewest bytes that hold the highest value."""
    if highest <= 1 and (levels != np.rint(levels)).any():
        return 1.0
    return 255.0 if highest <= 255 else 65535.0


def _read_colours(colours: NDArray[np.uint8], name: str) -> DrawnMask:
    """Read a coloured mask: one colour on black, or Columbia's red and green."""
    is_coloured = np.ptp(colours, axis=2) > COLOURFUL
    highest = colours.max(axis=2)
    bits = (colours > (highest // 2)[..., None]) @ np.array([4, 2, 1])
    counts = np.bincount(bits[is_coloured], minlength=8)
    hues = [HUES[code] for code in np.flatnonzero(counts > SHARE * counts.sum()).tolist()]
    is_light = ~is_coloured & (highest >= DARK)
    if sorted(hues) == ["green", "red"] and name.endswith(EDGE_MASK):
        return DrawnMask(colours[..., 1] > colours[..., 0], RED_AND_GREEN)
    if len(hues) == 1 and is_light.mean() <= SHARE:
        return DrawnMask(is_coloured, COLOURED)
    drawn = [*hues, *(["white or grey"] if is_light.mean() > SHARE else [])]
    columbia = f"; red and green masks are known to be Columbia's if their names end in _{EDGE_MASK}"
    raise _Unclear(f"it is drawn in {', '.join(drawn)}" + (columbia if sorted(hues) == ["green", "red"] else ""))


def _list(values: NDArray[Any]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5].tolist())
    return shown + (f", … {values[-1]:g}" if len(values) > 5 else "")
