"""orch: published vision models, each in an environment of its own, to one standard predictions file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Predictions", "Run", "Session", "__version__", "connect", "run"]

if TYPE_CHECKING:
    from orchestrator.predictions import Predictions
    from orchestrator.system import __version__
    from orchestrator.workflows import Run, Session, connect
    from orchestrator.workflows import run_images as run

_PACKAGES = {
    "Predictions": "predictions",
    "Run": "workflows",
    "Session": "workflows",
    "__version__": "system",
    "connect": "workflows",
    "run": "workflows",
}
_NAMES = {"run": "run_images"}


def __getattr__(name: str) -> Any:
    """Import what is offered when it is asked for: the command line must not wait for numpy."""
    if name in _PACKAGES:
        return getattr(importlib.import_module(f"orchestrator.{_PACKAGES[name]}"), _NAMES.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
