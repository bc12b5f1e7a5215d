"""orch: published vision models, each in an environment of its own, to one standard predictions file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Predictions", "__version__"]

if TYPE_CHECKING:
    from orchestrator.predictions import Predictions


def __getattr__(name: str) -> Any:
    """`orchestrator.Predictions`, imported when asked for: the command line must not wait for numpy."""
    if name == "Predictions":
        from orchestrator.predictions import Predictions

        return Predictions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
