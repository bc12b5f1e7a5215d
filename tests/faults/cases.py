"""One case: a run with one to nine faults until it is complete, compared with the run that nothing disturbed."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator import Predictions
from tests.faults.disks import mount_small_disk, unmount_below
from tests.faults.kinds import KINDS, Kind
from tests.faults.setup import ROOT, WORKERS, Setup

IMAGES = 12
MODELS = ("faulty-bright", "faulty-forged")
MOST_STARTS_MORE = 6
"""Starts beyond the number of faults after which a run must be complete."""


@dataclass
class Case:
    """One run, in folders of its own."""

    setup: Setup
    seed: int
    runtime: str
    report: Callable[[str], None]
    problems: list[str] = field(default_factory=list)
    faults: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed}-{self.runtime}")
        self.root = self.setup.root / f"case-{self.seed}-{self.runtime}"
        self.images: Path = self.root / "images"
        self.disk: Path = self.root / "disk"
        self.out: Path = self.disk / "out"
        self.model = self.chance.choice(MODELS)
        self.options = [
            "--batch-size",
            str(self.chance.choice((1, 1, 3))),
            "--shard-size",
            str(self.chance.choice((1, 2, 3))),
        ]
        self.options += ["--workers", str(self.chance.choice((1, 2)))]
        self.changed = 0
        """Whether image 5 is its other version."""
        self.is_updating = False
        self.environment = {**self.setup.environment, **self.setup.environments.get(self.runtime, {})}
        self.images.mkdir(parents=True)
        self.disk.mkdir()
        self.workers = WORKERS[self.runtime](self)
        self.limit = self.workers.limit
        for number in range(IMAGES):
            (self.images / f"{number:02}.png").write_bytes(make_image(number, 0))

    def blame(self, problem: str) -> None:
        self.problems.append(problem)

    def toggle_image(self, chance: random.Random) -> None:
        """Replace image 5 by its other version."""
        del chance
        self.changed = 1 - self.changed
        (self.images / "05.png").write_bytes(make_image(5, self.changed))
        self.is_updating = True

    def command(self, fault: str, after: int, out: Path | None = None) -> list[str]:
        """Return the command line of the run."""
        start = [sys.executable, "-m", "tests.faults.command", fault, str(after), str(self.out), "--"]
        where = ["-i", str(self.images), "-o", str(out or self.out), *self.workers.options()]
        update = ["--update"] if self.is_updating and out is None else []
        return [*start, "run", "-m", self.model, *where, *self.options, "--set", "sleep=0.02", *update]

    def start(self, fault: str, after: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(fault, after), cwd=ROOT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self) -> list[str]:
        """Carry the case out; return its problems."""
        is_small = os.geteuid() == 0
        if is_small:
            mount_small_disk(self.disk)
        try:
            self.workers.start()
            self._disturb()
            if not self.problems:
                self._compare()
                self._check_leftovers()
        except subprocess.TimeoutExpired:
            self.blame(f"a command hung for {self.limit:.0f} s")
        except Exception as error:
            self.blame(f"{type(error).__name__}: {error}")
        finally:
            self.workers.close()
            if is_small:
                unmount_below(self.disk)
        if not self.problems:
            shutil.rmtree(self.root)
        return self.problems

    def _disturb(self) -> None:
        """Start the run again and again, each time with a fault, until all came and it is complete."""
        wanted = self.chance.randint(1, 9)
        kinds = [kind for kind in KINDS if self.runtime in kind.runtimes and kind.is_possible()]
        for _ in range(wanted + MOST_STARTS_MORE):
            kind = self.chance.choice(kinds) if self.faults < wanted else None
            self.faults += kind is not None
            code = self._attempt(kind)
            if self.problems or (code == 0 and kind is None):
                return
        self.blame("the run was not complete after all faults")

    def _attempt(self, kind: Kind | None) -> int:
        self.report(f"  {'undisturbed' if kind is None else kind.name}")
        if kind is not None and kind.spoil is not None:
            self.workers.stop_all()
            kind.spoil(self, self.chance)
        wrapped = "none" if kind is None or kind.wrapped is None else kind.wrapped
        started, process = time.monotonic(), self.start(wrapped, self.chance.randrange(0, 120))
        if kind is not None and kind.act is not None:
            # Half of the time while it starts up, else at any time of a run.
            delay = self.chance.choice((self.chance.uniform(0, 0.6), self.chance.uniform(0.3, 2.0)))
            time.sleep(delay * self.workers.pace)
            if process.poll() is None:
                kind.act(self, process, self.chance)
        try:
            _, error = process.communicate(timeout=self.limit)
        finally:
            process.kill()
            if kind is not None and kind.mend is not None:
                kind.mend(self)
        code = process.returncode
        self.report(f"    exit {code} after {time.monotonic() - started:.1f} s")
        if code not in (0, *(() if kind is None else kind.codes)):
            self.blame(f"{'no fault' if kind is None else kind.name}: exit {code}: {error[-1500:]}")
        if ("Traceback" in error and code != -signal.SIGINT) or "bug in orch" in error:
            self.blame(f"{'no fault' if kind is None else kind.name}: {error[-1500:]}")
        return code

    def _compare(self) -> None:
        predictions = Predictions.load(self.out / "predictions.npz")
        names = [f"{number:02}.png" for number in range(IMAGES)]
        if predictions.files != names or any(predictions.status):
            self.blame(f"images are {predictions.files}, failed {list(predictions.status)}")
        if _digest(self.out) != self._reference():
            self.blame("the bytes differ from those of the undisturbed run")

    def _reference(self) -> str:
        key = (self.runtime, self.model, " ".join(self.options[:4]), self.changed)
        if key not in self.setup.references:
            out = self.root / "reference"
            done = subprocess.run(
                self.command("none", 0, out), cwd=ROOT, env=self.environment, timeout=self.limit, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            self.setup.references[key] = _digest(out)
        return self.setup.references[key]

    def _check_leftovers(self) -> None:
        deadline = time.monotonic() + 10
        while (left := self.workers.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            self.blame(f"left behind: {left}")


def make_image(number: int, version: int) -> bytes:
    """Return the content of an image; version 1 is another picture of the same name and size."""
    chance, content = np.random.default_rng([number, version]), io.BytesIO()
    Image.fromarray(chance.integers(0, 255, (24 + number, 32, 3), np.uint8)).save(content, "png")
    return content.getvalue()


def _digest(out: Path) -> str:
    """Digest predictions and mask pictures."""
    digest = hashlib.sha256((out / "predictions.npz").read_bytes())
    for path in sorted((out / "masks").rglob("*.png")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
