"""Files that torch.load would run are refused before it sees them; PyTorch itself is a stand-in here."""

from __future__ import annotations

import importlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import pytest
from orch_runner.contract import Fatal
from orch_runner.torch_checkpoint import refuse_programs

IMAGES = Path(__file__).resolve().parents[3] / "images"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for torch, with the checks of torch.load; the list gets the files that it was asked to load."""
    files: list[str] = []

    def load(path: str, **options: Any) -> dict[str, Any]:
        files.append(str(path))
        return {"model": {"a": 1}, "state_dict": {"a": 1}}

    @contextmanager
    def open_zip(path: str) -> Iterator[list[str]]:
        with zipfile.ZipFile(path) as archive:
            yield [name.partition("/")[2] for name in archive.namelist()]

    def is_zip(stream: BinaryIO) -> bool:
        return stream.read(4) == b"PK\x03\x04"

    torch, serialization = ModuleType("torch"), ModuleType("torch.serialization")
    serialization.__dict__.update(
        _is_zipfile=is_zip,
        _open_zipfile_reader=open_zip,
        _is_torchscript_zip=lambda records: "constants.pkl" in records,
    )
    torch.__dict__.update(serialization=serialization, load=load, Tensor=int, is_tensor=lambda value: value == 1)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.serialization", serialization)
    return files


def write_zip(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"archive/{name}", b"x")
    return str(path)


def write_tar(path: Path) -> str:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return str(path)


@pytest.mark.usefixtures("loaded")
def test_checkpoints_pass_and_programs_and_tar_files_do_not(tmp_path: Path) -> None:
    refuse_programs(write_zip(tmp_path / "checkpoint.pth", "data.pkl", "data/0"))
    (tmp_path / "old.pth").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF")
    refuse_programs(str(tmp_path / "old.pth"))
    with pytest.raises(Fatal, match="a TorchScript program") as caught:
        refuse_programs(write_zip(tmp_path / "script.pth", "data.pkl", "code/__torch__.py", "constants.pkl"), "hint")
    assert (caught.value.category, caught.value.exit_code, caught.value.hint) == ("weights", 3, "hint")
    with pytest.raises(Fatal, match="a tar file"):
        refuse_programs(write_tar(tmp_path / "tar.pth"))


@pytest.mark.parametrize("stack", ["fformer", "imdlbenco"])
def test_the_stacks_refuse_programs_before_they_are_loaded(
    stack: str, loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(IMAGES / stack))
    monkeypatch.delitem(sys.modules, "checkpoint", raising=False)
    checkpoint = importlib.import_module("checkpoint")

    def read(path: str) -> Any:
        return checkpoint.read_state(path) if stack == "imdlbenco" else checkpoint.read("fformer-swin", path, None, "")

    try:
        for path in (write_zip(tmp_path / "script.pth", "constants.pkl"), write_tar(tmp_path / "tar.pth")):
            with pytest.raises(Fatal, match="not a checkpoint that training saved"):
                read(path)
        assert loaded == []
        good = write_zip(tmp_path / "good.pth", "data.pkl")
        assert read(good) == {"a": 1}
        assert loaded == [good]
    finally:
        monkeypatch.delitem(sys.modules, "checkpoint")
