"""Checkpoints: read without running what is in them, held against the model they are given to, freed of ballast."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from orch_runner.contract import Fatal

LISTED = 3
"""Keys named in a message."""
SIGNS: Mapping[str, Sequence[str]] = {
    "fformer-swin": ("backbone.patch_embed.projection.weight",),
    "fformer-r50-fpn": ("backbone.layer3.5.conv1.weight",),
}
"""Keys that only this model's weights have."""
NO_SIGNS: Mapping[str, Sequence[str]] = {"fformer-r50-fpn": ("backbone.layer3.6.conv1.weight",)}
"""Keys of a larger model that has all of this one's."""
HEAD_SIGN = "roi_head.mask_head.0.attr_pred.weight"
"""What tells FashionFormer from other detectors with the same backbone."""

Shapes = Mapping[str, Tuple[int, ...]]


def read(model: str, path: str, digest: Optional[str], cache: str) -> Dict[str, Any]:
    """The checkpoint's tensors by key, on the CPU wherever they were saved from. Raises Fatal.

    One with ballast (an optimizer's state is twice the weights) is kept without it in `cache`, under its digest.
    """
    import torch

    kept = Path(cache) / f"weights-{digest[:16]}.pth" if cache and digest else None
    if kept is not None and kept.is_file():
        try:
            return _tensors(model, kept)[0]
        except Fatal as error:
            print(f"{kept} is not used: {error}", file=sys.stderr)
    tensors, ballast = _tensors(model, Path(path))
    if ballast and kept is not None:
        aside = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        try:
            torch.save({"state_dict": tensors}, str(aside))
            os.replace(str(aside), str(kept))
            print(f"left out of {Path(path).name} from now on: {', '.join(ballast)}", file=sys.stderr)
        except (OSError, RuntimeError) as error:
            print(f"the weights could not be kept without {', '.join(ballast)}: {error}", file=sys.stderr)
    return tensors


def _tensors(model: str, path: Path) -> Tuple[Dict[str, Any], List[str]]:
    """The tensors of a checkpoint file, and the names of the large things beside them."""
    import torch

    try:
        content = torch.load(str(path), map_location="cpu", pickle_module=_reader())
    except MemoryError:
        raise
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise Fatal(
            "weights", 3, f"{path.name} cannot be read as weights: {_damage(path, error)}", _hint(model)
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors = {} if not isinstance(state, dict) else {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise Fatal("weights", 3, f"{path.name} holds no weights of a network", _hint(model))
    ballast = [] if state is content else sorted(set(map(str, content)) & {"optimizer", "ema_state_dict", "scheduler"})
    if all(str(key).startswith("module.") for key in tensors):
        tensors = {key[len("module.") :]: value for key, value in tensors.items()}
    return tensors, ballast


def check(model: str, wanted: Shapes, given: Shapes) -> None:
    """Hold a checkpoint's keys and shapes against the network's. Raises Fatal naming what does not fit."""
    missing = [key for key in wanted if key not in given]
    strange = [key for key in given if key not in wanted]
    other = [f"{key} {given[key]} for {wanted[key]}" for key in wanted if key in given and given[key] != wanted[key]]
    if not (missing or strange or other):
        return
    whose = owner(given)
    said = (
        f"these are weights of {whose}, not of {model}"
        if whose not in (None, model)
        else f"these are no weights of {model}"
    )
    differing = ((missing, "missing"), (strange, "unknown"), (other, "of another shape"))
    details = "; ".join(f"{len(keys)} keys {how} ({_few(keys)})" for keys, how in differing if keys)
    raise Fatal("weights", 3, f"{said}: {details}", _hint(model))


def owner(given: Shapes) -> Optional[str]:
    """Which of this stack's models weights with these keys belong to, if it can be told."""
    if HEAD_SIGN not in given:
        return None
    for model, signs in SIGNS.items():
        if all(key in given for key in signs) and not any(key in given for key in NO_SIGNS.get(model, ())):
            return model
    return None


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", …" if len(keys) > LISTED else "")


def _hint(model: str) -> str:
    return f"orch weights add {model} PATH, with the file published for {model}"


def _damage(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    with path.open("rb") as stream:
        looks_whole = stream.read(2) != b"PK" or zipfile.is_zipfile(str(path))
    return reason if looks_whole else f"it is cut off or damaged ({path.stat().st_size} bytes; {reason})"


class _Inert:
    """In place of any object that is no tensor: takes whatever a pickle does to it, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0

    def append(self, value: Any) -> None:
        """As a list's."""

    def extend(self, values: Any) -> None:
        """As a list's."""


_TENSORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class Reader(pickle.Unpickler):
    """Makes tensors and plain containers; anything else a pickle names is never imported."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a pickle's instruction."""
        storage = name.endswith("Storage") and module in ("torch", "torch.cuda", "torch.storage")
        return super().find_class(module, name) if storage or (module, name) in _TENSORS else _Inert


def _reader() -> ModuleType:
    """What torch.load takes for the module pickle."""
    module = ModuleType("reader")
    module.Unpickler = Reader  # type: ignore[attr-defined]
    module.load = lambda stream, **options: Reader(stream, **options).load()  # type: ignore[attr-defined]
    return module
