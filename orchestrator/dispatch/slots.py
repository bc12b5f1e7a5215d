"""Places: where a run may have workers, each with its device. On GPUs they are leased, so that runs never share one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from orchestrator.dispatch.gpu_leases import Holder, Lease, lease
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu
from orchestrator.system.display import Display

MOST_WORKERS_PER_GPU = 8
"""More workers than that on one GPU wait for each other, however small the model."""


class Places(Protocol):
    """Places by number; the run's own as long as it holds them."""

    def take(self, most: int) -> list[int]:
        """Further places, `most` at most, that are the run's own from now on. Raises MachineError, see each kind."""

    def give_back(self, place: int) -> None:
        """No worker is at a place any more; it may be taken again."""

    def retire(self, place: int) -> None:
        """A place is never taken again: its device is lost."""

    def left(self) -> bool:
        """Whether there is a place that is not retired, be it held, free, or another run's for now."""

    def device(self, place: int) -> str:
        """For people: "cuda:GPU-…"."""

    def close(self) -> None:
        """Give everything back."""


class OwnPlaces:
    """So many places on devices that need no lease: the CPU."""

    def __init__(self, workers: int, devices: Sequence[str] = ("cpu",)) -> None:
        self._devices = devices
        self._free = list(range(workers))
        self._retired: set[int] = set()
        self._workers = workers

    def take(self, most: int) -> list[int]:
        """The free ones. Raises nothing."""
        taken, self._free = self._free[: max(0, most)], self._free[max(0, most) :]
        return taken

    def give_back(self, place: int) -> None:
        """Free again."""
        if place not in self._retired:
            self._free = sorted({*self._free, place})

    def retire(self, place: int) -> None:
        """Never again."""
        self._retired.add(place)

    def left(self) -> bool:
        """Whether one is not retired."""
        return len(self._retired) < self._workers

    def device(self, place: int) -> str:
        """Its device."""
        return self._devices[place % len(self._devices)]

    def close(self) -> None:
        """Nothing is held."""


class LeasedPlaces:
    """Places on GPUs, leased for this run one GPU after another, as they are free; a GPU may have several places.

    `most_gpus` says how many of so many GPUs the run may hold at this moment. Where all are others', `take` gives none
    and says so once, or raises MachineError if `wait` is false.
    """

    def __init__(
        self,
        workers: int,
        devices: Sequence[str],
        what: str,
        display: Display,
        *,
        wait: bool = True,
        most_gpus: Callable[[int], int] = lambda gpus: gpus,
    ) -> None:
        self._of = {place: devices[place % len(devices)] for place in range(workers)}
        self._what, self._display, self._wait, self._most_gpus = what, display, wait, most_gpus
        self._leases: dict[str, Lease] = {}
        self._busy: set[int] = set()
        self._retired: set[int] = set()
        self._waiting_since: float | None = None

    def take(self, most: int) -> list[int]:
        """Places on GPUs that are held or can be had now. Raises MachineError if there are none and none is held."""
        taken: list[int] = []
        holders: dict[str, Holder] = {}
        for place, device in self._of.items():
            if len(taken) >= most:
                break
            if place not in self._busy | self._retired and self._have(device, holders):
                taken.append(place)
        self._busy.update(taken)
        if taken:
            self._end_waiting()
        elif not self._leases and holders:
            self._begin_waiting(holders)
        return taken

    def give_back(self, place: int) -> None:
        """Others may have its GPU once no worker of this run is on it."""
        self._busy.discard(place)
        device = self._of[place]
        if device in self._leases and not any(self._of[other] == device for other in self._busy):
            self._leases.pop(device).release()

    def retire(self, place: int) -> None:
        """Never again; its GPU is for others to try."""
        self._retired.add(place)
        self.give_back(place)

    def left(self) -> bool:
        """Whether one is not retired."""
        return len(self._retired) < len(self._of)

    def device(self, place: int) -> str:
        """Its GPU."""
        return self._of[place]

    def close(self) -> None:
        """Release all GPUs."""
        for held in self._leases.values():
            held.release()
        self._leases.clear()
        self._busy.clear()

    def _have(self, device: str, holders: dict[str, Holder]) -> bool:
        """Whether the run has a GPU, or can have it now; else it is noted who has it."""
        if device in self._leases:
            return True
        if device in holders or len(self._leases) >= self._most_gpus(len(set(self._of.values()))):
            return False
        found = lease(device.partition(":")[2] or device, self._what)
        if isinstance(found, Holder):
            holders[device] = found
            return False
        self._leases[device] = found
        return True

    def _begin_waiting(self, holders: Mapping[str, Holder]) -> None:
        who = "; ".join(f"{device} is used by {holder.describe()}" for device, holder in holders.items())
        ours = any(holder.pid == os.getpid() for holder in holders.values())  # of several models in one command
        if not self._wait and not ours:
            hint = "without --no-wait the run begins when one gets free"
            raise MachineError("all GPUs are in use", why=who, hint=hint)
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._display.say(f"waiting for a GPU: {who}")

    def _end_waiting(self) -> None:
        if self._waiting_since is not None:
            self._display.say(f"got a GPU after {time.monotonic() - self._waiting_since:.0f} s")
            self._waiting_since = None


def busy_gpus(devices: Sequence[str], gpus: Sequence[Gpu]) -> list[str]:
    """A line for each GPU that processes were on when it was looked at: not all programs take leases."""
    found = [gpu for gpu in gpus if gpu.device in devices and gpu.processes]
    return [
        f"note: {gpu.device} is in use by {', '.join(f'process {one.pid}' for one in gpu.processes[:3])}"
        f"{' and others' if len(gpu.processes) > 3 else ''}"
        + ("" if gpu.free is None else f"; {gpu.free} of {gpu.memory} MiB are free")
        for gpu in found
    ]


def devices_of_places(
    devices: Sequence[str],
    workers: int | None,
    per_gpu: int | Literal["auto"] | None,
    free: Mapping[str, int],
    needed: int | None,
) -> tuple[tuple[str, ...], int]:
    """The devices to go round, and how many workers: one on the CPU, one or `per_gpu` on each GPU, unless told.

    `free` is each GPU's free memory and `needed` what a worker of the model needs, in MiB: for "auto".
    """
    if tuple(devices) == ("cpu",):
        return ("cpu",), workers or 1
    count = {one: fitting_workers(free.get(one, 0), needed) if per_gpu == "auto" else per_gpu or 1 for one in devices}
    # One on each GPU first, then the second ones: fewer workers are spread over all GPUs.
    rounds = range(max(count.values()))
    places = tuple(device for number in rounds for device in devices if number < count[device])
    return places, workers or len(places)


def fitting_workers(free: int, needed: int | None) -> int:
    """How many workers of a model fit on a GPU: MiB that are free, MiB that one needs (None: nobody said)."""
    return 1 if not needed else max(1, min(MOST_WORKERS_PER_GPU, free // needed))
