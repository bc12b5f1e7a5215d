"""The GPU code in a built variant, as the guest prints it and as an image's labels keep it.

docs/decisions/0005-what-an-image-runs-on.md gives the reasons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.catalog import Variant

MODULE = "orch_runner.gpu.binaries"
FORMAT = "orch-binaries/1"
LABEL = "org.orch"
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class GpuCode:
    """Versions of the frameworks inside, and the compute capabilities of their native code and PTX."""

    frameworks: Mapping[str, str]
    cuda: str | None
    cudnn: str | None
    native: tuple[str, ...]
    ptx: tuple[str, ...]

    @property
    def has_code(self) -> bool:
        """Whether any GPU code was seen; where none was, the lists of stack.yaml stay valid."""
        return bool(self.native or self.ptx)

    def labels(self) -> dict[str, str]:
        """Return the labels of an image that holds it."""
        versions = {
            "frameworks": " ".join(f"{name}={version}" for name, version in self.frameworks.items()),
            "cuda": self.cuda,
            "cudnn": self.cudnn,
        }
        code = {"native": " ".join(self.native), "ptx": " ".join(self.ptx)} if self.has_code else {}
        return {f"{LABEL}.{name}": value for name, value in {**versions, **code}.items() if value is not None}

    def apply(self, variant: Variant) -> Variant:
        """Return the variant with these compute capabilities instead of those that stack.yaml declares."""
        if not self.has_code:
            return variant
        return variant.model_copy(update={"native_capabilities": self.native, "ptx_capabilities": self.ptx})


def parse_gpu_code(text: str) -> GpuCode:
    """Parse what orch_runner.gpu.binaries prints. Raises ValueError."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not {FORMAT}")
    try:
        frameworks = {str(name): str(version) for name, version in document["frameworks"].items()}
        return _make_gpu_code(frameworks, document["cuda"], document["cudnn"], document["native"], document["ptx"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not {FORMAT}: {error}") from error


def read_labels(labels: Mapping[str, str]) -> GpuCode | None:
    """Return what an image's labels say; None where they say nothing. Raises ValueError."""
    if f"{LABEL}.frameworks" not in labels:
        return None
    frameworks = dict(pair.split("=", 1) for pair in labels[f"{LABEL}.frameworks"].split() if "=" in pair)
    code = [labels.get(f"{LABEL}.{name}", "").split() for name in ("native", "ptx")]
    return _make_gpu_code(frameworks, labels.get(f"{LABEL}.cuda"), labels.get(f"{LABEL}.cudnn"), *code)


def _make_gpu_code(
    frameworks: Mapping[str, str], cuda: str | None, cudnn: str | None, native: list[str], ptx: list[str]
) -> GpuCode:
    for capability in (*native, *ptx):
        if not _CAPABILITY.fullmatch(capability):
            raise ValueError(f"{capability!r} is no compute capability")
    return GpuCode(frameworks, cuda, cudnn, tuple(native), tuple(ptx))
