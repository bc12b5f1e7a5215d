"""Look at the first bytes of a weights file: is it what its name says, or a web page?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.catalog.spec import Weights

_READ = 512
_PAGES = (b"<!doctype", b"<html", b"<?xml", b'{"error')
_POINTER = b"version https://git-lfs.github.com/"


def _is_torch(start: bytes) -> bool:
    return start.startswith((b"PK\x03\x04", b"\x80"))  # a zip archive, or a pickle


def _is_onnx(start: bytes) -> bool:
    return start[0] == 0x08  # a protobuf message whose first field is ir_version


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{"  # after the length of the header


def _is_hdf5(start: bytes) -> bool:
    return start.startswith(b"\x89HDF\r\n\x1a\n")


_TORCH = ("a PyTorch checkpoint", _is_torch)
_KINDS: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".ckpt": _TORCH,
    ".onnx": ("an ONNX file", _is_onnx),
    ".safetensors": ("a safetensors file", _is_safetensors),
    ".h5": ("an HDF5 file", _is_hdf5),
}


def content_problem(path: Path, spec: Weights) -> str | None:
    """Return why the first bytes of a file cannot be those of such weights; None where they can.

    Folders and archives are not looked into, and nothing is expected of a suffix that is not known.
    """
    if path.is_dir() or spec.unpack:
        return None
    with path.open("rb") as stream:
        start = stream.read(_READ)
    size = path.stat().st_size
    if not start:
        return "it is empty"
    if start.startswith(_POINTER):
        return f"it is a pointer of Git LFS ({size} bytes), not the file: git lfs pull"
    if start.lstrip().lower().startswith(_PAGES):
        return f"it is a web page ({size} bytes), maybe the one that offers the download"
    kind, fits = _KINDS.get(Path(spec.file).suffix, ("", None))
    if fits is not None and not fits(start):
        return f"it does not begin like {kind}: {start[:8]!r}, {size} bytes"
    return None
