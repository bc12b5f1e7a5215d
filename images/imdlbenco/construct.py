"""Upstream's networks, built without fetching anything: the checkpoint brings all weights.

Several constructors load a backbone, from the internet or from a file that must be named, and the checkpoint overwrites
it at once. While one is built, loading gives nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import jpegio_stand_in
from zoo import Architecture


def build_network(architecture: Architecture, device: str) -> Any:
    """The network with weights that mean nothing yet."""
    import torch
    from IMDLBenCo import MODELS

    arguments = dict(architecture.arguments)
    if architecture.takes_device:
        arguments["device"] = torch.device(device)
    if architecture.config:
        arguments[architecture.config] = package_file(architecture.config_file)
    with _nothing_is_loaded(), cuda_only_where(device):
        return MODELS.get(architecture.registry)(**arguments)


def package_file(name: str) -> str:
    """A file inside the installed package."""
    import IMDLBenCo

    path = Path(IMDLBenCo.__file__).parent / name
    if not path.is_file():
        raise FileNotFoundError(f"the package imdlbenco has no file {name}")
    return str(path)


def post_function(architecture: Architecture) -> Any:
    """What upstream's dataset does to an image's fields after the transform, or None."""
    if not architecture.jpeg:
        return None
    from IMDLBenCo import POSTFUNCS

    jpegio_stand_in.install()
    return POSTFUNCS.get_lower(f"{architecture.registry}_post_func")


@contextlib.contextmanager
def _nothing_is_loaded() -> Iterator[None]:
    import torch
    from torch.utils import model_zoo

    places: List[Tuple[Any, str]] = [
        (torch, "load"),
        (torch.hub, "load_state_dict_from_url"),
        (model_zoo, "load_url"),
    ]
    with contextlib.ExitStack() as undo:
        for place, name in places:
            _replace(undo, place, name, lambda *_, **__: {})
        _replace(undo, torch.nn.Module, "load_state_dict", lambda *_, **__: ([], []))
        yield


@contextlib.contextmanager
def cuda_only_where(device: str) -> Iterator[None]:
    """Cat_Net calls .cuda() wherever it runs; on the CPU that does nothing here."""
    import torch

    with contextlib.ExitStack() as undo:
        if device == "cpu":
            for kind in (torch.Tensor, torch.nn.Module):
                _replace(undo, kind, "cuda", lambda self, *_, **__: self)
        yield


def _replace(undo: contextlib.ExitStack, place: Any, name: str, value: Any) -> None:
    undo.callback(setattr, place, name, getattr(place, name))
    setattr(place, name, value)
