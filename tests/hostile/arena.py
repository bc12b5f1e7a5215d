"""Carries out attacks and judges what came of them, the same way for all runtimes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.predictions.predictions import Predictions
from tests.hostile.commands import Commands, Done
from tests.hostile.outside import Outside, files_below
from tests.hostile.table import FORGED, Attack

SHARDS, SHARD_SIZE = 12, 2
EXECUTABLE = 0o111 | stat.S_ISUID | stat.S_ISGID
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What must not reach a terminal: control characters but newline and tab, and those that turn text around."""
LARGEST = {"events.jsonl": 16 << 20, "summary.json": 1 << 20, "predictions.npz": 16 << 20}
"""Bytes of the files of a run, which no flood may make larger."""
LARGEST_OUTPUT = 256 << 10


def write_images(folder: Path) -> Path:
    """Write the images of all runs: small, each with one bright region."""
    folder.mkdir()
    folder.chmod(0o755)
    for number in range(SHARDS * SHARD_SIZE):
        pixels = np.zeros((40, 50, 3), np.uint8)
        pixels[5 : 15 + number, 10 : 30 + number % 7] = 250
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@dataclass
class Fight:
    """A run that was attacked: its folder, the command, what it could reach, and what is wrong."""

    out: Path
    done: Done
    outside: Outside
    carried_out: frozenset[str]
    faults: list[str] = field(default_factory=list)
    victims: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong with the images of each attack's own shard."""
    settings: tuple[str, ...] = ()
    """The options that name the attack."""


@dataclass
class Arena:
    """Runs attacks on one runtime."""

    commands: Commands
    home: Path
    images: Path
    folder: Path
    options: tuple[str, ...]
    """Of `orch run`: the runtime."""
    honest: dict[str, Path] = field(default_factory=dict)
    """Run folders without an attack, by model."""
    calls: dict[str, str] = field(default_factory=dict)
    """Calls below guests' trees by other code than the door's, of all commands so far: the path by call and line."""
    count: int = 0

    def fight(self, attacks: Sequence[Attack]) -> Fight:
        """Carry out attacks in one run, the first on shard 1, the next on shard 2, and so on; judge the run."""
        fight = self._begin(attacks)
        self._judge(fight, attacks)
        return fight

    def _begin(self, attacks: Sequence[Attack], *more: str, interrupt_when: Callable[[], bool] | None = None) -> Fight:
        self.count += 1
        here = self.folder / f"{self.count:03d}-{attacks[0].name}"
        here.mkdir()
        outside = Outside(here / "outside").make()
        self.forget_attacks()
        model = attacks[0].model
        named = ",".join(f"{one.name}@{shard}" for shard, one in enumerate(attacks, 1))
        settings = ("--set", f"attack={named}", "--set", f"target={outside.root}")
        done = self.run(model, here / "run", *settings, *more, interrupt_when=interrupt_when)
        if done.hung:
            end_processes_of(here)
        return Fight(here / "run", done, outside, self.carried_out(), settings=(*settings, *more))

    def run(self, model: str, out: Path, *more: str, interrupt_when: Callable[[], bool] | None = None) -> Done:
        """Run the images through a model."""
        where = ("-i", self.images, "-o", out, "--shard-size", SHARD_SIZE)
        trees = (rf"^{re.escape(str(out))}/jobs/[^/]+/out(/|$)", rf"^{re.escape(str(self.spool_folder()))}/[^/]+/")
        given = ("run", "-m", model, *where, *self.options, *more)
        return self.commands.run(*given, trees=trees, interrupt_when=interrupt_when)

    def spool_folder(self) -> Path:
        """Return the folder that warm workers share with their host."""
        return self.home / "spool"

    def honest_run(self, model: str) -> Predictions:
        """Return the predictions of a model that attacks nothing."""
        if model not in self.honest:
            out = self.folder / f"honest-{model}"
            done = self.run(model, out)
            assert done.code == 0, done
            self._note_calls(done)
            self.honest[model] = out
        return Predictions.load(self.honest[model] / "predictions.npz")

    # --- judging

    def _judge(self, fight: Fight, attacks: Sequence[Attack]) -> None:
        done = fight.done
        allowed = frozenset.intersection(*(one.exits for one in attacks))
        self._judge_exit(fight, done, allowed)
        is_caller = "venv" in self.options
        own = is_caller and any(one.follows for one in attacks)
        self._judge_reach(fight, [fight.out], links=not any(one.hard_link for one in attacks), own=own)
        self._judge_predictions(fight, attacks)

    def _judge_exit(self, fight: Fight, done: Done, allowed: frozenset[int]) -> None:
        if done.hung:
            fight.faults.append(f"hung for {done.seconds:.0f} s")
        elif done.code not in allowed:
            fight.faults.append(f"exit {done.code}, expected one of {sorted(allowed)}")
        fight.faults += said_to_terminal(done)
        if len(done.stderr) > LARGEST_OUTPUT:
            fight.faults.append(f"{len(done.stderr)} bytes were printed")
        self._note_calls(done)

    def _note_calls(self, done: Done) -> None:
        for call in done.calls:
            self.calls[f"{call['event']} by {call['by']}"] = call["path"]

    def _judge_reach(self, fight: Fight, folders: Sequence[Path], *, links: bool = True, own: bool = False) -> None:
        """Judge what the attack reached: the files outside, copies of the secret, modes in these run folders.

        `links`: whether a further name of a file outside counts. `own`: the guest is the caller, who may write there.
        """
        faults = fight.faults
        if not own:
            faults += [f"outside: {one}" for one in fight.outside.changes(links=links)]
        for folder in folders:
            for name, limit in LARGEST.items():
                path = folder / name
                if path.is_file() and path.stat().st_size > limit:
                    faults.append(f"{name} has {path.stat().st_size} bytes")
            faults += [f"the secret is in {path}" for path in fight.outside.traces(folder)]
            faults += self.stray_modes(folder)
        faults += [f"the guest reached {one}" for one in self.reached()]
        if Path("/tmp/orch-hostile-pickle").exists():
            Path("/tmp/orch-hostile-pickle").unlink()
            faults.append("a pickle was loaded")

    def _judge_predictions(self, fight: Fight, attacks: Sequence[Attack]) -> None:
        path = fight.out / "predictions.npz"
        if not os.path.lexists(path):
            if fight.done.code in (0, 1):
                fight.faults.append("no predictions")
            return
        valid = self.commands.run("validate", path)
        if valid.code != 0:
            fight.faults.append(f"orch validate: {valid}")
            return
        try:
            predictions = Predictions.load(path)
        except Exception as error:
            fight.faults.append(f"cannot be loaded: {error}")
            return
        model = attacks[0].model
        unequal = compare(predictions, self.honest_run(model))
        if fight.done.code == 0 and predictions.status.any():
            fight.faults.append("exit 0 with failed images")
        if model == FORGED:
            unequal |= self._compare_pictures(predictions, fight.out, self.honest[FORGED])
        for image, fault in sorted(unequal.items()):
            shard = image // SHARD_SIZE
            if 1 <= shard <= len(attacks):
                fight.victims.setdefault(attacks[shard - 1].name, []).append(f"image {image}: {fault}")
            else:
                fight.faults.append(f"image {image}, which was not attacked: {fault}")
        failed = [image for image in np.flatnonzero(predictions.status) if not 1 <= image // SHARD_SIZE <= len(attacks)]
        if len(failed) and all(one.batched for one in attacks):
            reasons = sorted({str(predictions.error[image]) for image in failed})
            fight.faults.append(f"images {failed}, which were not attacked, failed: {reasons}")

    def _compare_pictures(self, predictions: Predictions, out: Path, honest: Path) -> dict[int, str]:
        unequal = {}
        for image, file in enumerate(predictions.files):
            if predictions.status[image]:
                continue
            ours, theirs = out / "masks" / f"{file}.png", honest / "masks" / f"{file}.png"
            if not ours.is_file() or ours.is_symlink():
                unequal[image] = "its picture is missing"
            elif ours.read_bytes() != theirs.read_bytes():
                unequal[image] = "its picture is another"
        return unequal

    def stray_modes(self, out: Path) -> list[str]:
        """Return files with set-uid, set-gid or execute bits, except in folders of workers whose run is unfinished."""
        found = []
        for path in files_below(out):
            state = os.lstat(path)
            in_job = f"{out}/jobs/" in path and state.st_uid != os.geteuid()
            if stat.S_ISREG(state.st_mode) and state.st_mode & EXECUTABLE and not in_job:
                if "venv" in self.options and f"{out}/jobs/" in path:
                    continue  # with the venv runtime the guest is the caller: its folder is its own
                found.append(f"mode {stat.filemode(state.st_mode)}: {os.path.relpath(path, out)}")
        return found

    # --- the cache of workers

    def _caches(self) -> list[Path]:
        return list((self.home / "worker-cache").glob("hostile-*"))

    def forget_attacks(self) -> None:
        """Empty the caches of workers."""
        for cache in self._caches():
            for path in cache.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def reached(self) -> list[str]:
        """Return what guests say that they reached."""
        return [path.read_text() for cache in self._caches() for path in cache.glob("reached-*")]

    def carried_out(self) -> frozenset[str]:
        """Return the attacks that took place since they were last forgotten."""
        names = [path.name for cache in self._caches() for path in cache.iterdir()]
        return frozenset(name.removeprefix("attacked-") for name in names if name.startswith("attacked-"))


def compare(predictions: Predictions, honest: Predictions) -> dict[int, str]:
    """Return what is wrong with images that are neither predicted as in an honest run nor failed with a reason."""
    if predictions.files != honest.files:
        return {0: f"other images: {predictions.files[:5]}"}
    unequal: dict[int, str] = {}
    for image in range(len(honest)):
        if predictions.status[image]:
            if not str(predictions.error[image]).strip():
                unequal[image] = "failed without a reason"
            continue
        one, other = predictions[image], honest[image]
        different = [
            name for name in ("image_size", "boxes", "classes", "scores", "masks") if not same(one, other, name)
        ]
        if different:
            unequal[image] = f"other {', '.join(different)} than in an honest run"
    return unequal


def same(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    """Whether two records have the same value."""
    if isinstance(one[name], np.ndarray):
        return bool(np.array_equal(one[name], other[name]))
    return bool(one[name] == other[name])


def said_to_terminal(done: Done) -> list[str]:
    """Return what a command printed that a terminal or a CI log would take for an instruction."""
    faults = []
    for name, content in (("stdout", done.stdout), ("stderr", done.stderr)):
        text = content.decode("utf-8", errors="backslashreplace")
        found = CONTROL.search(text)
        if found is not None:
            around = text[max(0, found.start() - 40) : found.start() + 40]
            faults.append(f"{name} has control characters: {around!r}")
        if any(line.lstrip().startswith("::") for line in text.splitlines()):
            faults.append(f"{name} has a command for the CI runner")
    if b"Traceback" in done.stderr:
        faults.append("a traceback")
    return faults


def summary_of(out: Path) -> dict[str, Any]:
    """Return the summary of a run."""
    loaded: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return loaded


def end_processes_of(folder: Path) -> None:
    """End the workers that a killed command left: the processes whose command line names a path below `folder`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
