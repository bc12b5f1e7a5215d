"""Attacks by a warm worker: on the spool, on other jobs, on the next run, on the commands that look at workers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.predictions.predictions import Predictions
from tests.hostile.arena import Arena, Fight, compare
from tests.hostile.commands import Done
from tests.hostile.table import ANY, BRIGHT, INTERRUPTED, Attack

NOBODY = 65534
STOPPED = 130


@dataclass
class WarmArena(Arena):
    """Runs attacks on a warm worker, which is started again whenever an attack may have spoilt it."""

    is_up: bool = False
    spool: Path = Path()

    def __post_init__(self) -> None:
        if self.spool == Path():
            self.spool = self.home / "spool"

    def spool_folder(self) -> Path:
        """Return the folder that the worker shares with its host."""
        return self.spool

    def fight(self, attacks: Sequence[Attack]) -> Fight:
        """Carry out an attack; then resume the run, make another one, and list the workers."""
        self.start_worker()
        first = attacks[0]
        for model in {first.model, BRIGHT}:
            self.honest_run(model)
        if first.name in INTERRUPTED:
            fight = self._begin(attacks, "--set", "sleep=0.2", interrupt_when=lambda: first.name in self.carried_out())
            self._judge_exit(fight, fight.done, frozenset({0, 1, STOPPED}))
        else:
            fight = self._begin(attacks)
            self._judge_exit(fight, fight.done, frozenset.intersection(*(one.exits for one in attacks)))
        folders = [fight.out]
        if not (fight.out / "summary.json").is_file():
            fight.done = self.run(first.model, fight.out, *fight.settings)
            self._judge_exit(fight, fight.done, ANY)
        self._judge_predictions(fight, attacks)
        if first.name.startswith("spool-"):
            folders.append(fight.out.with_name("after"))
            self._run_afterwards(fight, folders[1])
            self._list_workers(fight)
        self._judge_owners(fight)
        self._judge_reach(fight, folders)
        if first.name.startswith("spool-") or fight.faults:
            self.remove_worker()
        return fight

    def start_worker(self) -> None:
        """Start a worker unless it is up. A neighbour's job lies in the spool: of another stack's worker."""
        if self.is_up:
            return
        other = self.spool / "faulty-cpu" / "jobs" / "other-w0"
        if not other.is_dir():
            other.mkdir(parents=True)
            (self.spool).chmod(0o700)
            (other / "job.json").write_text('{"of": "another worker"}')
            self._give_to_nobody(self.spool / "faulty-cpu")
        up = self.commands.run("up", "hostile", "--idle", 120, "--json")
        if up.code != 0:
            self.remove_worker()
            up = self.commands.run("up", "hostile", "--idle", 120, "--json")
        assert up.code == 0, up
        self.is_up = True

    def remove_worker(self) -> None:
        """Remove the worker and the spool, whatever is in it."""
        self.is_up = False
        for container in self.containers():
            subprocess.run(["docker", "rm", "-f", container], check=False, capture_output=True, timeout=60)
        subprocess.run(["rm", "-rf", str(self.spool)], check=False, capture_output=True, timeout=120)

    def containers(self) -> list[str]:
        """Return the containers that this home's folders are mounted in."""
        listed = subprocess.run(["docker", "ps", "-aq"], check=False, capture_output=True, text=True, timeout=60)
        if not listed.stdout.split():
            return []
        shown = subprocess.run(
            ["docker", "inspect", *listed.stdout.split()], check=False, capture_output=True, text=True, timeout=60
        )
        return [
            one["Id"]
            for one in json.loads(shown.stdout or "[]")
            if any(str(mount.get("Source", "")).startswith(str(self.spool)) for mount in one["Mounts"])
        ]

    def _run_afterwards(self, fight: Fight, out: Path) -> None:
        """Make an honest run on the same spool: it may fail, but neither hang nor be led astray."""
        done = self.run(BRIGHT, out)
        self._judge_exit(fight, done, ANY)
        if (out / "predictions.npz").is_file():
            unequal = compare(Predictions.load(out / "predictions.npz"), self.honest_run(BRIGHT))
            fight.faults += [f"the run after it, image {image}: {fault}" for image, fault in unequal.items()]

    def _list_workers(self, fight: Fight) -> None:
        listed: Done = self.commands.run("ps", timeout=60)
        self._judge_exit(fight, listed, frozenset({0, 4, 5}))

    def _judge_owners(self, fight: Fight) -> None:
        """Judge the owners of what lies in the spool: the caller or the worker's user, whatever a guest claimed."""
        allowed = {os.geteuid(), NOBODY}
        for folder, folders, files in os.walk(self.spool):
            for name in [*folders, *files]:
                with suppress(FileNotFoundError):  # the worker is at work
                    uid = os.lstat(os.path.join(folder, name)).st_uid
                    if uid not in allowed:
                        fight.faults.append(f"{name} was given to uid {uid}")
            if folder.count("/") > 40:
                folders.clear()

    @staticmethod
    def _give_to_nobody(folder: Path) -> None:
        if os.geteuid() != 0:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
