"""`python -m orch_runner.gpu.binaries`: what the GPU code of this environment's frameworks runs on, as JSON on stdout.

    {"format": "orch-binaries/1", "frameworks": {"torch": "1.9.0"}, "cuda": "10.2" or null, "cudnn": null,
     "native": ["3.7", ...], "ptx": [...],
     "files": {"torch/lib/libtorch_cuda.so": {"fatbins": 1150, "native": [...], "ptx": [...]}}}

`native` and `ptx` are of the frameworks together: what every one of them has. Read from the files, nothing is imported;
orch runs it when it has built a variant for GPUs.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from orch_runner.gpu.fatbin import Fatbin, covered, read

FORMAT = "orch-binaries/1"
FRAMEWORKS = {
    "torch": ("libtorch_cuda*",),
    "tensorflow": ("_pywrap_tensorflow_internal.so", "libtensorflow_cc.so*"),
    "onnxruntime": ("libonnxruntime_providers_cuda.so",),
}
"""The frameworks' own kernels, by file; other libraries in their packages are listed and count for nothing."""
# Where each says what CUDA and cuDNN it was built with; cu11 wheels of cuDNN bring the version themselves.
_BUILT_WITH = {
    "torch": ("version.py", {"cuda": r"^cuda[^=]*=\s*['\"]([0-9.]+)"}),
    "tensorflow": (
        "python/platform/build_info.py",
        {"cuda": r"['\"]cuda_version['\"][^0-9]*([0-9.]+)", "cudnn": r"['\"]cudnn_version['\"][^0-9]*([0-9.]+)"},
    ),
    "onnxruntime": ("capi/build_and_package_info.py", {"cuda": r"^cuda_version\s*=\s*['\"]([0-9.]+)"}),
}


def describe() -> Dict[str, Any]:
    """What is written: see the module's docstring."""
    versions, cudnn = _installed()
    found: Dict[str, Any] = {"format": FORMAT, "frameworks": {}, "cuda": None, "cudnn": cudnn}
    files: Dict[str, Any] = {}
    lists: List[Tuple[List[int], List[int]]] = []
    for name in FRAMEWORKS:
        folder = _folder(name)
        if folder is None:
            continue
        found["frameworks"][name] = _version(name, versions)
        for what, value in _built_with(name, folder).items():
            found[what] = found.get(what) or value
        code = _read_all(folder, files)
        if code:
            lists.append(covered(code))
    native, ptx = _common(lists)
    return {**found, "native": native, "ptx": ptx, "files": files}


def _read_all(folder: Path, files: Dict[str, Any]) -> List[Fatbin]:
    """The fat binaries of a framework's own libraries; what each file of its package has goes into `files`."""
    everything: List[Fatbin] = []
    for path in sorted(folder.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        code = read(path)
        if code:
            native, ptx = covered(code)
            name = path.relative_to(folder.parent).as_posix()
            files[name] = {"fatbins": len(code), "native": _dotted(native), "ptx": _dotted(ptx)}
            everything += code if any(fnmatch(path.name, pattern) for pattern in FRAMEWORKS[folder.name]) else []
    return everything


def _common(lists: Sequence[Tuple[List[int], List[int]]]) -> Tuple[List[str], List[str]]:
    """What all of the frameworks have."""
    if not lists:
        return [], []
    natives, ptxs = zip(*lists)
    return tuple(_dotted(sorted(set(one[0]).intersection(*one[1:]))) for one in (natives, ptxs))  # type: ignore[return-value]


def _dotted(architectures: Sequence[int]) -> List[str]:
    return [f"{sm // 10}.{sm % 10}" for sm in architectures]


def _folder(package: str) -> Optional[Path]:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def _installed() -> Tuple[Dict[str, str], Optional[str]]:
    """Versions of all distributions by name, and that of cuDNN's wheel if there is one."""
    versions: Dict[str, str] = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            versions[str(name).lower().replace("_", "-")] = one.version
    cudnn = [version for name, version in sorted(versions.items()) if name.startswith("nvidia-cudnn-cu")]
    return versions, cudnn[0] if cudnn else None


def _version(package: str, versions: Dict[str, str]) -> str:
    """The version of the distribution that a framework comes as: onnxruntime-gpu, tensorflow-cpu and the like."""
    named = [version for name, version in sorted(versions.items()) if name == package or name.startswith(f"{package}-")]
    return versions.get(package) or (named[0] if named else "unknown")


def _built_with(package: str, folder: Path) -> Dict[str, str]:
    file, patterns = _BUILT_WITH.get(package, ("", {}))
    path = folder / file
    if not file or not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    matches = {what: re.search(pattern, text, re.MULTILINE) for what, pattern in patterns.items()}
    return {what: match.group(1) for what, match in matches.items() if match}


if __name__ == "__main__":
    json.dump(describe(), sys.stdout, sort_keys=True)
    print()
