"""Build upstream's networks without downloads: the checkpoint has all weights.

Several constructors load a backbone, from the internet or a required file, which the checkpoint then overwrites. While
a network is built, all such loading returns nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import jpegio_stand_in
from zoo import Architecture


def build_network(architecture: Architecture, device: str) -> Any:
    """Build the network, with meaningless weights."""
    import torch
    from IMDLBenCo import MODELS

    arguments = dict(architecture.arguments)
    if architecture.takes_device:
        arguments["device"] = torch.device(device)
    if architecture.config:
        arguments[architecture.config] = package_file(architecture.config_file)
    with _disable_loading(), ignore_cuda_calls(device):
        return MODELS.get(architecture.registry)(**arguments)


def package_file(name: str) -> str:
    """Return the path of a file inside the installed package. Raises FileNotFoundError."""
    import IMDLBenCo

    path = Path(IMDLBenCo.__file__).parent / name
    if not path.is_file():
        raise FileNotFoundError(f"the package imdlbenco has no file {name}")
    return str(path)


def post_function(architecture: Architecture) -> Any:
    """Return upstream's function for an image's fields after the transform, or None."""
    if not architecture.jpeg:
        return None
    from IMDLBenCo import POSTFUNCS

    jpegio_stand_in.install()
    return POSTFUNCS.get_lower(f"{architecture.registry}_post_func")


@contextlib.contextmanager
def _disable_loading() -> Iterator[None]:
    import torch
    from torch.utils import model_zoo

    functions: List[Tuple[Any, str]] = [
        (torch, "load"),
        (torch.hub, "load_state_dict_from_url"),
        (model_zoo, "load_url"),
    ]
    with contextlib.ExitStack() as undo:
        for owner, name in functions:
            _replace(undo, owner, name, lambda *_, **__: {})
        _replace(undo, torch.nn.Module, "load_state_dict", lambda *_, **__: ([], []))
        yield


@contextlib.contextmanager
def ignore_cuda_calls(device: str) -> Iterator[None]:
    """Make .cuda() do nothing on the CPU: Cat_Net calls it on every device."""
    import torch

    with contextlib.ExitStack() as undo:
        if device == "cpu":
            for kind in (torch.Tensor, torch.nn.Module):
                _replace(undo, kind, "cuda", lambda self, *_, **__: self)
        yield


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
