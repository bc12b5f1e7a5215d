"""The inputs of a variant's build, and their content hash: only what has changed is built again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.catalog import RUNNER, StackEntry, UpstreamSource, Variant
from orchestrator.errors import SpecError, UsageError
from orchestrator.runtimes.base import BuildOptions

LOCK_NAME = "requirements.lock"
BUILD_LOCK_NAME = "build.lock"
_SKIPPED = ("__pycache__", "weights", "convert")
_WITHOUT_EFFECT = ("events", "gpu", "limits", "liveness", "memory", "random_weights", "serve", "serving")
"""Modules and folders of the runner that no prediction depends on; see docs/decisions/0009."""


@dataclass(frozen=True)
class BuildInputs:
    """The inputs of one variant's build: files by their name in the build context, and arguments."""

    stack: str
    variant: str
    dockerfile: Path
    lock: Path
    files: Mapping[str, Path]
    arguments: Mapping[str, str]
    sources: Mapping[str, UpstreamSource] = field(default_factory=dict)
    """Upstream code; its commit stands for its content, so that the identity is known before anything is fetched."""
    for_gpus: bool = False

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits of the content hash of all inputs."""
        return self._digest(json.dumps(self.arguments, sort_keys=True))

    @property
    def content(self) -> str:
        """The same without the arguments: builds on two base images are equally up to date."""
        return self._digest("")

    @property
    def file_stem(self) -> str:
        """What the names of files made from the image begin with; other content, another name."""
        return f"{self.stack}-{self.variant}-{self.identity}"

    @property
    def image_tag(self) -> str:
        """The image's name; other content, another name."""
        return f"{image_alias(self.stack, self.variant)}-{self.identity}"

    def result_parts(self) -> dict[str, str]:
        """Return the digests of what predictions depend on, by names for messages."""
        files: dict[str, dict[str, Path]] = {
            "packages": {LOCK_NAME: self.lock, "Dockerfile": self.dockerfile},
            "runner": {},
            "predictor": {},
        }
        for name, path in self.files.items():
            folder, _, rest = name.partition("/")
            if folder == "stack":
                files["predictor"][name] = path
            elif folder != "runner":
                files["packages"][name] = path
            elif PurePosixPath(rest).parts[1].removesuffix(".py") not in _WITHOUT_EFFECT:
                files["runner"][name] = path
        parts = {part: _digest_files(named).hexdigest()[:12] for part, named in files.items()}
        for part, value in (("build arguments", dict(self.arguments)), ("upstream code", self._commits())):
            parts[part] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
        return parts

    def _digest(self, arguments: str) -> str:
        digest = _digest_files({"Dockerfile": self.dockerfile, LOCK_NAME: self.lock, **self.files})
        digest.update(arguments.encode())
        for source in self._commits():
            digest.update(json.dumps(source).encode())
        return digest.hexdigest()[:12]

    def _commits(self) -> list[list[Any]]:
        return [[name, source.commit, sorted(source.folders)] for name, source in sorted(self.sources.items())]

    def write_context(self, folder: Path, sources: Mapping[str, Path]) -> None:
        """Copy the files to where the Dockerfile's COPY lines expect them.

        They are requirements.lock, runner/, sources/, stack/. `sources`: the folder of each source.
        """
        shutil.copyfile(self.dockerfile, folder / "Dockerfile")
        shutil.copyfile(self.lock, folder / LOCK_NAME)
        for name, path in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for name, tree in sources.items():
            shutil.copytree(tree, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))


def _digest_files(files: Mapping[str, Path]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest


def image_alias(stack: str, variant: str) -> str:
    """Return the name of a variant's latest image, whatever its content."""
    return f"orch/{stack}:{variant}"


def find_variant(stack: StackEntry, name: str) -> Variant:
    """Return the variant of that name. Raises UsageError."""
    if name not in stack.spec.variants:
        raise UsageError(f"{stack.name} has no variant {name!r}", why=f"it has {', '.join(stack.spec.variants)}")
    return stack.spec.variants[name]


def build_inputs(stack: StackEntry, variant: str, options: BuildOptions) -> BuildInputs:
    """Return everything that goes into a variant.

    Raises SpecError for a missing file, UsageError for a missing build argument.
    """
    spec = find_variant(stack, variant)
    lock = stack.folder / spec.lock
    if not lock.is_file():
        raise SpecError(f"{stack.folder / 'stack.yaml'}: variants.{variant}.lock: no file {spec.lock}")
    files = {f"runner/orch_runner/{name}": path for name, path in _tree(RUNNER / "orch_runner")}
    files |= {f"stack/{name}": path for name, path in _tree(stack.folder) if not _is_for_the_host(path)}
    build_lock = build_lock_of(stack, variant)
    if build_lock is not None:
        files[BUILD_LOCK_NAME] = build_lock
    given = options.build_args or {}
    defaults = _default_arguments(stack, variant, given)
    arguments = {"BASE_IMAGE": options.base_image or spec.base_image, **defaults, **given}
    return BuildInputs(
        stack.name, variant, stack.dockerfile, lock, files, arguments, stack.spec.sources, spec.device == "cuda"
    )


def result_parts(stack: StackEntry, variant: str, options: BuildOptions) -> dict[str, str]:
    """Return the digests of what in a variant's build predictions depend on, whichever runtime builds it.

    Raises SpecError, UsageError.
    """
    return image_inputs(stack, variant, options).result_parts()


def image_inputs(stack: StackEntry, variant: str, options: BuildOptions) -> BuildInputs:
    """Return everything that goes into a variant's image.

    $ORCH_BASE_IMAGE replaces the base of every stack, for machines that reach no image registry.
    Raises SpecError, UsageError.
    """
    base = options.base_image or os.environ.get("ORCH_BASE_IMAGE") or None
    return build_inputs(stack, variant, replace(options, base_image=base))


def build_lock_of(stack: StackEntry, variant: str) -> Path | None:
    """Return the lock of what a variant's source distributions are built with, if any. Raises SpecError."""
    name = find_variant(stack, variant).build_lock
    if name is None:
        return None
    if not (stack.folder / name).is_file():
        raise SpecError(f"{stack.folder / 'stack.yaml'}: variants.{variant}.build_lock: no file {name}")
    return stack.folder / name


def _default_arguments(stack: StackEntry, variant: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments that stack.yaml sets. Raises UsageError for a missing one that the user must set."""
    declared = find_variant(stack, variant).build_args
    for name, argument in declared.items():
        if argument.default is None and name not in given:
            raise UsageError(
                f"cannot build the variant {variant} of {stack.name} without {name}",
                why=argument.help,
                hint=f"orch build {stack.name} --variant {variant} --build-arg {name}=…",
            )
    return {name: argument.default for name, argument in declared.items() if argument.default is not None}


def _is_for_the_host(path: Path) -> bool:
    """Return whether the predictor does not need a file: editing such a file must not rebuild the image."""
    return path.name == "stack.yaml" or path.suffix in (".lock", ".in", ".Dockerfile", ".md")


def _tree(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part in _SKIPPED or part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path
