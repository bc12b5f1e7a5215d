"""How well workers of equal speed are kept busy, 1 to 64 of them, on shards of the default size.

Simulated: the real Scheduler, the clock made up; a worker's queue is filled again when it reports a finished shard, and
the time from one shard to the next in its queue is nothing. Dispatched: the real Dispatcher with its files and events,
64 workers that only sleep, at the pace of so many milliseconds per image. Loading the model is not counted: it is the
same for all. Efficiency: the time that the images take, by the number of workers, over the time from begin to end.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.scheduler import Scheduler
from orchestrator.dispatch.shard_intake import Images, Intake
from orchestrator.dispatch.slots import OwnedSlots
from orchestrator.inputs.collect import InputImage
from orchestrator.paths import GuestFolder, RunPaths
from orchestrator.plan.shards import default_shard_size
from orchestrator.runtimes.base import Exit
from orchestrator.system.display import SilentDisplay

WORKERS = (1, 2, 4, 8, 16, 32, 64)
SEED = 9


def main() -> None:
    """Print a line for each number of images."""
    parser = argparse.ArgumentParser(prog="python -m bench.efficiency", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[20.0, 5.0], help="per image, dispatched")
    args = parser.parse_args()
    print(f"{'simulated, images':>26}  {'shards':>6} {'of':>4}  " + "".join(f"{count:>7}" for count in WORKERS))
    for spread in (0.0, 0.5):
        for images in args.images:
            size = default_shard_size(images)
            found = "".join(f"{simulated(images, size, workers, spread):7.3f}" for workers in WORKERS)
            what = f"{images:,}" + (f", ±{spread:.0%}" if spread else "")
            print(f"{what:>26}  {math.ceil(images / size):6} {size:4}  {found}", flush=True)
    for images, milliseconds in zip(args.images, args.milliseconds, strict=True):
        found = f"{dispatched(images, default_shard_size(images), WORKERS[-1], milliseconds / 1000):.3f}"
        print(f"dispatched to {WORKERS[-1]} workers: {images:,} images of {milliseconds:g} ms: {found}", flush=True)


def simulated(images: int, size: int, workers: int, spread: float) -> float:
    """Efficiency in made-up time; an image takes 1, give or take `spread`, evenly."""
    drawn = random.Random(SEED)
    counts = [min(size, images - first) for first in range(0, images, size)]
    takes = [sum(1 + spread * drawn.uniform(-1, 1) for _ in range(count)) if spread else count for count in counts]
    schedule = Scheduler(range(len(counts)), lambda shard: ())
    queues: dict[str, list[int]] = {str(number): [] for number in range(workers)}
    ends: list[tuple[float, str]] = []

    def feed(worker: str) -> None:
        while (order := schedule.assign_next(worker)) is not None:
            queues[worker].append(order.number)

    for worker in queues:
        schedule.add_worker(worker)
    for worker in queues:
        feed(worker)
    for worker, waiting in queues.items():
        if waiting:
            heapq.heappush(ends, (takes[waiting[0]], worker))
    now = 0.0
    while ends:
        now, worker = heapq.heappop(ends)
        schedule.mark_done(queues[worker].pop(0))
        feed(worker)
        if queues[worker]:
            heapq.heappush(ends, (now + takes[queues[worker][0]], worker))
    return sum(takes) / workers / now


def dispatched(images: int, size: int, workers: int, seconds: float) -> float:
    """Efficiency of the real Dispatcher, from the first worker's first shard to the last one's last."""

    def images_of(shard: int) -> Sequence[InputImage]:
        places = range(shard * size, min((shard + 1) * size, images))
        return [InputImage(at, f"shoot/IMG_{at:08d}.jpg", f"0/shoot/IMG_{at:08d}.jpg", at + 1, 1, 1) for at in places]

    with tempfile.TemporaryDirectory(prefix="bench-efficiency-") as folder:
        paths = RunPaths(Path(folder))
        paths.jobs.mkdir()
        started: list[SleepingWorker] = []

        def start(place: int, name: str, job: Path) -> SleepingWorker:
            del place
            started.append(SleepingWorker(name, job / "queue", seconds))
            return started[-1]

        shards = range(math.ceil(images / size))
        dispatcher = Dispatcher(paths, start, SilentDisplay(), shards, images_of, NoIntake())
        done = dispatcher.run(OwnedSlots(workers), images, 0)
    if sum(worker.predicted for worker in started) != images or done.lost_workers:
        raise SystemExit("images were lost")
    wall = max(worker.ended for worker in started) - min(worker.began for worker in started)
    return images * seconds / workers / wall


class NoIntake(Intake):
    """Takes what sleeping workers do not write."""

    def take(self, out: GuestFolder, number: int, images: Images) -> None: ...

    def take_parts(self, out: GuestFolder, shards: Mapping[int, Images]) -> None: ...

    def give_part(self, out: GuestFolder, number: int) -> None: ...

    def fail(self, number: int, reason: str) -> NoReturn:
        raise SystemExit(reason)


class SleepingWorker:
    """Takes orders from its queue folder as the runner does, and sleeps as long as their images would take."""

    def __init__(self, name: str, folder: Path, seconds: float) -> None:
        self.name, self._folder, self._seconds = name, folder, seconds
        self.predicted, self.began, self.ended = 0, math.inf, 0.0
        self._said: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _say(self, event: str, sequence: int, **fields: Any) -> None:
        self._said.put(json.dumps({"event": event, "seq": sequence, "time": 0, **fields}).encode())

    def _work(self) -> None:
        seen: set[str] = set()
        while True:
            ended = (self._folder / "end").exists()
            waiting = sorted(path for path in self._folder.glob("*.json") if path.name not in seen)
            if not waiting and ended:
                break
            if not waiting:
                time.sleep(0.01)
                continue
            self.began = min(self.began, time.monotonic())
            order = json.loads(waiting[0].read_text())
            seen.add(waiting[0].name)
            total = len(order["images"])
            time.sleep(total * self._seconds)
            self.predicted += total
            self.ended = time.monotonic()
            self._say("shard_done", len(seen), shard=order["shard"], images=total, failed=0, instances=0, seconds=0)
        self._said.put(None)

    def lines(self) -> Iterator[bytes]:
        """Events."""
        while (line := self._said.get()) is not None:
            yield line

    def wait(self) -> Exit:
        """Until all is done."""
        self._thread.join()
        return Exit(0)

    def terminate(self) -> None:
        """Nobody does."""

    def kill(self) -> None:
        """Nobody does, before it ended."""

    def close(self) -> None:
        """Nothing is left."""


if __name__ == "__main__":
    main()
