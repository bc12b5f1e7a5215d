"""Locks are installed as they stand, by the commands that the product uses, where newer versions of everything exist.

Each lock's names are made up as wheels, with the pinned version and a newer one, that require each other with an extra:
the oldest pip that is supported then asks the index again for whatever a lock lets it resolve, and takes the newer one.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import orchestrator
from orchestrator.catalog.bundled import RUNNER
from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.scaffold import create_stack
from orchestrator.runtimes import environments
from orchestrator.workflows.convert import LOCK_NAME as CONVERT_LOCK
from orchestrator.workflows.demo import photographs

ROOT = Path(orchestrator.__file__).parents[1]
OLDEST_PIP = ROOT / "tests" / "oldest-pip.lock"
NEWER = "99999"
EXTRA = "made-up"
LEFT_OUT = "left-out-of-the-lock"


class Installation(NamedTuple):
    """A lock, what its source distributions are built with, and what installs it."""

    lock: Path
    build_lock: Path | None
    is_partial: bool
    dockerfile: Path | None = None
    """None: the venv runtime."""


def installations() -> Iterator[Installation]:
    """A stack's first lock by its Dockerfile, the others by the venv runtime; none that is a part of an earlier one."""
    for stack in load_catalog([]).stacks.values():
        earlier: list[set[str]] = []
        for variant in stack.spec.variants.values():
            lock = stack.folder / variant.lock
            pins = {str(pin) for pin in read_pins(lock)}
            if not any(pins <= others for others in earlier):
                build_lock = None if variant.build_lock is None else stack.folder / variant.build_lock
                yield Installation(lock, build_lock, variant.partial_lock, None if earlier else stack.dockerfile)
                earlier.append(pins)
        if (stack.folder / CONVERT_LOCK).is_file():
            yield Installation(stack.folder / CONVERT_LOCK, None, True)


def label(installation: Installation) -> str:
    by = "venv" if installation.dockerfile is None else "Dockerfile"
    return f"{installation.lock.parent.name}/{installation.lock.name}-{by}"


def read_pins(lock: Path) -> list[Requirement]:
    """What a lock installs on this Python."""
    pins = [Requirement(line.rstrip(" \\")) for line in lock.read_text().splitlines() if re.match(r"\w", line)]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


class Index:
    """A folder of made-up wheels, an index of it (pip is slower with the folder alone), and locks rewritten for it."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.pages, self.locks = folder / "wheels", folder / "pages", folder / "locks"
        for one in (self.wheels, self.pages, self.locks):
            one.mkdir()

    def add(self, lock: Path, *, is_partial: bool = False, files: Iterable[str] = ()) -> tuple[Path, dict[str, str]]:
        """Offer a lock's packages; the lock with these wheels' hashes, and the versions it has for this Python."""
        pins, lines = read_pins(lock), []
        for pin, other in zip(pins, [*pins[1:], pins[0]], strict=True):
            (version,) = (one.version for one in pin.specifier)
            (least,) = (one.version for one in other.specifier)
            requires = [f"{other.name}[{EXTRA}]>={least}", *([LEFT_OUT] if is_partial else [])]
            extras = sorted(pin.extras | {EXTRA})
            digest = self._wheel(pin.name, version, requires, extras, files)
            self._wheel(pin.name, NEWER, requires, extras, files)
            lines.append(f"{str(pin).partition(';')[0]} --hash=sha256:{digest}\n")
        self._wheel(LEFT_OUT, NEWER, [], [], [])
        rewritten = self.locks / f"{len(list(self.locks.iterdir()))}.lock"
        rewritten.write_text("".join(lines))
        return rewritten, {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}

    def _wheel(self, name: str, version: str, requires: list[str], extras: list[str], files: Iterable[str]) -> str:
        stem = f"{name.replace('-', '_')}-{version}"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        metadata += [*(f"Provides-Extra: {one}" for one in extras), *(f"Requires-Dist: {one}" for one in requires)]
        path = self.wheels / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for file in files:
                wheel.writestr(file, "")
            wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(metadata) + "\n")
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
        page = self.pages / canonicalize_name(name)
        page.mkdir(exist_ok=True)
        with (page / "index.html").open("a") as links:
            links.write(f'<a href="../../wheels/{path.name}">{path.name}</a>\n')
        return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def oldest_pip() -> Path:
    """A folder with the oldest pip that is supported, fetched once."""
    cache = Path(os.environ.get("ORCH_TEST_CACHE") or ROOT / ".cache" / "tests")
    folder = cache / f"pip-{hashlib.sha256(OLDEST_PIP.read_bytes() + sys.version.encode()).hexdigest()[:12]}"
    if not folder.exists():
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        uv = [environments.find_uv() or "uv", "pip", "install", "--compile-bytecode", "--python", sys.executable]
        command = [*uv, "--target", str(aside), *environments.LOCKED, *environments.WHEELS, "-r", str(OLDEST_PIP)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        aside.rename(folder)
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The one index that pip and uv know."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    made = Index(tmp_path)
    settings = {
        "PIP_INDEX_URL": made.pages.as_uri(), "PIP_CONFIG_FILE": os.devnull,
        "UV_OFFLINE": "1", "UV_FIND_LINKS": made.wheels, "UV_NO_CONFIG": "1", "UV_CACHE_DIR": tmp_path / "uv-cache",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return made


@pytest.fixture
def make_python(tmp_path: Path, oldest_pip: Path) -> Path:
    """A Python whose `-m venv FOLDER` makes an environment with the oldest pip in it."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh -e\n[ "$1 $2" = \'-m venv\' ]\n{sys.executable} -m venv --without-pip "$3"\n'
        f'for folder in "$3"/lib/python*/site-packages; do echo {oldest_pip} >"$folder/oldest.pth"; done\n'
        'printf \'#!/bin/sh\\nexec python -m pip "$@"\\n\' >"$3/bin/pip"; chmod +x "$3/bin/pip"\n'
    )
    script.chmod(0o755)
    return script


@pytest.fixture
def environment(tmp_path: Path, make_python: Path) -> Path:
    """An environment with the oldest pip in it."""
    subprocess.run([make_python, "-m", "venv", tmp_path / "env"], check=True)
    return tmp_path / "env"


def shell(environment: Path, command: str, folder: Path, **variables: str) -> None:
    """Run a command line with the environment's Python and pip first on PATH."""
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, **variables}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def installed(environment: Path) -> dict[str, str]:
    folders = [str(one) for one in environment.glob("lib/python*/site-packages")]
    return {canonicalize_name(one.metadata["Name"]): one.version for one in distributions(path=folders)}


def makefile_commands(folder: Path, environment: Path) -> list[str]:
    """What `make venv` types, but for building orch itself."""
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (environment / ".stamp-python").touch()
    command = ["make", "--dry-run", f"VENV={environment}", "venv"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in answer.stdout.splitlines() if " -m pip " in line and "--editable" not in line]


def test_make_venv_installs_what_is_locked(tmp_path: Path, index: Index, environment: Path) -> None:
    lock, versions = index.add(ROOT / "dev.lock")
    lock.rename(tmp_path / "dev.lock")
    install, check = makefile_commands(tmp_path, environment)
    assert check.endswith(" pip check")
    shell(environment, install, tmp_path)
    assert installed(environment) == versions
    shell(environment, check, tmp_path)


def test_an_install_that_resolves_takes_what_is_newest(tmp_path: Path, index: Index, environment: Path) -> None:
    """What the other tests rely on: here the oldest pip fails with the command that `make venv` once had."""
    lock, _ = index.add(ROOT / "dev.lock")
    with pytest.raises(AssertionError, match=f"all requirements must have their versions pinned.*(\n.*)*{NEWER}"):
        shell(environment, f"python -m pip install --require-hashes -r {lock}", tmp_path)


def docker_commands(dockerfile: Path) -> list[str]:
    """The RUN instructions that call pip."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M))
    runs = re.findall(r"^RUN (?:--mount=\S+ )*(.*)$", text, flags=re.M)
    return [one.strip() for one in runs if re.search(r"\bpip (install|check)\b", one)]


@pytest.mark.parametrize("installation", list(installations()), ids=label)
def test_stacks_get_what_is_locked(
    installation: Installation, tmp_path: Path, index: Index, make_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, versions = index.add(installation.lock, is_partial=installation.is_partial)
    build_lock = None
    if installation.build_lock is not None:
        build_lock, built_with = index.add(installation.build_lock, is_partial=installation.is_partial)
        versions |= built_with
    environment = tmp_path / "env"
    if installation.dockerfile is None:
        monkeypatch.setattr(environments, "find_uv", lambda: None)
        monkeypatch.setattr(environments, "find_python", lambda versions: make_python)
        environments.make_environment(environment, lock, (), False, print, build_lock, installation.is_partial)
    else:
        subprocess.run([make_python, "-m", "venv", environment], check=True)
        build_in(environment, installation.dockerfile, lock, build_lock)
    assert installed(environment) == versions


def build_in(environment: Path, dockerfile: Path, lock: Path, build_lock: Path | None) -> None:
    """Run what a Dockerfile does with pip."""
    context = environment.parent
    lock.rename(context / "requirements.lock")
    if build_lock is not None:
        build_lock.rename(context / "build.lock")
    for command in docker_commands(dockerfile):
        here = command.replace("/opt/orch", str(context)).replace("/var/cache", str(context))
        shell(environment, here, context, TORCH="", COMPILED_OPS="0")


def test_new_stacks_get_what_is_locked(tmp_path: Path, index: Index, environment: Path) -> None:
    create_stack("mine", tmp_path / "stacks")
    stack = load_catalog([tmp_path / "stacks"]).stack("mine")
    lock, versions = index.add(stack.folder / stack.spec.variants["cpu"].lock)
    build_in(environment, stack.dockerfile, lock, None)
    assert installed(environment) == versions


def test_uv_installs_what_is_locked(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, versions = index.add(RUNNER / "base.lock", is_partial=True)
    monkeypatch.setattr(environments, "find_python", lambda versions: Path(sys.executable))
    environments.make_environment(tmp_path / "env", lock, (), False, print, partial=True)
    assert installed(tmp_path / "env") == versions


def test_the_photographs_come_out_of_the_locked_package(
    tmp_path: Path, index: Index, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [f"skimage/data/{name}" for name in photographs.PICTURES]
    lock, _ = index.add(photographs.LOCK, is_partial=True, files=pictures)
    monkeypatch.setattr(photographs, "LOCK", lock)
    monkeypatch.setattr(photographs, "find_uv", lambda: None)
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    photographs.fetch_photographs(tmp_path / "pictures")
    assert {one.name for one in (tmp_path / "pictures").iterdir()} == set(photographs.PICTURES)


@pytest.mark.parametrize(
    ("requires", "is_partial", "fits"),
    [("numpy>=2", False, False), ("numpy>=2", True, False), (LEFT_OUT, False, False), (LEFT_OUT, True, True)],
)
def test_images_are_checked(
    requires: str, is_partial: bool, fits: bool, tmp_path: Path, index: Index, environment: Path
) -> None:
    """Versions that do not fit end a build; missing packages do where the lock is not meant to leave any out."""
    (folder,) = environment.glob("lib/python*/site-packages")
    for name, version, line in (("numpy", "1", ""), ("other", "1", f"Requires-Dist: {requires}\n")):
        (folder / f"{name}-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{line}"
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    dockerfiles = {one.dockerfile for one in installations() if one.dockerfile and one.is_partial == is_partial}
    runs = [run for dockerfile in dockerfiles for run in docker_commands(dockerfile)]
    found = [part.strip() for run in runs for part in run.split(" && ") if "pip check" in part]
    assert len(found) == len(dockerfiles)
    (check,) = set(found)
    if fits:
        shell(environment, check, tmp_path)
    else:
        with pytest.raises(AssertionError, match="other 1"):
            shell(environment, check, tmp_path)


def test_nothing_is_built_with_what_is_newest() -> None:
    template = ROOT / "orchestrator" / "templates" / "stack" / "NAME.Dockerfile.template"
    dockerfiles = [*ROOT.glob("Dockerfiles/*"), *ROOT.glob("tests/stacks/*/*.Dockerfile"), template]
    runs = [run for dockerfile in dockerfiles for run in docker_commands(dockerfile)]
    makefile = re.findall(r"\$\(PIP_INSTALL\) .*", (ROOT / "Makefile").read_text())
    installs = [part for run in runs for part in run.split(" && ") if "pip install" in part] + makefile
    assert len(installs) >= len(dockerfiles) + 2
    for install in installs:
        assert "--no-deps" in install
        assert "--only-binary :all:" in install or "--no-build-isolation" in install, install


def test_documents_install_locks_as_they_stand() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/**/*.md")]
    lines = [line for one in documents for line in re.findall(r"install .*-r \S+\.lock.*", one.read_text())]
    assert len(lines) >= 2
    for line in lines:
        assert " ".join(environments.LOCKED) in line, line
