"""What a built variant's GPU code runs on: read inside it by orch_runner.gpu.binaries, kept as labels or beside it.

docs/decisions/0005-what-an-image-runs-on.md says why so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.spec import Variant
from orchestrator.errors import OrchError

MODULE = "orch_runner.gpu.binaries"
FORMAT = "orch-binaries/1"
FILE_NAME = "orch-binaries.json"
"""In the folder of an environment."""
LABEL = "org.orch"
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class Binaries:
    """Versions of what is inside, and the compute capabilities it has native code and PTX for."""

    frameworks: Mapping[str, str]
    cuda: str | None
    cudnn: str | None
    native: tuple[str, ...]
    ptx: tuple[str, ...]

    @property
    def tells(self) -> bool:
        """Whether any GPU code was found: where none was, stack.yaml's lists stand."""
        return bool(self.native or self.ptx)

    def labels(self) -> dict[str, str]:
        """As labels of an image."""
        named = {
            "frameworks": " ".join(f"{name}={version}" for name, version in self.frameworks.items()),
            "cuda": self.cuda,
            "cudnn": self.cudnn,
        }
        code = {"native": " ".join(self.native), "ptx": " ".join(self.ptx)} if self.tells else {}
        return {f"{LABEL}.{name}": value for name, value in {**named, **code}.items() if value is not None}

    def applied(self, variant: Variant) -> Variant:
        """The variant with what was read in place of what its stack.yaml declares."""
        if not self.tells:
            return variant
        return variant.model_copy(update={"native_capabilities": self.native, "ptx_capabilities": self.ptx})


def parse(text: str) -> Binaries:
    """What orch_runner.gpu.binaries printed. Raises ValueError."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not {FORMAT}")
    frameworks = {str(name): str(version) for name, version in document["frameworks"].items()}
    return _checked(frameworks, document["cuda"], document["cudnn"], document["native"], document["ptx"])


def of_labels(labels: Mapping[str, str]) -> Binaries | None:
    """What an image's labels say; None where it has none."""
    if f"{LABEL}.frameworks" not in labels:
        return None
    frameworks = dict(pair.split("=", 1) for pair in labels[f"{LABEL}.frameworks"].split() if "=" in pair)
    code = [labels.get(f"{LABEL}.{name}", "").split() for name in ("native", "ptx")]
    return _checked(frameworks, labels.get(f"{LABEL}.cuda"), labels.get(f"{LABEL}.cudnn"), *code)


def _checked(
    frameworks: Mapping[str, str], cuda: str | None, cudnn: str | None, native: list[str], ptx: list[str]
) -> Binaries:
    wrong = [one for one in (*native, *ptx) if not _CAPABILITY.fullmatch(one)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no compute capability")
    return Binaries(frameworks, cuda, cudnn, tuple(native), tuple(ptx))


def as_built(stack: StackEntry) -> StackEntry:
    """The stack with what was read in its variants for GPUs that are built here; as declared where none is."""
    known = {
        name: found.applied(variant)
        for name, variant in stack.spec.variants.items()
        if variant.device == "cuda" and (found := _of_image(stack, name) or _of_environment(stack, name)) is not None
    }
    if not known:
        return stack
    return replace(stack, spec=stack.spec.model_copy(update={"variants": {**stack.spec.variants, **known}}))


def _of_image(stack: StackEntry, variant: str) -> Binaries | None:
    from orchestrator.runtimes.base import BuildOptions
    from orchestrator.runtimes.build_inputs import build_inputs
    from orchestrator.runtimes.docker.build import image_labels, image_tag, with_default_base
    from orchestrator.system.container_engine import connect

    with suppress(OrchError, ValueError):  # no engine; an argument that only its user knows
        tag = image_tag(build_inputs(stack, variant, with_default_base(BuildOptions())))
        labels = image_labels(connect(), tag)
        return None if labels is None else of_labels(labels)
    return None


def _of_environment(stack: StackEntry, variant: str) -> Binaries | None:
    from orchestrator.runtimes.build_inputs import build_lock_of
    from orchestrator.runtimes.venv import environment_folder

    spec = stack.spec.variants[variant]
    with suppress(OrchError, OSError, ValueError, KeyError):
        pythons = (spec.python, *spec.also_python)
        lock = stack.folder / spec.lock
        folder: Path = environment_folder(f"{stack.name}-{variant}", lock, pythons, build_lock_of(stack, variant))
        return parse((folder / FILE_NAME).read_text(encoding="utf-8"))
    return None
