"""The apptainer runtime, for clusters without Docker: SIF files made from image archives. Singularity works too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from orchestrator.catalog import StackEntry
from orchestrator.errors import MachineError, UsageError
from orchestrator.paths import build_logs_folder, images_folder
from orchestrator.runtimes.base import BuildOptions, Location, Prepared, Runtime, WorkerSpec, worker_environment
from orchestrator.runtimes.build_failure import build_error
from orchestrator.runtimes.build_inputs import BuildInputs, image_inputs
from orchestrator.runtimes.docker.archive import ensure_archive, find_archive
from orchestrator.runtimes.docker.user import NOBODY, calling_user, folder_owner, worker_user
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.limits import Limits
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME, bound_folders, image_paths
from orchestrator.runtimes.process import ProcessWorker, reap_processes, visible_gpus
from orchestrator.system import Report, connect, hold_lock, replace_path, run_subprocess

COMMANDS = ("apptainer", "singularity")
OLDEST_SINGULARITY = (3, 8)
NO_NETWORK = ("--net", "--network", "none")
_PROBE_SECONDS = 120
_OWN_VARIABLES = ("APPTAINER_", "SINGULARITY_")


@dataclass(frozen=True)
class InstalledCommand:
    """The command of this machine, and what it prints as its version."""

    command: str
    version: str


class ApptainerRuntime(Runtime):
    """Workers as contained processes of the caller: read-only root, own /tmp, no home, no network."""

    name = "apptainer"

    def unavailable_reason(self) -> str | None:
        """Return why neither Apptainer nor a recent Singularity can be used; None where one can."""
        try:
            find_command()
        except MachineError as error:
            return f"{error.message} ({error.why})" if error.why else error.message
        return None

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Make the variant's SIF file from its archive unless it is there. Raises BuildError, MachineError."""
        inputs = image_inputs(stack, variant, options)
        image = sif_path(inputs)
        started = time.monotonic()
        with hold_lock(image.with_name(f".{image.name}.lock"), wait=True):
            fresh = options.rebuild or not image.is_file()
            if fresh:
                make_sif(inputs, options, image, report)
        if not can_isolate_network(find_command().command, str(image)):
            report("Apptainer cannot isolate workers from the network on this machine")
        seconds = time.monotonic() - started
        return Prepared(stack, variant, self.name, inputs.identity, str(image), None, fresh, seconds)

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return the variant's SIF file; a build fills the folder of images."""
        inputs = image_inputs(stack, variant, options)
        image = sif_path(inputs)
        is_built = image.is_file()
        return Location(
            str(image), inputs.identity, is_built, image.parent if options.rebuild or not is_built else None
        )

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """Return the mount points, the same in every image."""
        return image_paths(prepared)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> ProcessWorker:
        """Start a contained runner. Raises MachineError, UsageError for a folder that cannot be mounted."""
        command = find_command().command
        scratch, owner = Path(tempfile.mkdtemp(prefix=f"orch-{spec.run}-{spec.name}-")), self.worker_owner()
        (scratch / "home").mkdir()
        if owner is not None:  # nobody but this process has seen these folders yet
            os.chown(scratch / "home", *owner)
            os.chown(scratch, *owner)
        try:
            network = not can_isolate_network(command, prepared.location)
            line = exec_command(command, prepared, spec, scratch, network=network, root=owner is not None)
            return ProcessWorker(spec, line, caller_environment(), scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def worker_owner(self) -> tuple[int, int] | None:
        """Return nobody where root is calling: no worker runs as root."""
        caller = calling_user()
        return folder_owner(worker_user(caller), caller, ())

    def limits_in_force(self, workers: int) -> Limits:
        """Return the limits of each worker; Slurm limits memory and processes."""
        return replace(super().limits_in_force(workers), user=worker_user(calling_user()))

    def reap(self, run: str, jobs: Path) -> int:
        """Kill the workers whose job folder is one of this run's, and with them what they contain."""
        return reap_processes(jobs)


@cache
def find_command() -> InstalledCommand:
    """Return the command of this machine. Raises MachineError."""
    hint = "module load apptainer, if this cluster has modules; or --runtime docker, or venv"
    for name in COMMANDS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise MachineError(f"cannot run {path}", why=str(error), hint=hint) from error
        version = done.stdout.strip()
        if name == "singularity" and _is_too_old(version):
            raise MachineError(f"{path} is too old", why=f"it is {version}; 3.8 is the oldest that works", hint=hint)
        return InstalledCommand(path, version)
    raise MachineError("cannot find Apptainer", why=f"neither {' nor '.join(COMMANDS)} is on the PATH", hint=hint)


def _is_too_old(version: str) -> bool:
    """Judge what `singularity --version` prints, such as "singularity-ce version 4.1.2-1.el9"."""
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return numbers is None or tuple(map(int, numbers.groups())) < OLDEST_SINGULARITY


def sif_path(inputs: BuildInputs) -> Path:
    """Return the SIF file of a variant."""
    return images_folder() / f"{inputs.file_stem}.sif"


def build_command(command: str, archive: Path, target: Path) -> list[str]:
    """Return the command line that makes a SIF file from an image archive. A pure value."""
    return [command, "build", "--force", str(target), f"docker-archive://{archive}"]


def make_sif(inputs: BuildInputs, options: BuildOptions, image: Path, report: Report) -> None:
    """Make a SIF file, in one step, from the variant's archive. Raises BuildError, MachineError."""
    archive = _find_or_write_archive(inputs, options, report)
    log = build_logs_folder() / f"{image.stem}-sif.log"
    log.unlink(missing_ok=True)
    report(f"making {image} from {archive}")
    with replace_path(image) as aside:
        line = build_command(find_command().command, archive, aside)
        code, tail = run_subprocess(line, log, report, environment=caller_environment())
        if code != 0:
            raise build_error(f"cannot make {image.name} (exit {code})", tail, log)


def _find_or_write_archive(inputs: BuildInputs, options: BuildOptions, report: Report) -> Path:
    """Return the variant's archive, written by an engine where it is missing. Raises BuildError, MachineError."""
    archive = None if options.rebuild else find_archive(inputs)
    if archive is not None:
        return archive
    try:
        engine = connect()
    except MachineError as error:
        raise MachineError(
            f"no archive of the image {inputs.file_stem}",
            why=f"Apptainer builds no Dockerfiles, and no engine can write the archive: {error.message}",
            hint=f"on a machine with Docker: orch build {inputs.stack} --variant {inputs.variant} --archive; then copy "
            f"the file it names into {images_folder()}",
        ) from error
    return ensure_archive(engine, inputs, options, report)


def exec_command(
    command: str, prepared: Prepared, spec: WorkerSpec, scratch: Path, *, network: bool, root: bool
) -> list[str]:
    """Return the whole command line of a worker. A pure value. Raises UsageError for a folder that cannot be mounted.

    `network`: whether it keeps the host's network, where Apptainer cannot isolate it; `root`: whether root is calling.
    """
    line = [command, "exec", "--containall", "--no-home", "--cleanenv", "--pwd", "/tmp"]
    line += [] if network else NO_NETWORK
    # Only root may name another user.
    line += ["--no-privs", "--security", f"uid:{NOBODY}", "--security", f"gid:{NOBODY}"] if root else []
    line += ["--nv"] if spec.device != "cpu" else []
    # The /tmp of --containall is in memory; its size is the administrator's setting, 64 MB by default.
    for source, target, read_only in [*bound_folders(spec), (scratch, "/tmp", False)]:
        if set(":,") & set(str(source)):
            raise UsageError(
                f"Apptainer cannot mount {source}",
                why="it gives : and , in a path a meaning of its own",
                hint="make a link to it whose path has neither, and use the link",
            )
        line += ["--bind", f"{source}:{target}:{'ro' if read_only else 'rw'}"]
    runner = ["python", "-m", spec.module, str(GUEST["job"] / JOB_NAME)]
    return [*line, prepared.location, "env", *_variables(spec), *runner]


def _variables(spec: WorkerSpec) -> list[str]:
    """Return arguments of env(1) in the container: --env of Apptainer refuses to set HOME."""
    own = worker_environment(spec.threads, str(GUEST["cache"]), GUEST_HOME)
    gpus = visible_gpus(spec.device) if spec.device != "cpu" else {}
    return [f"{name}={value}" for name, value in {**own, "USER": "orch", "LOGNAME": "orch", **gpus}.items()]


def caller_environment() -> dict[str, str]:
    """Return the caller's environment without the variables that change Apptainer's options."""
    kept = ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR", "SINGULARITY_TMPDIR")
    foreign = (*_OWN_VARIABLES, "APPTAINERENV_", "SINGULARITYENV_")
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(foreign)}


@cache
def can_isolate_network(command: str, image: str) -> bool:
    """Return whether a container can run without network: with user namespaces, or where it is setuid."""
    line: Sequence[str] = [command, "exec", "--containall", "--no-home", *NO_NETWORK, image, "true"]
    try:
        done = subprocess.run(
            line, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_SECONDS, check=False,
            env=caller_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
