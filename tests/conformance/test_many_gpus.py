"""Several GPUs, made up: the same bytes however many, leases, a GPU that falls off the bus, several models at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.fake_gpus import MODEL, STACK, uneven_costs, write_images, write_nvidia_smi, write_sleepy_stack
from tests.conformance.conftest import Orch

IMAGES = 120


class Machine(Orch):
    """The command line on a machine with made-up GPUs."""

    def __init__(self, home: Path, folder: Path, gpus: int) -> None:
        super().__init__(home, [folder / "stacks"])
        smi = write_nvidia_smi(folder / f"bin-{gpus}", gpus)
        self.environment["PATH"] = f"{smi}{os.pathsep}{self.environment['PATH']}"
        for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
            self.environment.pop(name, None)
        self._used = home / "worker-cache" / f"{STACK}-cuda" / "used"

    def used(self) -> list[str]:
        """The GPUs on which workers loaded the model since this was last asked."""
        found = self._used.read_text().split() if self._used.exists() else []
        self._used.unlink(missing_ok=True)
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, orch_home: Path) -> Callable[[int], Machine]:
    folder = tmp_path_factory.mktemp("gpus")
    write_sleepy_stack(folder / "stacks")
    return lambda gpus: Machine(orch_home, folder, gpus)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), uneven_costs(IMAGES, mean=10))


@pytest.fixture(autouse=True)
def _all_gpus_work(orch_home: Path) -> None:
    for marker in (orch_home / "worker-cache" / f"{STACK}-cuda").glob("lost-*"):
        marker.unlink()


def command(images: Path, out: Path, *more: object) -> tuple[object, ...]:
    return "run", "-m", MODEL, "-i", images, "--runtime", "venv", "-o", out, *more


def digest(out: Path) -> str:
    return hashlib.sha256((out / "predictions.npz").read_bytes()).hexdigest()


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_eight_gpus_one_gpu_and_two_workers_each_give_the_same_bytes(
    machine: Callable[[int], Machine], images: Path, tmp_path: Path
) -> None:
    eight, one = machine(8), machine(1)
    eight.used()
    eight(*command(images, tmp_path / "eight"))
    assert sorted(eight.used()) == [f"GPU-fake-{number}" for number in range(8)], "one worker on each"
    one(*command(images, tmp_path / "one"))
    assert one.used() == ["GPU-fake-0"]
    two = machine(2)
    two(*command(images, tmp_path / "two", "--workers-per-gpu", 2))
    assert sorted(two.used()) == ["GPU-fake-0"] * 2 + ["GPU-fake-1"] * 2
    eight(*command(images, tmp_path / "named", "--device", "5,2"))
    assert sorted(eight.used()) == ["GPU-fake-2", "GPU-fake-5"]
    assert len({digest(tmp_path / name) for name in ("eight", "one", "two", "named")}) == 1


def test_a_gpu_that_falls_off_the_bus_loses_its_place_and_not_the_run(
    machine: Callable[[int], Machine], images: Path, tmp_path: Path
) -> None:
    three = machine(3)
    three(*command(images, tmp_path / "whole", "--set", "lose=GPU-none"))
    done = three(*command(images, tmp_path / "lost", "--set", "lose=GPU-fake-1"))
    assert "GPU-fake-1 is no longer used" in done.stderr
    found = summary(tmp_path / "lost")
    assert (found["predicted"], found["failed"]) == (IMAGES, 0)
    assert [one.partition(": ")[0] for one in found["retired"]] == ["cuda:GPU-fake-1"]
    shards = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / "lost/shards").glob("*.npz"))
    ]
    assert len(shards) == 30


def test_the_last_gpu_lost_fails_the_run_which_can_be_resumed(
    machine: Callable[[int], Machine], images: Path, tmp_path: Path
) -> None:
    common = command(images, tmp_path / "run", "--set", "lose=GPU-fake-0")
    failed = machine(1)(*common, expect=4)
    assert "fallen off the bus" in failed.stderr
    resumed = machine(2)(*common, "--device", "1")
    assert resumed.returncode == 0
    assert summary(tmp_path / "run")["predicted"] == IMAGES


def test_a_run_waits_for_the_gpu_of_another_one(
    machine: Callable[[int], Machine], images: Path, tmp_path: Path
) -> None:
    one = machine(1)
    first = one.start(*command(images, tmp_path / "first", "--set", "scale=10"))
    _until(lambda: (tmp_path / "first" / "events.jsonl").exists(), first)
    refused = one(*command(images, tmp_path / "second", "--no-wait"), expect=4)
    assert "all GPUs are in use" in refused.stderr
    assert f"process {first.pid}" in refused.stderr
    second = one.start(*command(images, tmp_path / "second"))
    assert second.stderr is not None
    said = next(line for line in second.stderr if line.startswith("waiting"))
    assert said.startswith("waiting for a GPU: cuda:GPU-fake-0 is used by sleepy-example into ")
    first.kill()  # what dies without a word holds nothing
    first.communicate()
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert summary(tmp_path / "second")["predicted"] == IMAGES


def test_several_models_share_the_gpus_and_ctrl_c_stops_all(
    machine: Callable[[int], Machine], images: Path, tmp_path: Path
) -> None:
    two = machine(2)
    (tmp_path / "orch.yaml").write_text(
        f"models:\n- {{model: {MODEL}, name: a}}\n- {{model: {MODEL}, name: b, settings: {{threshold: 100}}}}\n"
        f"images: {images}\nrun: {{runtime: venv, settings: {{scale: 3}}}}\nout: result\nreport: false\n"
    )
    two.used()
    process = two.start("run", "-f", tmp_path / "orch.yaml")
    result = tmp_path / "result"
    _until(lambda: all(list((result / name / "shards").glob("*.npz")) for name in "ab"), process)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert sorted(two.used()) == ["GPU-fake-0", "GPU-fake-1"], "each run had one GPU"
    done = two("run", "-f", tmp_path / "orch.yaml", "--json")
    found = json.loads(done.stdout)
    assert {name: one["predicted"] for name, one in found["runs"].items()} == {"a": IMAGES, "b": IMAGES}
    assert (result / "comparison.json").is_file()


def _until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
