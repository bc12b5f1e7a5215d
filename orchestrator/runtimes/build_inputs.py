"""What goes into a variant, and the identity that follows from it: nothing is rebuilt while nothing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.catalog.bundled import RUNNER
from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.spec import UpstreamSource, Variant
from orchestrator.errors import SpecError, UsageError
from orchestrator.runtimes.base import BuildOptions

LOCK_NAME = "requirements.lock"
BUILD_LOCK_NAME = "build.lock"
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
    sources: Mapping[str, UpstreamSource] = field(default_factory=dict)
    """Upstream code: its commit stands for its content, so that nothing need be fetched to know the identity."""
    for_gpus: bool = False

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that change exactly when anything of the content does."""
        return self._digest(json.dumps(self.arguments, sort_keys=True))

    @property
    def content(self) -> str:
        """The same without the arguments: two bases of one stack are equally up to date."""
        return self._digest("")

    def _digest(self, arguments: str) -> str:
        digest = hashlib.sha256()
        named = {"Dockerfile": self.dockerfile, LOCK_NAME: self.lock, **self.files}
        for name in sorted(named):
            content = hashlib.sha256(named[name].read_bytes()).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
        digest.update(arguments.encode())
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
    build_lock = build_lock_of(stack, variant)
    if build_lock is not None:
        files[BUILD_LOCK_NAME] = build_lock
    given = options.build_args or {}
    arguments = {
        "BASE_IMAGE": options.base_image or spec.base_image,
        **dict(_build_arguments(stack, variant, given)),
        **given,
    }
    return BuildInputs(
        stack.name, variant, stack.dockerfile, lock, files, arguments, stack.spec.sources, spec.device == "cuda"
    )


def build_lock_of(stack: StackEntry, variant: str) -> Path | None:
    """The lock of what a variant's source distributions are built with, if it has any. Raises SpecError."""
    name = find_variant(stack, variant).build_lock
    if name is None:
        return None
    if not (stack.folder / name).is_file():
        raise SpecError(f"{stack.folder / 'stack.yaml'}: variants.{variant}.build_lock: there is no file {name}")
    return stack.folder / name


def _build_arguments(stack: StackEntry, variant: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The values stack.yaml gives to arguments. Raises UsageError for one that it leaves to the user."""
    for name, argument in find_variant(stack, variant).build_args.items():
        if argument.default is not None:
            yield name, argument.default
        elif name not in given:
            raise UsageError(
                f"the variant {variant} of {stack.name} cannot be built without {name}",
                why=argument.help,
                hint=f"orch build {stack.name} --variant {variant} --build-arg {name}=…",
            )


def _is_for_the_host(path: Path) -> bool:
    """Files of a stack's folder that the predictor does not need: editing them must not rebuild the image."""
    return path.name == "stack.yaml" or path.suffix in (".lock", ".in", ".Dockerfile", ".md")


def _tree(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part in _SKIPPED or part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path
