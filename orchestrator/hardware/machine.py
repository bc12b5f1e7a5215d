"""A machine as a pure value: its GPUs, their driver, and what keeps GPUs from being used. Read, written, made up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one: memory in MiB, compute capability as "8.6"."""

    index: int
    uuid: str
    name: str
    memory: int
    capability: str
    driver: str

    @property
    def device(self) -> str:
        """As WorkerSpec.device names it."""
        return f"cuda:{self.uuid}"


@dataclass(frozen=True)
class Machine:
    """What of a machine decides where a model can run."""

    gpus: tuple[Gpu, ...] = ()
    """Those that may be used, in order; a GPU cut into MIG slices is its slices."""
    lacks: str | None = None
    """Why there is no GPU, where there is none."""
