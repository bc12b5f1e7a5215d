"""Read checkpoints without running their code, check them against the model, drop what is not weights."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from orch_runner.contract import Fatal
from orch_runner.files import open_replacement
from orch_runner.torch_checkpoint import refuse_programs

LISTED = 3
"""The most keys named in a message."""
SIGNS: Mapping[str, Sequence[str]] = {
    "fformer-swin": ("backbone.patch_embed.projection.weight",),
    "fformer-r50-fpn": ("backbone.layer3.5.conv1.weight",),
}
"""Keys that identify each model's weights."""
NO_SIGNS: Mapping[str, Sequence[str]] = {"fformer-r50-fpn": ("backbone.layer3.6.conv1.weight",)}
"""Keys of larger models that also have all keys of this one."""
HEAD_SIGN = "roi_head.mask_head.0.attr_pred.weight"
"""The key that distinguishes FashionFormer from other detectors with the same backbone."""

Shapes = Mapping[str, Tuple[int, ...]]


def read(model: str, path: str, digest: Optional[str], cache: str) -> Dict[str, Any]:
    """Return the checkpoint's tensors by key, on the CPU. Raises Fatal.

    A copy of the weights alone is kept in `cache`, under the digest of a checkpoint that holds more: an optimizer's
    state is twice as large as the weights.
    """
    import torch

    copy = Path(cache) / f"weights-{digest[:16]}.pth" if cache and digest else None
    if copy is not None and copy.is_file():
        try:
            return _read_tensors(model, copy)[0]
        except Fatal as error:
            print(f"ignoring {copy}: {error}", file=sys.stderr)
    tensors, others = _read_tensors(model, Path(path))
    if others and copy is not None:
        try:
            with open_replacement(copy) as stream:
                torch.save({"state_dict": tensors}, stream)
            print(f"cached {Path(path).name} without {', '.join(others)}", file=sys.stderr)
        except (OSError, RuntimeError) as error:
            print(f"cannot cache {Path(path).name} without {', '.join(others)}: {error}", file=sys.stderr)
    return tensors


def _read_tensors(model: str, path: Path) -> Tuple[Dict[str, Any], List[str]]:
    """Return the tensors of a checkpoint file, and the names of other large objects in it."""
    import torch

    try:
        refuse_programs(str(path), _hint(model))
        content = torch.load(str(path), map_location="cpu", pickle_module=_make_pickle_module())
    except (MemoryError, Fatal):
        raise
    except Exception as error:  # torch raises errors of nearly any class on a damaged file
        raise Fatal("weights", 3, f"cannot read {path.name}: {_describe_damage(path, error)}", _hint(model)) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors = {} if not isinstance(state, dict) else {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise Fatal("weights", 3, f"{path.name} has no weights", _hint(model))
    others = [] if state is content else sorted(set(map(str, content)) & {"optimizer", "ema_state_dict", "scheduler"})
    if all(str(key).startswith("module.") for key in tensors):
        tensors = {key[len("module.") :]: value for key, value in tensors.items()}
    return tensors, others


def check(model: str, expected: Shapes, given: Shapes) -> None:
    """Compare a checkpoint's keys and shapes with the network's. Raises Fatal that names the differences."""
    missing = [key for key in expected if key not in given]
    unknown = [key for key in given if key not in expected]
    reshaped = [
        f"{key} {given[key]} for {expected[key]}" for key in expected if key in given and given[key] != expected[key]
    ]
    if not (missing or unknown or reshaped):
        return
    owner = identify_model(given)
    is_other_model = owner not in (None, model)
    summary = f"these are weights of {owner}, not of {model}" if is_other_model else f"these are not weights of {model}"
    differing = ((missing, "missing"), (unknown, "unknown"), (reshaped, "of another shape"))
    details = "; ".join(f"{len(keys)} keys {how} ({_list_some(keys)})" for keys, how in differing if keys)
    raise Fatal("weights", 3, f"{summary}: {details}", _hint(model))


def identify_model(given: Shapes) -> Optional[str]:
    """Return which of this stack's models weights with these keys belong to; None if unknown."""
    if HEAD_SIGN not in given:
        return None
    for model, signs in SIGNS.items():
        if all(key in given for key in signs) and not any(key in given for key in NO_SIGNS.get(model, ())):
            return model
    return None


def _list_some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", …" if len(keys) > LISTED else "")


def _hint(model: str) -> str:
    return f"orch weights add {model} PATH, with the file published for {model}"


def _describe_damage(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    with path.open("rb") as stream:
        looks_complete = stream.read(2) != b"PK" or zipfile.is_zipfile(str(path))
    return reason if looks_complete else f"it is truncated or damaged ({path.stat().st_size} bytes; {reason})"


class _Inert:
    """Stand-in for any object that is not a tensor: accepts all that a pickle does to it, and does nothing."""

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
        """Accept an item or items as a list does."""

    def extend(self, values: Any) -> None:
        """Accept an item or items as a list does."""


_TENSORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class TensorUnpickler(pickle.Unpickler):
    """Make tensors and plain containers; never import any other object that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function that a pickle names, or the stand-in."""
        storage = name.endswith("Storage") and module in ("torch", "torch.cuda", "torch.storage")
        return super().find_class(module, name) if storage or (module, name) in _TENSORS else _Inert


def _make_pickle_module() -> ModuleType:
    """Return the module that torch.load uses in place of pickle."""
    module = ModuleType("reader")
    module.Unpickler = TensorUnpickler  # type: ignore[attr-defined]
    module.load = lambda stream, **options: TensorUnpickler(stream, **options).load()  # type: ignore[attr-defined]
    return module
