"""Modules of a built-in stack, for tests of those that need nothing but numpy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

IMAGES = Path(__file__).resolve().parents[3] / "images"


def load_module(stack: str, name: str) -> ModuleType:
    """A module of a stack, which is no package: the runner puts its folder on the path."""
    spec = importlib.util.spec_from_file_location(name, IMAGES / stack / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return module
