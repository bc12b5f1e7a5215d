"""`orch plan` and `orch doctor --model` through the command line: tables, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ImageNotFound

from orchestrator.cli import main
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu, Machine, write_machine
from orchestrator.hardware.detection import NO_DRIVER
from orchestrator.system.container_engine import Engine
from orchestrator.workflows.preview import WeightsPreview

H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 81559, "9.0", "535.104.05")


@pytest.fixture
def node(tmp_path: Path) -> str:
    path = tmp_path / "node.json"
    path.write_text(write_machine(Machine((H100,), "535.104.05", "12.2", source="NVML")))
    return str(path)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no GPU and no engine."""
    monkeypatch.setattr("orchestrator.hardware.detect_machine", lambda: Machine(lacks=NO_DRIVER))
    monkeypatch.setattr("orchestrator.workflows.doctor.detect_machine", lambda: Machine(lacks=NO_DRIVER))

    def connect() -> None:
        raise MachineError("no container engine answers", why="no such socket")

    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.connect", connect)


def test_a_plan_for_another_machine(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fformer-swin", "--machine", node]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:4] for row in rows] == [
        ["variant", "device", "name", "runs"],
        ["cu102", "0", "NVIDIA H100 80GB HBM3", "no"],
        ["cu121", "0", "NVIDIA H100 80GB HBM3", "yes"],
        ["cu111", "0", "NVIDIA H100 80GB HBM3", "no"],
        ["cpu", "cpu", "processor", "yes"],
        ["cpu-modern", "cpu", "processor", "yes"],
    ]
    assert err.startswith("orch run selects the variant cu121 on GPU 0 (NVIDIA H100 80GB HBM3): fits NVIDIA H100")
    assert "must be downloaded manually" in err
    assert "runtime" not in err  # of a machine that is only described nobody knows


def test_a_plan_as_json(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "amrcnn-r50-fpn", "--machine", node, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0] == {
        "device": "0", "name": "NVIDIA H100 80GB HBM3", "variant": "cuda", "runs": "jit", "minutes": 30,
        "why": "compiled by the driver from PTX 8.0 at the first start, about 30 minutes, then kept",
        "on_request": False,
    }  # fmt: skip
    assert (document["chosen"]["variant"], document["chosen"]["devices"]) == ("cuda", ["cuda:GPU-1"])
    assert (document["exit_code"], document["error"], document["runtime"]) == (0, None, None)
    assert document["downloads"][0]["state"] == "missing"


@pytest.mark.parametrize("options", [["--variant", "cu102"], ["--device", "1"], ["--device", "GPU-2"]])
def test_a_plan_that_cannot_be_ends_with_4(node: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fformer-swin", "--machine", node, *options]) == 4
    assert "error: " in capsys.readouterr().err
    assert main(["plan", "fformer-swin", "--machine", node, *options, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 4


@pytest.mark.parametrize(
    "arguments",
    [["plan"], ["plan", "fformer-swan"], ["plan", "facere", "--variant", "x"], ["plan", "facere", "--device", "gpu"],
     ["plan", "facere", "--machine", "/nowhere.json"], ["plan", "facere", "--runtime", "x"],
     ["doctor", "--model", "fformer-swan"]],
)  # fmt: skip
def test_mistakes_of_the_user_end_with_2(bare: None, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err


def test_this_machine_is_written_down_for_planning_elsewhere(
    bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "this.json")
    assert main(["plan", "--save-machine", file]) == 0
    assert main(["plan", "facere", "--machine", file, "--device", "cuda"]) == 4
    assert NO_DRIVER in capsys.readouterr().err


def test_on_this_machine_the_runtime_and_what_is_built_are_said(bare: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "facere", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["runtime"], document["environment"]["built"]) == ("venv", False)
    assert document["chosen"]["why"] == "no GPU to use on this machine"
    assert document["workers"]["file_size"] == 8 << 30
    assert main(["plan", "facere"]) == 0
    assert "each with at most 8.0 GiB per file, 16.0 GiB of results under way" in capsys.readouterr().err


def test_an_engine_that_shows_no_gpus_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def get(tag: str) -> None:
        raise ImageNotFound(tag)

    nothing: Any = SimpleNamespace(images=SimpleNamespace(get=get))
    monkeypatch.setattr("orchestrator.hardware.detect_machine", lambda: Machine((H100,), "535.104.05"))
    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.connect", lambda: Engine(nothing, "unix:///e", "28", {}))
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["plan", "facere"]) == 4
    assert "the engine gives its containers no GPU" in capsys.readouterr().err
    assert main(["plan", "facere", "--runtime", "venv"]) == 0
    capsys.readouterr()
    assert main(["plan", "facere", "--device", "cpu", "--runtime", "docker", "--json"]) == 0
    workers = json.loads(capsys.readouterr().out)["workers"]
    assert (workers["processes"], workers["memory"]) == (2048, None)  # this engine does not say what memory it has
    assert not workers["user"].startswith("0:")


def test_the_doctor_says_where_a_model_would_run(bare: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", "facere", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["chosen"]["variant"] == "cpu"
    assert document["findings"]
    main(["doctor", "--model", "facere"])
    out, err = capsys.readouterr()
    assert "cuda\tcuda\tno GPU\tno" in out
    assert "orch run selects the variant cpu on the CPU" in err


def test_orch_run_without_the_gpu_it_was_asked_for_ends_with_4(
    bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.hardware.detection.detect_machine", lambda: Machine(lacks=NO_DRIVER))
    out = tmp_path / "run"
    assert main(["run", "-m", "facere", "-i", "docs/images", "--device", "cuda", "--out", str(out)]) == 4
    assert f"why:  {NO_DRIVER}" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("download", "text"),
    [
        (WeightsPreview("a", "a.pth", "present", 5), "a.pth: present"),
        (WeightsPreview("a", "a.pth", "missing", 5_000_000, 5_000_000), "a.pth: to be fetched, 5 MB"),
        (WeightsPreview("a", "a.pth", "missing", 5_000_000, 9_000_000), "a.pth: to be fetched, 5 to 9 MB"),
        (WeightsPreview("a", "a.pth", "missing"), "a.pth: to be fetched, size not known"),
        (
            WeightsPreview("a", "a.pth", "missing", by_hand=True),
            "a.pth: must be downloaded manually (orch weights list explains how)",
        ),
    ],
)
def test_what_is_to_be_fetched(download: WeightsPreview, text: str) -> None:
    assert download.text() == text


def test_a_gpu_that_the_scheduler_gave_and_that_is_gone_ends_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.hardware.detection.read_nvml", lambda: None)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    rows = "0, GPU-0, NVIDIA A10, 23028, 22000, 8.6, 535.104.05\n1" + ", [GPU is lost]" * 6
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{rows}'\nexit 15\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    out = tmp_path / "run"
    for value in ("1", "7", "GPU-9", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert main(["run", "-m", "facere", "-i", "docs/images", "--runtime", "venv", "--out", str(out)]) == 4
        err = capsys.readouterr().err
        assert f"CUDA_VISIBLE_DEVICES={value} names a GPU that cannot be used" in err
        assert "GPU 1 does not answer: GPU is lost" in err
        assert not out.exists()
    assert main(["plan", "facere", "--runtime", "venv"]) == 4
    assert main(["plan", "facere", "--runtime", "venv", "--device", "cpu"]) == 0
    for value, device in (("", "cpu"), ("-1", "cpu"), ("0", "cuda")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        capsys.readouterr()
        assert main(["plan", "facere", "--runtime", "venv", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["chosen"]["device"] == device
