"""`orch run --warm` with warm workers as plain processes: the same arrays as cold, whatever dies in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder
from tests.conformance.conftest import TEST_STACKS, Orch
from tests.conformance.pictures import photograph

ARRAYS = (
    "image_file",
    "image_size",
    "status",
    "error",
    "offsets",
    "boxes",
    "classes",
    "scores",
    "masks",
    "mask_offsets",
)


@dataclass
class Warm:
    """A warm worker of a stack, made of the files a cold one is made of, run by the environment `orch build` makes."""

    orch: Orch
    stack: str
    root: Path
    python: str
    spool: Path = field(init=False)
    served: Path = field(init=False)
    """The spool's folder of the worker's variant."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spool = self.root / "spool"
        variant = VariantSpool(self.spool, self.stack, "cpu")
        self.served = variant.root
        make_variant_folder(variant, (os.getuid(), os.getgid()), is_default=False)
        for name in ("opt", "data", "cache"):
            (self.root / name).mkdir(exist_ok=True)
        entry = load_catalog([TEST_STACKS]).stack(self.stack)
        build_inputs(entry, "cpu", BuildOptions()).write_context(self.root / "opt", {})

    def start(self, **environment: str) -> Warm:
        """Start it, and wait until it shows itself."""
        weights = Path(self.orch.environment["ORCH_HOME"]) / "weights" / self.stack
        weights.mkdir(parents=True, exist_ok=True)
        paths = {name: str(self.root / name) for name in ("data", "cache", "opt")} | {"weights": str(weights)}
        own = {"ORCH_STACK": self.stack, "ORCH_VARIANT": "cpu", "ORCH_DEVICE": "cpu", "ORCH_PATHS": json.dumps(paths)}
        own |= {"ORCH_DATA_HOST": str(self.root / "data"), "PYTHONPATH": str(self.root / "opt" / "runner")}
        before = set(self.beats())
        with (self.root / "log.txt").open("ab") as log:
            command = [self.python, "-m", "orch_runner.serve", str(self.served)]
            process = subprocess.Popen(command, env={**os.environ, **own, **environment}, stderr=log)
        self.processes.append(process)
        wait_for(lambda: set(self.beats()) - before)
        return self

    def beats(self) -> list[str]:
        """The workers that show themselves."""
        return [path.name for path in (self.served / "workers").glob("*[!s].json") if path.name[0] != "."]

    @property
    def log(self) -> str:
        """What it said."""
        return (self.root / "log.txt").read_text()

    def pictures(self, count: int, folder: str = "photos") -> Path:
        """That many small images in its folder of images."""
        target = self.root / "data" / folder
        target.mkdir(exist_ok=True)
        for number in range(count):
            Image.fromarray(photograph(80 + number % 50, 60 + number % 7)).save(target / f"{number:03}.png")
        return target

    def command(self, model: str, images: Path, out: Path, *more: object) -> tuple[object, ...]:
        """`orch run` on it alone."""
        return ("run", "--warm", "--spool", self.spool, "-m", model, "-i", images, "-o", out, *more)

    def left(self) -> list[str]:
        """What lies in the spool's folders of jobs, tickets, claims and images."""
        patterns = ("jobs/*", "tickets/*", "claimed/*/*", "data/*")
        return [str(path) for pattern in patterns for path in self.served.glob(pattern)]

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def more_than(count: int, shards: Path) -> bool:
    """Whether there are more shards than that."""
    return len(list(shards.glob("[!.]*.npz"))) > count


def python_of(orch: Orch, stack: str) -> str:
    """The interpreter of the stack's environment."""
    built = orch("build", stack, "--runtime", "venv", "--json")
    return str(Path(json.loads(built.stdout)["location"]) / "bin" / "python")


@pytest.fixture
def make_warm(orch: Orch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Warm]]:
    """Makes warm workers that are not started."""
    monkeypatch.delenv("ORCH_BASE_IMAGE", raising=False)
    made: list[Warm] = []

    def make(stack: str) -> Warm:
        folder = tmp_path / f"warm-{stack}"
        folder.mkdir()
        made.append(Warm(orch, stack, folder, python_of(orch, stack)))
        return made[-1]

    yield make
    for warm in made:
        warm.close()


@pytest.fixture
def faulty(make_warm: Callable[[str], Warm]) -> Warm:
    return make_warm("faulty").start()


def assert_equal(one: Path, other: Path) -> None:
    """The arrays of two runs."""
    loaded = [Predictions.load(path / "predictions.npz") for path in (one, other)]
    for name in ARRAYS:
        assert np.array_equal(getattr(loaded[0], name), getattr(loaded[1], name)), name


def images_done(out: Path) -> int:
    """Images of all shards that were reported done, as often as they were."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return sum(event["images"] for event in events if event["event"] == "shard_done")


@pytest.mark.parametrize(("stack", "name"), [("garments", "garments-tiny"), ("faulty", "faulty-forged")])
def test_warm_and_cold_give_equal_arrays_and_masks(
    orch: Orch, make_warm: Callable[[str], Warm], stack: str, name: str, tmp_path: Path
) -> None:
    warm = make_warm(stack).start()
    photos = warm.pictures(7)
    orch("run", "-m", name, "-i", photos, "--runtime", "venv", "-o", tmp_path / "cold")
    said = orch(*warm.command(name, photos, tmp_path / "warm")).stderr
    assert f"warm worker {warm.beats()[0].removesuffix('.json')} in {warm.spool}" in said
    assert_equal(tmp_path / "cold", tmp_path / "warm")
    masks = [sorted((tmp_path / kind / "masks").rglob("*.png")) for kind in ("cold", "warm")]
    assert [path.name for path in masks[0]] == [path.name for path in masks[1]]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]
    assert bool(masks[0]) == (stack == "faulty")
    assert warm.left() == []
    log = next((tmp_path / "warm" / "logs").iterdir())
    assert log.name.startswith("w0-")
    assert "complete already" in orch(*warm.command(name, photos, tmp_path / "warm")).stderr


def test_a_fitting_worker_is_used_by_itself_and_not_where_it_was_not_wanted(
    orch: Orch, faulty: Warm, tmp_path: Path
) -> None:
    photos = faulty.pictures(3)
    environment = {**orch.environment, "ORCH_SPOOL": str(faulty.spool)}
    said = {}
    for name, more in (("auto", ()), ("no", ("--no-warm", "--runtime", "venv")), ("venv", ("--runtime", "venv"))):
        command = orch.command("run", "-m", "faulty", "-i", photos, "-o", tmp_path / name, *more)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said[name] = done.stderr
    assert "warm worker" in said["auto"]
    assert "warm worker" not in said["no"] + said["venv"]
    assert faulty.log.count(": started") == 1
    assert_equal(tmp_path / "auto", tmp_path / "venv")


def test_asked_for_with_none_there_it_says_what_to_type(
    orch: Orch, make_warm: Callable[[str], Warm], tmp_path: Path
) -> None:
    warm = make_warm("faulty")
    command = warm.command("faulty", warm.pictures(1), tmp_path / "out")
    done = orch(*command, expect=4)
    assert "none of faulty is up" in done.stderr
    assert "docker compose up -d" in done.stderr
    assert "orch up faulty" in done.stderr
    (warm.root / "opt" / "stack" / "predictor.py").write_text("# another one\n")
    warm.start()
    done = orch(*command, expect=4)
    assert "it was built from another stack/predictor.py" in done.stderr
    assert not (tmp_path / "out").exists()
    assert orch(*command, "--runtime", "venv", expect=2).stderr.count("--warm cannot be used") == 1


def test_a_second_command_leaves_the_staged_images_of_the_first_alone(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    shutil.copytree(faulty.pictures(24), tmp_path / "outside")
    more = ("--shard-size", 2, "--set", "sleep=0.1")
    command = faulty.command("faulty", tmp_path / "outside", tmp_path / "out", *more)
    running = orch.start(*command)
    wait_for(partial(more_than, 1, tmp_path / "out" / "shards"))
    assert "another orch is writing" in orch(*command, expect=2).stderr
    assert len(list(faulty.served.glob("data/*/*/*.png"))) == 24
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert faulty.left() == []


def test_a_worker_killed_in_the_middle_loses_nothing(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    photos = faulty.pictures(60)
    more = ("--shard-size", 4, "--set", "sleep=0.02")
    orch("run", "-m", "faulty", "-i", photos, "--runtime", "venv", "-o", tmp_path / "cold", *more)
    running = orch.start(*faulty.command("faulty", photos, tmp_path / "warm", *more))
    shards = tmp_path / "warm" / "shards"
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = len(list(shards.glob("[!.]*.npz")))
        wait_for(partial(more_than, before + 1, shards))
        faulty.processes[-1].send_signal(number)
        faulty.processes[-1].wait(30)
        faulty.start()
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert said.count("was lost") >= 2
    assert_equal(tmp_path / "cold", tmp_path / "warm")
    assert images_done(tmp_path / "warm") == 60
    assert faulty.left() == []


def test_a_stopped_run_goes_on_warm(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    photos = faulty.pictures(40)
    command = faulty.command("faulty", photos, tmp_path / "out", "--shard-size", 8, "--set", "sleep=0.03")
    process = orch.start(*command)
    wait_for(lambda: list((tmp_path / "out" / "shards").glob("[!.]*.npz")))
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert faulty.left() == []
    parts = list((tmp_path / "out" / "shards").glob("*.part.npz"))
    again = orch(*command)
    assert "resuming" in again.stderr
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert any(event.get("reused", 0) for event in events) == bool(parts)
    assert images_done(tmp_path / "out") == 40
    assert not list((tmp_path / "out" / "shards").glob("*.part.npz"))


def test_an_orch_that_was_killed_leaves_nothing_for_long(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    photos = faulty.pictures(40)
    command = faulty.command("faulty", photos, tmp_path / "out", "--shard-size", 4, "--set", "sleep=0.03")
    process = orch.start(*command)
    wait_for(lambda: list((tmp_path / "out" / "shards").glob("[!.]*.npz")))
    process.kill()
    process.communicate()
    assert faulty.left() != []
    orch(*command)
    assert Predictions.load(tmp_path / "out" / "predictions.npz").status.tolist() == [0] * 40
    wait_for(lambda: not faulty.left())  # the worker lets go of the job that was taken away


def test_an_image_that_kills_costs_its_own_run_alone(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    bad, good = faulty.pictures(8, "bad"), faulty.pictures(40, "good")
    (bad / "003.png").rename(bad / "poison.png")
    more = ("--set", "die=poison", "--set", "sleep=0.02", "--shard-size", 4)
    running = orch.start(*faulty.command("faulty", good, tmp_path / "good", *more))
    wait_for(lambda: list((tmp_path / "good" / "shards").glob("[!.]*.npz")))
    done = orch(*faulty.command("faulty", bad, tmp_path / "bad", *more), expect=1)
    assert "poison.png: the worker died on this image (exit 17)" in done.stderr
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert said.count("was lost") <= 1
    predictions = Predictions.load(tmp_path / "bad" / "predictions.npz")
    assert [file for file, status in zip(predictions.files, predictions.status, strict=True) if status] == [
        "poison.png"
    ]
    assert Predictions.load(tmp_path / "good" / "predictions.npz").status.tolist() == [0] * 40
    assert images_done(tmp_path / "good") == 40


def test_an_image_on_which_predict_hangs_costs_its_own_run_alone(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    images = faulty.pictures(6)
    hung = faulty.command(
        "faulty", images, tmp_path / "hung", "--set", "hang=004", "--batch-timeout", 1, "--shard-size", 6
    )
    said = orch(*hung, expect=1).stderr
    assert "a batch took longer than" in said
    predictions = Predictions.load(tmp_path / "hung" / "predictions.npz")
    assert [file for file, status in zip(predictions.files, predictions.status, strict=True) if status] == [
        predictions.files[4]
    ]
    orch(*faulty.command("faulty", images, tmp_path / "sound"))
    assert faulty.left() == []


def test_eight_runs_of_two_models_at_once_all_complete(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    photos = faulty.pictures(12)
    models = ("faulty-bright", "faulty-forged")
    running = [
        orch.start(*faulty.command(models[at % 2], photos, tmp_path / str(at), "--set", "sleep=0.01"))
        for at in range(8)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 8, said
    assert_equal(tmp_path / "0", tmp_path / "6")
    assert_equal(tmp_path / "1", tmp_path / "7")
    assert faulty.log.count("loaded in") == 2
    assert faulty.left() == []


def test_images_elsewhere_are_copied(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    inside = faulty.pictures(4)
    outside = tmp_path / "elsewhere"
    (outside / "deep").mkdir(parents=True)
    for path in inside.iterdir():
        (outside / "deep" / path.name).write_bytes(path.read_bytes())
    orch(*faulty.command("faulty", inside, tmp_path / "inside"))
    said = orch(*faulty.command("faulty", outside, tmp_path / "copied")).stderr
    assert "4 images (0 MB) copied into the spool" in said  # linked, the worker could write to them
    one, other = (Predictions.load(tmp_path / name / "predictions.npz") for name in ("inside", "copied"))
    assert np.array_equal(one.masks, other.masks)
    assert faulty.left() == []


def test_images_too_large_to_copy_name_the_mount_or_go_cold(orch: Orch, faulty: Warm, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    outside = Path(tempfile.mkdtemp(dir=memory))
    try:
        Image.fromarray(photograph(80, 60)).save(outside / "one.png")
        said = orch(*faulty.command("faulty", outside, tmp_path / "copied")).stderr
        assert "1 image (0 MB) copied into the spool" in said
        orch.environment["ORCH_SPOOL_COPY_LIMIT"] = "10"
        said = orch(*faulty.command("faulty", outside, tmp_path / "refused"), expect=4).stderr
        assert f"ORCH_DATA={outside} docker compose up -d" in said
        cold = ("run", "--spool", faulty.spool, "-m", "faulty", "-i", outside, "-o", tmp_path / "cold", "--offline")
        said = orch(*cold, expect=None).stderr
        assert f"not using a warm worker: the warm worker cannot read {outside}" in said
        assert faulty.log.count(": started") == 1
    finally:
        orch.environment.pop("ORCH_SPOOL_COPY_LIMIT", None)
        shutil.rmtree(outside)
