"""What goes into a variant, and the identity that follows from it: nothing is rebuilt while nothing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.catalog import StackEntry
from orchestrator.errors import SpecError, UsageError
from orchestrator.resources import RUNNER
from orchestrator.runtimes.base import BuildOptions
from orchestrator.spec import Source, Variant

LOCK_NAME = "requirements.lock"
_SKIPPED = ("__pycache__", "weights", "convert")


@dataclass(frozen=True)
class BuildInputs:
    """The content of one variant's build: files by their name in the build context, and arguments."""

    stack: str
    variant: str
    dockerfile: Path
    lock: Path
    files: Mapping[str, Path]
    arguments: Mapping[str, str]
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Upstream code: its commit stands for its content, so that nothing need be fetched to know the identity."""

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that change exactly when anything of the content does."""
        digest = hashlib.sha256()
        named = {"Dockerfile": self.dockerfile, LOCK_NAME: self.lock, **self.files}
        for name in sorted(named):
            content = hashlib.sha256(named[name].read_bytes()).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
        digest.update(json.dumps(self.arguments, sort_keys=True).encode())
        for name, source in sorted(self.sources.items()):
            digest.update(json.dumps([name, source.commit, sorted(source.folders)]).encode())
        return digest.hexdigest()[:12]

    def write_context(self, folder: Path, sources: Mapping[str, Path]) -> None:
        """Lay the files out as the Dockerfile's COPY lines expect them: requirements.lock, runner/, sources/, stack/.

        `sources` has the folder of each source.
        """
        shutil.copyfile(self.dockerfile, folder / "Dockerfile")
        shutil.copyfile(self.lock, folder / LOCK_NAME)
        for name, path in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for name, tree in sources.items():
            shutil.copytree(tree, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))


def find_variant(stack: StackEntry, name: str) -> Variant:
    """The variant of that name. Raises UsageError."""
    if name not in stack.spec.variants:
        known = ", ".join(stack.spec.variants)
        raise UsageError(f"{stack.name} has no variant {name!r}", why=f"it has {known}")
    return stack.spec.variants[name]


def build_inputs(stack: StackEntry, variant: str, options: BuildOptions) -> BuildInputs:
    """Everything that goes into a variant. Raises SpecError for a file stack.yaml names that is not there."""
    spec = find_variant(stack, variant)
    lock = stack.folder / spec.lock
    if not lock.is_file():
        raise SpecError(f"{stack.folder / 'stack.yaml'}: variants.{variant}.lock: there is no file {spec.lock}")
    files = {f"runner/orch_runner/{name}": path for name, path in _tree(RUNNER / "orch_runner")}
    files |= {f"stack/{name}": path for name, path in _tree(stack.folder) if not _is_for_the_host(path)}
    arguments = {"BASE_IMAGE": options.base_image or spec.base_image, **(options.build_args or {})}
    return BuildInputs(stack.name, variant, stack.dockerfile, lock, files, arguments, stack.spec.sources)


def _is_for_the_host(path: Path) -> bool:
    """Files of a stack's folder that the predictor does not need: editing them must not rebuild the image."""
    return path.name == "stack.yaml" or path.suffix in (".lock", ".in", ".Dockerfile", ".md")


def _tree(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part in _SKIPPED or part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path
