"""Refuse files that PyTorch would run instead of read, for stacks whose weights are PyTorch checkpoints."""

from __future__ import annotations

import tarfile
from typing import Optional

from orch_runner.contract import Fatal


def refuse_programs(path: str, hint: Optional[str] = None) -> None:
    """Raise Fatal("weights") for a file that torch.load would hand to another reader than its unpickler.

    torch.load gives a TorchScript archive to torch.jit.load, which runs the code in it, whatever `pickle_module` and
    `weights_only` say (CVE-2025-32434). The checks are torch.load's own, so that no file passes as another kind.
    Raises what PyTorch raises on a damaged file.
    """
    from torch import serialization

    with open(path, "rb") as stream:
        is_zip = serialization._is_zipfile(stream)
    kind = None
    if is_zip:
        with serialization._open_zipfile_reader(path) as reader:
            if serialization._is_torchscript_zip(reader):
                kind = "a TorchScript program: loading it would run the code in it"
    elif tarfile.is_tarfile(path):
        kind = "a tar file, PyTorch's first format, which is unpacked on loading"
    if kind is not None:
        raise Fatal("weights", 3, f"{path} is not a checkpoint that training saved: it is {kind}", hint)
