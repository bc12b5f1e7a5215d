"""Checkpoints as upstream's trainer saves them: read without running what is in them, and held against the network.

The trainer pickles its argparse arguments and its optimizer beside the weights. Only what tensors are made of is
imported; everything else becomes an inert stand-in.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from orch_runner.contract import Fatal

PREFIX = "module."
SHOWN = 8
"""Keys named in a message at most, of each kind."""
_SAFE = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"),
}


class Ignored:
    """Stands for any object that is no tensor."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        del arguments, named

    def __call__(self, *arguments: Any, **named: Any) -> "Ignored":
        return self

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        """A list's or set's item, dropped."""
        del value

    add = append


class Unpickler(pickle.Unpickler):
    """Imports what is needed to rebuild tensors, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The object meant, or the stand-in."""
        storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        dtype = module == "torch" and name.islower() and "." not in name and _is_dtype(name)
        if storage or dtype or (module, name) in _SAFE:
            return super().find_class(module, name)
        return Ignored


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


class _Restricted:
    """What torch.load takes for a pickle module."""

    Unpickler = Unpickler
    load: Callable[..., Any] = staticmethod(lambda stream, **named: Unpickler(stream, **named).load())
    loads: Callable[..., Any] = staticmethod(lambda data, **named: Unpickler(io.BytesIO(data), **named).load())


def read_state(path: str) -> Dict[str, Any]:
    """The weights in a checkpoint by name. Raises Fatal("weights")."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", pickle_module=_Restricted, weights_only=False)
    except Exception as error:  # a broken file can raise nearly anything
        raise Fatal("weights", 3, f"{path} is no checkpoint that PyTorch can read: {error}", HINT) from error
    return weights_of(content, torch.is_tensor)


HINT = "a checkpoint of IMDL-BenCo's trainer is wanted: checkpoint-N.pth, a dict whose key 'model' has the weights"


def weights_of(content: Any, is_weight: Callable[[Any], bool]) -> Dict[str, Any]:
    """The weights of a checkpoint's content, under "model" or bare, "module." prefixes off. Raises Fatal("weights")."""
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content or not all(is_weight(value) for value in content.values()):
        raise Fatal("weights", 3, "the file has no weights where a checkpoint has them", HINT)
    weights = {str(name): value for name, value in content.items()}
    if all(name.startswith(PREFIX) for name in weights):
        weights = {name[len(PREFIX) :]: value for name, value in weights.items()}
    return weights


Shapes = Mapping[str, Tuple[int, ...]]


def problems(expected: Shapes, found: Shapes) -> List[str]:
    """What is wrong with weights of these names and shapes; nothing where they fit."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name])} for {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def load_state(network: Any, state: Dict[str, Any], model_name: str) -> None:
    """Give the network its weights, all of them. Raises Fatal("weights") that names what does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wrong = problems(expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    if wrong:
        message = f"the checkpoint is not one of {model_name}: keys {'; '.join(wrong)}"
        raise Fatal("weights", 3, message, "orch weights add takes another file")
    network.load_state_dict(state, strict=True)
