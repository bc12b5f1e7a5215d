"""What runs of one command share: they take turns to build and to predict, and divide the GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Sharing(Protocol):
    """One run's part of what the runs of a command share."""

    def building(self) -> AbstractContextManager[None]:
        """Enclose the build of the environment; may block."""

    def predicting(self, device: str) -> AbstractContextManager[None]:
        """Enclose the prediction; may block. `device`: "cpu" or "cuda" of this machine, or an executor's name."""

    def most_gpus(self, gpus: int) -> int:
        """Return how many of its `gpus` suitable GPUs the run may hold now."""


class NoSharing:
    """For a run that is its command's only one: nothing blocks, all GPUs are its own."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """Never block."""
        yield

    @contextmanager
    def predicting(self, device: str) -> Iterator[None]:
        """Never block."""
        del device
        yield

    def most_gpus(self, gpus: int) -> int:
        """Return all of them."""
        return gpus
