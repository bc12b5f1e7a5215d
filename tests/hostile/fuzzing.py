"""How many cases the fuzzers try, always the same ones; and bytes that are damaged in a way that is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ORCH_FUZZ_EXAMPLES", "0"))
"""Cases of each fuzzer; 0: as many as CI has time for."""


def fuzzed(examples: int, *, slowdown: int = 1) -> Callable[[Any], Any]:
    """Settings of a fuzzer: `examples` in CI, else $ORCH_FUZZ_EXAMPLES divided by `slowdown` for costly cases."""
    return settings(
        max_examples=max(1, EXAMPLES // slowdown) if EXAMPLES else examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with some of them flipped, cut out, doubled, replaced or added."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        length = draw(st.integers(0, min(64, len(changed))))
        kind = draw(st.sampled_from(["flip", "cut", "double", "replace", "add", "truncate", "zero"]))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "replace":
            changed[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "add":
            changed[at:at] = draw(st.binary(max_size=16))
        elif kind == "truncate":
            del changed[at:]
        else:
            changed[at : at + length] = bytes(length)
    return bytes(changed)
