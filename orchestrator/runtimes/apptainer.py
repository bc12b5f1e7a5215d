"""The apptainer runtime, for clusters without Docker: SIF files made from image archives. Singularity does as well."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import BuildError, MachineError, UsageError
from orchestrator.paths import build_logs_folder, images_folder
from orchestrator.runtimes.base import BuildOptions, Prepared, WorkerSpec, worker_environment
from orchestrator.runtimes.build_inputs import BuildInputs, build_inputs
from orchestrator.runtimes.docker.archive import ensure_archive
from orchestrator.runtimes.docker.build import with_default_base
from orchestrator.runtimes.docker.image_archives import find_archive
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME, bound_folders, image_paths
from orchestrator.runtimes.process import ProcessWorker, reap_processes, visible_gpus
from orchestrator.system.container_engine import connect
from orchestrator.system.display import Report
from orchestrator.system.files import replace_path
from orchestrator.system.locks import hold_lock
from orchestrator.system.subprocesses import run_subprocess

COMMANDS = ("apptainer", "singularity")
OLDEST_SINGULARITY = (3, 8)
NO_NETWORK = ("--net", "--network", "none")
_PROBE_SECONDS = 120
_OWN_VARIABLES = ("APPTAINER_", "SINGULARITY_")


@dataclass(frozen=True)
class Installed:
    """The command there is, and what it says of its version."""

    command: str
    version: str


class ApptainerRuntime:
    """Workers as contained processes of the caller: read-only root, own /tmp, no home; no network where it can."""

    name = "apptainer"

    def available(self) -> str | None:
        """None if there is an Apptainer, or a Singularity new enough, else what is there instead."""
        try:
            installed()
        except MachineError as error:
            return f"{error.message} ({error.why})" if error.why else error.message
        return None

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Make the variant's SIF file from its archive unless it is there. Raises BuildError, MachineError."""
        options = with_default_base(options)
        inputs = build_inputs(stack, variant, options)
        image = sif_path(inputs)
        started = time.monotonic()
        with hold_lock(image.with_name(f".{image.name}.lock"), wait=True):
            fresh = options.rebuild or not image.is_file()
            if fresh:
                make_sif(inputs, options, image, report)
        if not can_isolate_network(installed().command, str(image)):
            report("Apptainer cannot take the network away from workers on this machine")
        seconds = time.monotonic() - started
        return Prepared(stack, variant, self.name, inputs.identity, str(image), None, fresh, seconds)

    def build_place(self, stack: StackEntry, variant: str, options: BuildOptions) -> Path | None:
        """The folder of images, unless the variant's SIF file is there."""
        image = sif_path(build_inputs(stack, variant, with_default_base(options)))
        return image.parent if options.rebuild or not image.is_file() else None

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """The mount points: those of the docker runtime."""
        del spec
        return image_paths(prepared)

    def require(self, devices: Sequence[str]) -> None:
        """Workers see what this machine has: --nv, and the environment's variables leave each its GPU."""
        del devices

    def start(self, prepared: Prepared, spec: WorkerSpec) -> ProcessWorker:
        """Start a contained runner. Raises MachineError, UsageError for a folder that cannot be mounted."""
        command = installed().command
        scratch = Path(tempfile.mkdtemp(prefix=f"orch-{spec.run}-{spec.name}-"))
        (scratch / "home").mkdir()
        try:
            network = not can_isolate_network(command, prepared.location)
            line = exec_command(command, prepared, spec, scratch, network=network, root=os.getuid() == 0)
            return ProcessWorker(spec, line, caller_environment(), scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def reap(self, run: str, jobs: Path) -> int:
        """Kill the workers whose job folder is one of this run's; with them ends what they contain."""
        del run
        return reap_processes(jobs)


@cache
def installed() -> Installed:
    """The command of this machine. Raises MachineError."""
    hint = "module load apptainer, if this cluster has modules; or --runtime docker, or venv"
    for name in COMMANDS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise MachineError(f"{path} does not run", why=str(error), hint=hint) from error
        version = done.stdout.strip()
        if name == "singularity" and _too_old(version):
            raise MachineError(f"{path} is too old", why=f"it is {version}; 3.8 is the oldest that does", hint=hint)
        return Installed(path, version)
    raise MachineError("there is no Apptainer here", why=f"neither {' nor '.join(COMMANDS)} is on the PATH", hint=hint)


def _too_old(version: str) -> bool:
    """By what `singularity --version` prints: "singularity version 3.8.7", "singularity-ce version 4.1.2-1.el9"."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is None or tuple(map(int, found.groups())) < OLDEST_SINGULARITY


def sif_path(inputs: BuildInputs) -> Path:
    """The SIF file of a variant; another content, another name."""
    return images_folder() / f"{inputs.stack}-{inputs.variant}-{inputs.identity}.sif"


def build_command(command: str, archive: Path, target: Path) -> list[str]:
    """The command line that makes a SIF file from an image archive. A pure value."""
    return [command, "build", "--force", str(target), f"docker-archive://{archive}"]


def make_sif(inputs: BuildInputs, options: BuildOptions, image: Path, report: Report) -> None:
    """Make a SIF file, in one step, from the variant's archive. Raises BuildError, MachineError."""
    archive = _archive(inputs, options, report)
    log = build_logs_folder() / f"{image.stem}-sif.log"
    log.unlink(missing_ok=True)
    report(f"making {image} from {archive}")
    with replace_path(image) as aside:
        line = build_command(installed().command, archive, aside)
        code, tail = run_subprocess(line, log, report, environment=caller_environment())
        if code != 0:
            raise BuildError(f"{image.name} could not be made (exit {code})", why="\n".join(tail), log=log)


def _archive(inputs: BuildInputs, options: BuildOptions, report: Report) -> Path:
    """The archive there is, else one written by an engine on this machine. Raises BuildError, MachineError."""
    found = None if options.rebuild else find_archive(inputs)
    if found is not None:
        return found
    try:
        engine = connect()
    except MachineError as error:
        raise MachineError(
            f"there is no archive of the image {inputs.stack}-{inputs.variant}-{inputs.identity}",
            why=f"Apptainer builds no Dockerfiles, and no engine is here to: {error.message}",
            hint=f"where there is Docker: orch build {inputs.stack} --variant {inputs.variant} --archive; then copy "
            f"the file it names into {images_folder()}",
        ) from error
    return ensure_archive(engine, inputs, options, report)


def exec_command(
    command: str, prepared: Prepared, spec: WorkerSpec, scratch: Path, *, network: bool, root: bool
) -> list[str]:
    """The whole command line of a worker. A pure value. Raises UsageError for a folder that cannot be mounted.

    `network`: whether it keeps the host's, where this Apptainer cannot take it away; `root`: whether root is calling.
    """
    line = [command, "exec", "--containall", "--no-home", "--cleanenv", "--pwd", "/tmp"]
    line += [] if network else NO_NETWORK
    line += ["--no-privs"] if root else []
    line += ["--nv"] if spec.device != "cpu" else []
    # The /tmp of --containall is in memory and as large as the administrator says: 64 MB, unless changed.
    for source, target, read_only in [*bound_folders(spec), (scratch, "/tmp", False)]:
        if set(":,") & set(str(source)):
            raise UsageError(
                f"{source} cannot be mounted by Apptainer",
                why="it takes : and , in a path for its own",
                hint="make a link to it whose path has neither, and name that",
            )
        line += ["--bind", f"{source}:{target}:{'ro' if read_only else 'rw'}"]
    runner = ["python", "-m", spec.module, str(GUEST["job"] / JOB_NAME)]
    return [*line, prepared.location, "env", *_variables(spec), *runner]


def _variables(spec: WorkerSpec) -> list[str]:
    """For env(1) in the container: --env of Apptainer refuses to set HOME."""
    own = worker_environment(spec.threads, str(GUEST["cache"]), GUEST_HOME)
    gpus = visible_gpus(spec.device) if spec.device != "cpu" else {}
    return [f"{name}={value}" for name, value in {**own, "USER": "orch", "LOGNAME": "orch", **gpus}.items()]


def caller_environment() -> dict[str, str]:
    """The caller's environment without what would change the meaning of a command line: binds, variables, options."""
    kept = ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR", "SINGULARITY_TMPDIR")
    foreign = (*_OWN_VARIABLES, "APPTAINERENV_", "SINGULARITYENV_")
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(foreign)}


@cache
def can_isolate_network(command: str, image: str) -> bool:
    """Whether a container may be given no network: that takes user namespaces, or an installation with setuid."""
    line: Sequence[str] = [command, "exec", "--containall", "--no-home", *NO_NETWORK, image, "true"]
    try:
        done = subprocess.run(
            line, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_SECONDS, check=False,
            env=caller_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
