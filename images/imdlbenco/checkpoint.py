"""Read checkpoints of upstream's trainer without running their code, and check them against the network.

The trainer pickles its arguments and optimizer beside the weights. Only the classes of tensors are imported; everything
else becomes an inert stand-in.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from orch_runner.contract import Fatal
from orch_runner.torch_checkpoint import refuse_programs

PREFIX = "module."
MAX_NAMED = 8
"""The most keys of each kind named in a message."""
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


class InertObject:
    """Stand-in for any object that is not a tensor."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        del arguments, named

    def __call__(self, *arguments: Any, **named: Any) -> "InertObject":
        return self

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, value: Any) -> None:
        """Drop a list's or set's item."""
        del value

    add = append


class Unpickler(pickle.Unpickler):
    """Import only what is needed to rebuild tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the named object, or the stand-in."""
        storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        dtype = module == "torch" and name.islower() and "." not in name and _is_dtype(name)
        if storage or dtype or (module, name) in _SAFE:
            return super().find_class(module, name)
        return InertObject


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


class _RestrictedPickle:
    """Replaces the module pickle in torch.load."""

    Unpickler = Unpickler
    load: Callable[..., Any] = staticmethod(lambda stream, **named: Unpickler(stream, **named).load())
    loads: Callable[..., Any] = staticmethod(lambda data, **named: Unpickler(io.BytesIO(data), **named).load())


def read_state(path: str) -> Dict[str, Any]:
    """Return the weights in a checkpoint by name. Raises Fatal("weights")."""
    import torch

    try:
        refuse_programs(path, HINT)
        content = torch.load(path, map_location="cpu", pickle_module=_RestrictedPickle, weights_only=False)
    except Fatal:
        raise
    except Exception as error:  # a broken file can raise errors of nearly any class
        raise Fatal("weights", 3, f"PyTorch cannot read {path}: {error}", HINT) from error
    return extract_weights(content, torch.is_tensor)


HINT = "use a checkpoint of IMDL-BenCo's trainer: checkpoint-N.pth, a dict whose key 'model' has the weights"


def extract_weights(content: Any, is_weight: Callable[[Any], bool]) -> Dict[str, Any]:
    """Return the weights of a checkpoint, under "model" or at the top, without "module.". Raises Fatal("weights")."""
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content or not all(is_weight(value) for value in content.values()):
        raise Fatal("weights", 3, "the file has no weights where a checkpoint has them", HINT)
    weights = {str(name): value for name, value in content.items()}
    if all(name.startswith(PREFIX) for name in weights):
        weights = {name[len(PREFIX) :]: value for name, value in weights.items()}
    return weights


Shapes = Mapping[str, Tuple[int, ...]]


def find_problems(expected: Shapes, given: Shapes) -> List[str]:
    """Return the differences of weights' names and shapes; an empty list if they fit."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} {tuple(given[name])} for {tuple(shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(names)} {kind}: {_list_some(names)}" for kind, names in kinds if names]


def _list_some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def load_state(network: Any, state: Dict[str, Any], model_name: str) -> None:
    """Load all weights into the network. Raises Fatal("weights") that names the differences."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differences = find_problems(expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    if differences:
        message = f"the checkpoint is not one of {model_name}: keys {'; '.join(differences)}"
        raise Fatal("weights", 3, message, "orch weights add MODEL PATH, with another file")
    network.load_state_dict(state, strict=True)
