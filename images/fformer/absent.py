"""Stand-ins for what upstream's code imports and inference never calls: each raises with its name when called."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any, Callable, Mapping, Sequence

COMPILED_OPS = "mmcv._ext"
NEVER_CALLED: Mapping[str, Sequence[str]] = {"panopticapi": ("panopticapi", "panopticapi.utils")}
"""Modules by package. This one is not on PyPI; it is imported for panoptic data sets."""


class Absent(types.ModuleType):
    """A module of which every name can be imported, and none called."""

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(name)
        self.__path__ = []  # type: ignore[attr-defined]
        self._advice = advice

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        message = f"{self.__name__}.{name} was called, but this environment has no {self.__name__}; {self._advice}"

        def missing(*_: Any, **__: Any) -> Any:
            raise RuntimeError(message)

        return missing


def stand_in() -> bool:
    """Put stand-ins where the real ones are not installed; whether mmcv's compiled ops are the real ones."""
    for package, modules in NEVER_CALLED.items():
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            sys.modules.update({name: Absent(name, "it is needed for training alone") for name in modules})
    known = sys.modules.get(COMPILED_OPS)
    if known is None and importlib.util.find_spec(COMPILED_OPS) is None:
        advice = "build the image with --build-arg COMPILED_OPS=1"
        known = sys.modules[COMPILED_OPS] = Absent(COMPILED_OPS, advice)
    return not isinstance(known, Absent)
