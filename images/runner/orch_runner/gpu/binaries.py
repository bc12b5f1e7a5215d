"""Print as JSON what GPUs this environment's frameworks run on: python -m orch_runner.gpu.binaries.

    {"format": "orch-binaries/1", "frameworks": {"torch": "1.9.0"}, "cuda": "10.2" or null, "cudnn": null,
     "native": ["3.7", ...], "ptx": [...],
     "files": {"torch/lib/libtorch_cuda.so": {"fatbins": 1150, "native": [...], "ptx": [...]}}}

`native` and `ptx` list what all frameworks have in common. They are read from the files; no framework is imported.
orch runs this module when it has built a variant for GPUs.
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

from orch_runner.gpu.fatbin import Fatbin, read_fatbins, summarize_architectures

FORMAT = "orch-binaries/1"
FRAMEWORKS = {
    "torch": ("libtorch_cuda*",),
    "tensorflow": ("_pywrap_tensorflow_internal.so", "libtensorflow_cc.so*"),
    "onnxruntime": ("libonnxruntime_providers_cuda.so",),
}
"""The files with the frameworks' own kernels; other libraries of their packages are listed but do not count."""
# Where each framework records its CUDA and cuDNN versions; cu11 wheels of cuDNN have the version themselves.
_BUILT_WITH = {
    "torch": ("version.py", {"cuda": r"^cuda[^=]*=\s*['\"]([0-9.]+)"}),
    "tensorflow": (
        "python/platform/build_info.py",
        {"cuda": r"['\"]cuda_version['\"][^0-9]*([0-9.]+)", "cudnn": r"['\"]cudnn_version['\"][^0-9]*([0-9.]+)"},
    ),
    "onnxruntime": ("capi/build_and_package_info.py", {"cuda": r"^cuda_version\s*=\s*['\"]([0-9.]+)"}),
}


def describe() -> Dict[str, Any]:
    """Return the document that the module's docstring describes."""
    versions, cudnn = _list_installed()
    document: Dict[str, Any] = {"format": FORMAT, "frameworks": {}, "cuda": None, "cudnn": cudnn}
    files: Dict[str, Any] = {}
    lists: List[Tuple[List[int], List[int]]] = []
    for name in FRAMEWORKS:
        folder = _find_folder(name)
        if folder is None:
            continue
        document["frameworks"][name] = _find_version(name, versions)
        for key, value in _read_build_versions(name, folder).items():
            document[key] = document.get(key) or value
        code = _read_all(folder, files)
        if code:
            lists.append(summarize_architectures(code))
    native, ptx = _intersect(lists)
    return {**document, "native": native, "ptx": ptx, "files": files}


def _read_all(folder: Path, files: Dict[str, Any]) -> List[Fatbin]:
    """Return the fat binaries of a framework's own libraries; add a summary of each library to `files`."""
    own: List[Fatbin] = []
    for path in sorted(folder.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        code = read_fatbins(path)
        if code:
            native, ptx = summarize_architectures(code)
            name = path.relative_to(folder.parent).as_posix()
            files[name] = {"fatbins": len(code), "native": _format(native), "ptx": _format(ptx)}
            own += code if any(fnmatch(path.name, pattern) for pattern in FRAMEWORKS[folder.name]) else []
    return own


def _intersect(lists: Sequence[Tuple[List[int], List[int]]]) -> Tuple[List[str], List[str]]:
    """Return the native and PTX architectures that all frameworks have."""
    if not lists:
        return [], []
    native, ptx = (_format(sorted(set(first).intersection(*others))) for first, *others in zip(*lists))
    return native, ptx


def _format(architectures: Sequence[int]) -> List[str]:
    return [f"{sm // 10}.{sm % 10}" for sm in architectures]


def _find_folder(package: str) -> Optional[Path]:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) if folders else None


def _list_installed() -> Tuple[Dict[str, str], Optional[str]]:
    """Return the versions of all distributions by name, and that of cuDNN's wheel if there is one."""
    versions: Dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            versions[str(name).lower().replace("_", "-")] = distribution.version
    cudnn = [version for name, version in sorted(versions.items()) if name.startswith("nvidia-cudnn-cu")]
    return versions, cudnn[0] if cudnn else None


def _find_version(package: str, versions: Dict[str, str]) -> str:
    """Return a framework's version, also if its distribution is named like onnxruntime-gpu."""
    matching = [
        version for name, version in sorted(versions.items()) if name == package or name.startswith(f"{package}-")
    ]
    return versions.get(package) or (matching[0] if matching else "unknown")


def _read_build_versions(package: str, folder: Path) -> Dict[str, str]:
    file, patterns = _BUILT_WITH.get(package, ("", {}))
    path = folder / file
    if not file or not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    matches = {key: re.search(pattern, text, re.MULTILINE) for key, pattern in patterns.items()}
    return {key: match.group(1) for key, match in matches.items() if match}


if __name__ == "__main__":
    json.dump(describe(), sys.stdout, sort_keys=True)
    print()
