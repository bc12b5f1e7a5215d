"""Not Apptainer: a command that takes the exact arguments orch gives to Apptainer and does the like with Docker.

`build --force SIF docker-archive://ARCHIVE` loads the archive and writes the image's name into SIF; `exec` with the
options of orchestrator/runtimes/apptainer.py, and no others, becomes `docker run`. What it cannot show is what the
real Apptainer makes of those options. Signals reach the container as Apptainer propagates them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

DOCKER = os.environ.get("ORCH_DOCKER", "docker")


def main(arguments: list[str]) -> int:
    """Be called."""
    if arguments == ["--version"]:
        print("apptainer version 0.0.0-stand-in")
        return 0
    if arguments[:2] == ["build", "--force"] and len(arguments) == 4:
        return build(Path(arguments[2]), arguments[3])
    if arguments[0] == "exec":
        return execute(arguments[1:])
    raise SystemExit(f"the stand-in knows nothing of {arguments}")


def build(sif: Path, source: str) -> int:
    """Load the archive, remember the image's name."""
    kind, _, archive = source.partition("://")
    assert kind == "docker-archive"
    with tarfile.open(archive) as members:
        manifest = members.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
    subprocess.run([DOCKER, "load", "--quiet", "--input", archive], check=True, stdout=subprocess.DEVNULL)
    sif.write_text(image["RepoTags"][0])
    return 0


def execute(rest: list[str]) -> int:
    """Run the command of an image."""
    line = [DOCKER, "run", "--rm", "--init", "--interactive", "--read-only"]
    user = {"uid": os.getuid(), "gid": os.getgid()}
    flags = {"--containall", "--no-home", "--cleanenv", "--no-privs"}
    while rest[0].startswith("-"):
        option = rest.pop(0)
        if option in flags:
            flags.remove(option)
        elif option == "--net":
            assert [rest.pop(0), rest.pop(0)] == ["--network", "none"]
            line += ["--network", "none"]
        elif option == "--security":
            name, _, number = rest.pop(0).partition(":")
            assert os.getuid() == 0
            user[name] = int(number)
        elif option == "--pwd":
            line += ["--workdir", rest.pop(0)]
        elif option == "--bind":
            line += ["--volume", rest.pop(0)]
        else:
            raise SystemExit(f"the stand-in knows no option {option}")
    # Dropping the root caller's privileges is what --no-privs is for; Docker's other users have none anyway.
    line += ["--cap-drop", "ALL"] if "--no-privs" not in flags else []
    line += ["--user", f"{user['uid']}:{user['gid']}"]
    image = Path(rest.pop(0)).read_text()
    process = subprocess.Popen([*line, image, *rest])
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    return process.wait()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
