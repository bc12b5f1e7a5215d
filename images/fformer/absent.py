"""Stand-ins for modules that upstream imports but inference never calls; a call raises an error with its name."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any, Callable, Mapping, Sequence

COMPILED_OPS = "mmcv._ext"
NEVER_CALLED: Mapping[str, Sequence[str]] = {"panopticapi": ("panopticapi", "panopticapi.utils")}
"""Modules by package. panopticapi is not on PyPI; upstream imports it for panoptic data sets."""


class Absent(types.ModuleType):
    """A module from which every name can be imported, but none called."""

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


def install_stand_ins() -> bool:
    """Install stand-ins for missing modules; return whether mmcv's compiled ops are the real ones."""
    for package, modules in NEVER_CALLED.items():
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            sys.modules.update({name: Absent(name, "it is needed only for training") for name in modules})
    known = sys.modules.get(COMPILED_OPS)
    if known is None and importlib.util.find_spec(COMPILED_OPS) is None:
        advice = "build the image with --build-arg COMPILED_OPS=1"
        known = sys.modules[COMPILED_OPS] = Absent(COMPILED_OPS, advice)
    return not isinstance(known, Absent)
