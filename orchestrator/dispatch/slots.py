"""Slots: where a run may start workers, each on one device. GPUs are leased, so that two runs never share one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from orchestrator.dispatch.gpu_leases import Lease, LeaseHolder, lease_gpu
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu
from orchestrator.system import Display

MOST_WORKERS_PER_GPU = 8
"""More workers than that on one GPU wait for each other, however small the model."""


class Slots(Protocol):
    """Numbered slots. A reserved slot belongs to the run until it is released or retired."""

    def reserve(self, limit: int) -> list[int]:
        """Reserve up to `limit` free slots and return their numbers. Raises MachineError, see each kind."""

    def release(self, slot: int) -> None:
        """Free a slot whose worker has ended; it may be reserved again."""

    def retire(self, slot: int) -> None:
        """Never reserve a slot again: its device is lost."""

    def has_usable(self) -> bool:
        """Return whether any slot is not retired, be it reserved, free, or held by another run."""

    def device_of(self, slot: int) -> str:
        """Return the name of a slot's device, such as "cuda:GPU-…"."""

    def close(self) -> None:
        """Release all slots."""


class OwnedSlots:
    """Slots on devices that need no lease: the CPU, or GPUs that a cluster allotted to this task."""

    def __init__(self, workers: int, devices: Sequence[str] = ("cpu",)) -> None:
        self._devices = devices
        self._free = list(range(workers))
        self._retired: set[int] = set()
        self._workers = workers

    def reserve(self, limit: int) -> list[int]:
        """Reserve up to `limit` free slots. Raises nothing."""
        reserved, self._free = self._free[: max(0, limit)], self._free[max(0, limit) :]
        return reserved

    def release(self, slot: int) -> None:
        """Free a slot unless it is retired."""
        if slot not in self._retired:
            self._free = sorted({*self._free, slot})

    def retire(self, slot: int) -> None:
        """Never reserve a slot again."""
        self._retired.add(slot)

    def has_usable(self) -> bool:
        """Return whether any slot is not retired."""
        return len(self._retired) < self._workers

    def device_of(self, slot: int) -> str:
        """Return the device of a slot: they take turns."""
        return self._devices[slot % len(self._devices)]

    def close(self) -> None:
        """Do nothing: no lease is held."""


class LeasedSlots:
    """Slots on GPUs, which are leased one after another as they become free; a GPU may have several slots.

    `most_gpus` takes the number of GPUs that the run could use and returns how many it may hold now. Where other runs
    hold all of them, `reserve` returns none and reports that once, or raises MachineError if `wait` is false.
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
        self._devices = {slot: devices[slot % len(devices)] for slot in range(workers)}
        self._what, self._display, self._wait, self._most_gpus = what, display, wait, most_gpus
        self._leases: dict[str, Lease] = {}
        self._reserved: set[int] = set()
        self._retired: set[int] = set()
        self._waiting_since: float | None = None

    def reserve(self, limit: int) -> list[int]:
        """Reserve slots on GPUs that are leased already or free. Raises MachineError if there are none at all."""
        reserved: list[int] = []
        holders: dict[str, LeaseHolder] = {}
        for slot, device in self._devices.items():
            if len(reserved) >= limit:
                break
            if slot not in self._reserved | self._retired and self._try_lease(device, holders):
                reserved.append(slot)
        self._reserved.update(reserved)
        if reserved:
            self._report_end_of_waiting()
        elif not self._leases and holders:
            self._begin_waiting(holders)
        return reserved

    def release(self, slot: int) -> None:
        """Free a slot, and its GPU for other runs once no worker of this run is on it."""
        self._reserved.discard(slot)
        device = self._devices[slot]
        if device in self._leases and not any(self._devices[other] == device for other in self._reserved):
            self._leases.pop(device).release()

    def retire(self, slot: int) -> None:
        """Never reserve a slot again; other runs may try its GPU."""
        self._retired.add(slot)
        self.release(slot)

    def has_usable(self) -> bool:
        """Return whether any slot is not retired."""
        return len(self._retired) < len(self._devices)

    def device_of(self, slot: int) -> str:
        """Return the GPU of a slot."""
        return self._devices[slot]

    def close(self) -> None:
        """Release all GPUs."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()
        self._reserved.clear()

    def _try_lease(self, device: str, holders: dict[str, LeaseHolder]) -> bool:
        """Return whether the run holds a GPU, leasing it if it is free; else note its holder in `holders`."""
        if device in self._leases:
            return True
        if device in holders or len(self._leases) >= self._most_gpus(len(set(self._devices.values()))):
            return False
        lease = lease_gpu(device.partition(":")[2] or device, self._what)
        if isinstance(lease, LeaseHolder):
            holders[device] = lease
            return False
        self._leases[device] = lease
        return True

    def _begin_waiting(self, holders: Mapping[str, LeaseHolder]) -> None:
        uses = "; ".join(f"{device} is used by {holder.describe()}" for device, holder in holders.items())
        by_this_command = any(holder.pid == os.getpid() for holder in holders.values())  # it runs several models
        if not self._wait and not by_this_command:
            raise MachineError(
                "all GPUs are in use", why=uses, hint="without --no-wait the run starts when a GPU becomes free"
            )
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._display.say(f"waiting for a GPU: {uses}")

    def _report_end_of_waiting(self) -> None:
        if self._waiting_since is not None:
            self._display.say(f"got a GPU after {time.monotonic() - self._waiting_since:.0f} s")
            self._waiting_since = None


def describe_busy_gpus(devices: Sequence[str], gpus: Sequence[Gpu]) -> list[str]:
    """Return a line for each GPU that processes used when it was detected: not all programs take leases."""
    return [
        f"note: {gpu.device} is in use by {', '.join(f'process {process.pid}' for process in gpu.processes[:3])}"
        f"{' and others' if len(gpu.processes) > 3 else ''}"
        + ("" if gpu.free is None else f"; {gpu.free} of {gpu.memory} MiB are free")
        for gpu in gpus
        if gpu.device in devices and gpu.processes
    ]


def assign_devices(
    devices: Sequence[str],
    workers: int | None,
    per_gpu: int | Literal["auto"] | None,
    free: Mapping[str, int],
    needed: int | None,
) -> tuple[tuple[str, ...], int]:
    """Return the devices in the order in which slots take turns on them, and the number of workers.

    Default: one worker on the CPU, one or `per_gpu` on each GPU. For "auto", `free` is each GPU's free memory and
    `needed` what a worker of the model needs, both in MiB.
    """
    if tuple(devices) == ("cpu",):
        return ("cpu",), workers or 1
    counts = {
        device: count_fitting_workers(free.get(device, 0), needed) if per_gpu == "auto" else per_gpu or 1
        for device in devices
    }
    # One on each GPU first, then the second ones: fewer workers are spread over all GPUs.
    rounds = range(max(counts.values()))
    slots = tuple(device for number in rounds for device in devices if number < counts[device])
    return slots, workers or len(slots)


def count_fitting_workers(free: int, needed: int | None) -> int:
    """Return how many workers fit into `free` MiB of a GPU if each needs `needed`; one if that is unknown."""
    return 1 if not needed else max(1, min(MOST_WORKERS_PER_GPU, free // needed))
