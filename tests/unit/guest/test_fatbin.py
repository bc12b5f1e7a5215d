"""Reading what GPU code runs on out of shared objects made by hand; real wheels' lists are in docs/verification.md."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from orch_runner.gpu.fatbin import read_fatbins, summarize_architectures

from tests.fatbins import NATIVE, PTX, Entry, elf, fatbin

RUNNER = Path(__file__).resolve().parents[3] / "images" / "runner"
TORCH = [(NATIVE, 37), (NATIVE, 50), (NATIVE, 70)]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sets(*entries: Entry) -> tuple[frozenset[int], frozenset[int]]:
    return tuple(frozenset(sm for kind, sm in entries if kind == wanted) for wanted in (NATIVE, PTX))  # type: ignore


def test_every_fat_binary_of_a_section_is_read(tmp_path: Path) -> None:
    both = [(NATIVE, 80), (PTX, 80), (NATIVE, 86)]
    padded = fatbin(*TORCH) + b"\0" * 8 + fatbin(*both, payload=4096) + b"\0" * 24
    file = write(tmp_path / "a.so", elf({".text": b"\x50\xed\x55\xba", ".nv_fatbin": padded, ".data": b"x" * 99}))
    assert read_fatbins(file) == [sets(*TORCH), sets(*both)]
    linked = write(tmp_path / "b.so", elf({"__nv_relfatbin": fatbin(*both), ".nv_fatbin": fatbin((NATIVE, 75))}))
    assert read_fatbins(linked) == [sets(*both), sets((NATIVE, 75))]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + b"\0" * 200, b"\x7fELF\x02\x01", elf({".text": fatbin(*TORCH)}),
        elf({".nv_fatbin": b""}), elf({}, empty=[".nv_fatbin"]), elf({".nv_fatbin": fatbin(*TORCH)})[:300],
        elf({".nv_fatbin": fatbin()}),
    ],
)  # fmt: skip
def test_files_without_device_code_have_none(tmp_path: Path, content: bytes) -> None:
    assert read_fatbins(write(tmp_path / "a.so", content)) == []


def test_a_fat_binary_that_lies_about_its_length_ends_where_its_section_does(tmp_path: Path) -> None:
    long = bytearray(fatbin(*TORCH))
    struct.pack_into("<Q", long, 8, 1 << 40)
    assert read_fatbins(write(tmp_path / "a.so", elf({".nv_fatbin": bytes(long)}))) == [sets(*TORCH)]
    endless = bytearray(fatbin(*TORCH))
    struct.pack_into("<I", endless, 16 + 4, 0)  # an entry whose header has no length
    assert len(read_fatbins(write(tmp_path / "b.so", elf({".nv_fatbin": bytes(endless)})))) == 1


def test_what_most_of_the_code_runs_on_counts() -> None:
    own, linked_in = sets(*TORCH), sets((NATIVE, 35), (NATIVE, 50), (NATIVE, 75), (PTX, 75))
    assert summarize_architectures([own] * 3 + [linked_in] * 2) == ([37, 50, 70, 75], [])
    assert summarize_architectures([own] * 2 + [linked_in] * 3) == ([35, 37, 50, 75], [75])
    assert summarize_architectures([sets((NATIVE, 80), (PTX, 80))]) == ([80], [80])
    assert summarize_architectures([sets((PTX, 52))]) == ([], [52])
    assert summarize_architectures([]) == ([], [])


def describe(site: Path) -> dict[str, object]:
    """What orch_runner.gpu.binaries prints where `site` has the packages."""
    code = f"import sys; sys.path[:0] = [{str(RUNNER)!r}, {str(site)!r}]; " \
           "import runpy; runpy.run_module('orch_runner.gpu.binaries', run_name='__main__')"  # fmt: skip
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_an_environment_is_described_without_importing_its_frameworks(tmp_path: Path) -> None:
    for package in ("torch", "onnxruntime"):
        write(tmp_path / package / "__init__.py", b"raise SystemExit('imported')\n")
    write(tmp_path / "torch/version.py", b"__version__ = '1.9.0'\ncuda: Optional[str] = '10.2'\n")
    write(tmp_path / "torch-1.9.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: torch\nVersion: 1.9.0\n")
    gpu = b"Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.15.0\n"
    write(tmp_path / "onnxruntime_gpu-1.15.0.dist-info/METADATA", gpu)
    cudnn = b"Metadata-Version: 2.1\nName: nvidia-cudnn-cu11\nVersion: 8.6.0.163\n"
    write(tmp_path / "nvidia_cudnn_cu11-8.6.0.163.dist-info/METADATA", cudnn)
    library = write(tmp_path / "torch/lib/libtorch_cuda.so.1", elf({".nv_fatbin": fatbin(*TORCH)}))
    library.with_name("libtorch_cuda.so").symlink_to(library.name)
    third = elf({".nv_fatbin": fatbin((NATIVE, 86)) * 9})
    write(tmp_path / "torch/lib/libcusparseLt.so.0", third)
    provider = elf({".nv_fatbin": fatbin((NATIVE, 52), (PTX, 52), (NATIVE, 70), (PTX, 70))})
    write(tmp_path / "onnxruntime/capi/libonnxruntime_providers_cuda.so", provider)
    assert describe(tmp_path) == {
        "format": "orch-binaries/1",
        "frameworks": {"torch": "1.9.0", "onnxruntime": "1.15.0"},
        "cuda": "10.2",
        "cudnn": "8.6.0.163",
        "native": ["7.0"],
        "ptx": [],
        "files": {
            "torch/lib/libcusparseLt.so.0": {"fatbins": 9, "native": ["8.6"], "ptx": []},
            "torch/lib/libtorch_cuda.so.1": {"fatbins": 1, "native": ["3.7", "5.0", "7.0"], "ptx": []},
            "onnxruntime/capi/libonnxruntime_providers_cuda.so": {
                "fatbins": 1, "native": ["5.2", "7.0"], "ptx": ["5.2", "7.0"],
            },
        },
    }  # fmt: skip


def test_an_environment_without_frameworks_tells_nothing(tmp_path: Path) -> None:
    assert describe(tmp_path) == {
        "format": "orch-binaries/1",
        "frameworks": {},
        "cuda": None,
        "cudnn": None,
        "native": [],
        "ptx": [],
        "files": {},
    }
