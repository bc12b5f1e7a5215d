"""Turns: when several runs of one command may build and predict, and how many GPUs each may hold meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Turns(Protocol):
    """What a run asks before it goes on."""

    def building(self) -> AbstractContextManager[None]:
        """Around the build of the environment."""

    def predicting(self, device: str) -> AbstractContextManager[None]:
        """Around the time in which images are predicted: on "cpu" or "cuda" here, or by the executor of that name."""

    def most_gpus(self, gpus: int) -> int:
        """How many of the `gpus` that it could use the run may hold at this moment."""


class Alone:
    """The turns of a run that has nobody to share with."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """At once."""
        yield

    @contextmanager
    def predicting(self, device: str) -> Iterator[None]:
        """At once."""
        del device
        yield

    def most_gpus(self, gpus: int) -> int:
        """All."""
        return gpus
