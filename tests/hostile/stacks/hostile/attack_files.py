"""Attacks by what lies in the out folder (and the cache): links, pipes, modes, sizes, names, swaps."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any, Callable

from attack_arrays import write_bytes
from guest import Act, attack

SECONDS_OF_A_RACE = 12.0


def instead(name: str, make: Callable[[Act, Path], Any]) -> None:
    """Register an attack that puts something else where a finished shard belongs."""

    def act(act: Act) -> None:
        make(act, act.replace(act.npz))

    attack(name)(act)


def in_background(repeat: Callable[[], Any]) -> None:
    """Repeat something as fast as possible for a while, in a thread."""

    def run() -> None:
        until = time.monotonic() + SECONDS_OF_A_RACE
        while time.monotonic() < until:
            try:
                repeat()
            except OSError:
                pass

    threading.Thread(target=run, daemon=True).start()


def listening(path: Path) -> None:
    """Make a socket."""
    short = Path("/tmp") / f"s{os.urandom(3).hex()}"
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(path) if len(str(path)) < 100 else str(short))
        if not path.exists():
            os.rename(short, path)
    finally:
        server.close()


def device(path: Path, major: int, minor: int) -> None:
    """Make a device node where that is allowed, else a link to the device."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    except OSError:
        path.symlink_to({(1, 5): "/dev/zero", (1, 3): "/dev/null"}[major, minor])


def sparse(path: Path, size: int) -> None:
    """Make a file without content."""
    with path.open("wb") as stream:
        stream.truncate(size)


def largest(path: Path) -> None:
    """Make a sparse file as large as the file system allows."""
    for size in (1 << 50, 1 << 43, 1 << 40, 1 << 36):
        try:
            return sparse(path, size)
        except OSError:
            continue


instead("shard-link-to-secret", lambda act, path: path.symlink_to(act.target / "secret.npz"))
instead("shard-link-to-text", lambda act, path: path.symlink_to(act.target / "secret.txt"))
instead("shard-link-to-folder", lambda act, path: path.symlink_to(act.target / "originals"))
instead("shard-link-relative", lambda act, path: path.symlink_to(os.path.relpath(act.target / "secret.npz", act.out)))
instead("shard-link-to-itself", lambda act, path: path.symlink_to(path.name))
instead("shard-link-dangling", lambda act, path: path.symlink_to(act.target / "made-by-the-host"))
instead("shard-link-to-zeros", lambda act, path: path.symlink_to("/dev/zero"))
instead("shard-link-to-terminal", lambda act, path: path.symlink_to("/dev/tty"))
instead("shard-link-to-own-memory", lambda act, path: path.symlink_to("/proc/self/mem"))
instead("shard-link-to-standard-input", lambda act, path: path.symlink_to("/dev/stdin"))
instead("shard-fifo", lambda act, path: os.mkfifo(path))
instead("shard-socket", lambda act, path: listening(path))
instead("shard-device", lambda act, path: device(path, 1, 5))
instead("shard-null-device", lambda act, path: device(path, 1, 3))
instead("shard-folder", lambda act, path: (path / "a" / "b").mkdir(parents=True))
instead("shard-sparse", lambda act, path: largest(path))
instead("shard-sparse-archive", lambda act, path: sparse(path, 6 << 30))


@attack("shard-hard-link-to-secret")
def hard_link_secret(act: Act) -> None:
    """A second name of a file of the host's: possible only where the guest shares its file system."""
    os.link(act.target / "secret.npz", act.replace(act.npz))


@attack("shard-two-names")
def two_names(act: Act) -> None:
    """A second name of the shard, by which it can be changed later."""
    os.link(act.npz, act.out / "second-name")


@attack("shard-changes-after-done")
def changes_later(act: Act) -> None:
    """A shard that is written again and again after it was declared done."""
    content = act.npz.read_bytes()

    def change() -> None:
        with act.npz.open("r+b") as stream:
            stream.seek(len(content) // 2)
            stream.write(os.urandom(64))

    in_background(change)


@attack("shard-grows-without-end")
def grows(act: Act) -> None:
    """A shard that is appended to while the host reads it."""
    limit = [256]

    def append() -> None:
        if limit[0] > 0:
            limit[0] -= 1
            with act.npz.open("ab") as stream:
                stream.write(bytes(1 << 20))

    in_background(append)


@attack("shard-shrinks")
def shrinks(act: Act) -> None:
    """A shard that is cut while the host reads it."""
    content = act.npz.read_bytes()

    def change() -> None:
        act.npz.write_bytes(content)
        os.truncate(act.npz, 10)

    in_background(change)


@attack("shard-swapped-for-link")
def swapped(act: Act) -> None:
    """A shard that is a file and a link by turns."""
    content = act.npz.read_bytes()

    def swap() -> None:
        aside = act.out / ".swap"
        aside.symlink_to(act.target / "secret.npz")
        os.replace(aside, act.npz)
        write_bytes(act, content)

    in_background(swap)


@attack("masks-folder-swapped-for-link")
def masks_swapped(act: Act) -> None:
    """The folder of pictures is a folder and a link by turns."""
    masks, away = act.out / "masks", act.out / ".masks"

    def swap() -> None:
        os.rename(masks, away)
        masks.symlink_to(act.target / "pictures")
        masks.unlink()
        os.rename(away, masks)

    in_background(swap)


@attack("out-folder-swapped-for-link")
def out_swapped(act: Act) -> None:
    """The out folder itself is a folder and a link by turns, where it can be renamed."""
    away = act.out.with_name("out-away")

    def swap() -> None:
        os.rename(act.out, away)
        act.out.symlink_to(act.target / "originals")
        time.sleep(0.001)
        act.out.unlink()
        os.rename(away, act.out)

    in_background(swap)


@attack("out-folder-is-link")
def out_is_link(act: Act) -> None:
    """The out folder is a link to a folder of the host's."""
    os.rename(act.out, act.out.with_name("out-away"))
    act.out.symlink_to(act.target / "originals")


@attack("shard-set-uid")
def set_uid(act: Act) -> None:
    """Programs with set-uid and set-gid bits, and a shard that is one."""
    for name, mode in (("program", 0o6777), ("00001.sh", 0o4755), (act.npz.name, 0o6777), ("masks/program", 0o6755)):
        path = act.out / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            shutil.copyfile("/bin/sh", path)
        path.chmod(mode)


@attack("folder-set-gid")
def set_gid(act: Act) -> None:
    """A folder whose new files would take its group."""
    act.out.chmod(0o7777)
    (act.out / "masks").mkdir(exist_ok=True)
    (act.out / "masks").chmod(0o7777)


@attack("shard-without-permissions")
def no_permissions(act: Act) -> None:
    """A shard that nobody may read."""
    act.npz.chmod(0)


@attack("folder-without-permissions", "bye")
def folder_no_permissions(act: Act) -> None:
    """An out folder that nobody may list."""
    (act.out / "x" / "y").mkdir(parents=True)
    (act.out / "x" / "y").chmod(0)
    (act.out / "x").chmod(0)
    act.out.chmod(0)


@attack("deep-tree")
def deep_tree(act: Act) -> None:
    """Thousands of folders, one in another."""
    here = os.getcwd()
    try:
        os.chdir(act.out)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)


@attack("many-files", "bye")
def many_files(act: Act) -> None:
    """A hundred thousand files."""
    for number in range(100_000):
        os.close(os.open(act.out / f"{number:05d}.part.npz-{number}", os.O_CREAT | os.O_WRONLY, 0o644))


@attack("many-shards", "bye")
def many_shards(act: Act) -> None:
    """Twenty thousand files with the names of shards and parts."""
    for number in range(100, 10_100):
        for name in (f"{number:05d}.npz", f"{number:05d}.part.npz"):
            os.close(os.open(act.out / name, os.O_CREAT | os.O_WRONLY, 0o644))


@attack("odd-names", "shard_done")
def odd_names(act: Act) -> None:
    """Names with control characters, invalid UTF-8, and those of the host's own files."""
    names = [b"a\nb", b"a\rb", b"\x1b[2Jx", b"\xff\xfe.npz", b"-rf", b"00001.npz\n", b"\xe2\x80\xae.npz", b"*.npz"]
    names += [b"x" * 250, b"00099.npz", b"99999999999999999999.npz", b"-1.npz", b"00001.part.npz.npz", b"\xd9\xa1.npz"]
    names += [b"run.json", b"summary.json", b"predictions.npz", b".lock", b"00002.npz.tmp"]
    for name in names:
        with open(os.path.join(os.fsencode(act.out), name), "wb") as stream:
            stream.write(b"x")


@attack("plants-other-shards", "shard_started")
def plants_others(act: Act) -> None:
    """Files for shards that are not this worker's turn: garbage, links, pipes, folders."""
    for number in range(12):
        if number == act.shard:
            continue
        path = act.out / f"{number:05d}.npz"
        if path.exists() or path.is_symlink():
            continue
        makers: Any = (
            lambda path: path.write_bytes(b"garbage"),
            lambda path: path.symlink_to(act.target / "secret.npz"),
            os.mkfifo,
            os.mkdir,
        )
        makers[number % 4](path)


def plant_parts(act: Act, *makers: Any) -> None:
    """Put something where the parts of all shards belong."""
    for number in range(12):
        path = act.part(number)
        if not path.exists() and not path.is_symlink():
            makers[number % len(makers)](path)


@attack("plants-parts", "shard_started")
def plants_parts(act: Act) -> None:
    """Parts of all shards: garbage, links, folders. (Of a pipe, the worker itself would read for ever.)"""
    plant_parts(act, lambda path: path.write_bytes(b"x"), lambda path: path.symlink_to(act.target / "x"), os.mkdir)


@attack("plants-parts-and-dies", "shard_started")
def plants_parts_and_dies(act: Act) -> None:
    """The same with pipes and a secret, and the worker dies: what it left is for its successor."""
    plant_parts(act, lambda path: path.symlink_to(act.target / "secret.npz"), os.mkfifo, listening)
    os._exit(9)


@attack("part-link-and-dies", "shard_started")
def part_link(act: Act) -> None:
    """A part that is a link to a secret, left to the next worker."""
    act.replace(act.part()).symlink_to(act.target / "secret.npz")
    os._exit(9)


@attack("part-fifo-and-dies", "shard_started")
def part_fifo(act: Act) -> None:
    """A part that is a pipe."""
    os.mkfifo(act.replace(act.part()))
    os._exit(9)


@attack("part-hard-link-and-dies", "shard_started")
def part_hard_link(act: Act) -> None:
    """A part with a second name."""
    (act.out / "x").write_bytes(b"x")
    os.link(act.out / "x", act.replace(act.part()))
    os._exit(9)


@attack("part-sparse-and-dies", "shard_started")
def part_sparse(act: Act) -> None:
    """A part of the largest size."""
    largest(act.replace(act.part()))
    os._exit(9)


@attack("part-forged-and-dies", "shard_done")
def part_forged(act: Act) -> None:
    """A part of the right plan with NaN in it: a successor must not take it over."""
    import io
    import json

    import numpy as np

    with np.load(act.npz) as data:
        arrays = {name: data[name].copy() for name in data.files}
    arrays["boxes"][:] = np.nan
    arrays["meta"] = np.array(json.dumps({**json.loads(str(arrays["meta"][()])), "images": len(arrays["image_file"])}))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    act.npz.unlink()
    act.part().write_bytes(stream.getvalue())
    os._exit(9)


@attack("writes-a-gigabyte", "bye")
def writes_a_gigabyte(act: Act) -> None:
    """A file of a gigabyte beside the results."""
    block = bytes(1 << 24)
    with (act.out / "ballast").open("wb") as stream:
        for _ in range(64):
            stream.write(block)
    (act.out / "ballast").unlink()


# --- pictures
def picture(act: Act) -> Path:
    """The first picture of the attacked shard."""
    return sorted((act.out / "masks" / f"{act.shard:05d}").glob("*.png"))[0]


def drawn(name: str, make: Callable[[Act, Path], Any]) -> None:
    """Register an attack that puts something else where a picture belongs."""

    def act(act: Act) -> None:
        make(act, act.replace(picture(act)))

    attack(name)(act)


def png(path: Path, width: int, height: int, color: int = 0, depth: int = 8, extra: bytes = b"") -> None:
    """Write a PNG file with a header of these values and hardly any content."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def image(path: Path, mode: str, size: Any, kind: str = "PNG", value: Any = 0) -> None:
    """Write a sound picture of another kind."""
    from PIL import Image

    Image.new(mode, size, value).save(path, kind)


def as_picture(path: Path, name: str) -> Path:
    """The picture of the same image in a folder of the host's."""
    return Path(name) / "pictures" / path.parent.name / path.name


drawn("picture-link", lambda act, path: path.symlink_to(as_picture(path, str(act.target))))
drawn("picture-link-to-text", lambda act, path: path.symlink_to(act.target / "secret.txt"))
drawn("picture-hard-link", lambda act, path: os.link(as_picture(path, str(act.target)), path))
drawn("picture-fifo", lambda act, path: os.mkfifo(path))
drawn("picture-socket", lambda act, path: listening(path))
drawn("picture-folder", lambda act, path: path.mkdir())
drawn("picture-missing", lambda act, path: None)
drawn("picture-empty", lambda act, path: path.write_bytes(b""))
drawn("picture-text", lambda act, path: path.write_bytes(b"GIF89a" * 100))
drawn("picture-other-size", lambda act, path: image(path, "L", (3, 3)))
drawn("picture-in-colours", lambda act, path: image(path, "RGB", (50, 40)))
drawn("picture-of-16-bits", lambda act, path: image(path, "I;16", (50, 40)))
drawn("picture-palette", lambda act, path: image(path, "P", (50, 40)))
drawn("picture-jpeg", lambda act, path: image(path, "L", (50, 40), "JPEG"))
drawn("picture-bomb", lambda act, path: png(path, 100_000, 100_000))
drawn("picture-no-width", lambda act, path: png(path, 0, 0))
drawn("picture-largest", lambda act, path: png(path, 2**31 - 1, 2**31 - 1))
drawn("picture-truncated", lambda act, path: png(path, 50, 40))
drawn("picture-sparse", lambda act, path: largest(path))
attack("picture-set-uid")(lambda act: picture(act).chmod(0o6777))


@attack("masks-folder-link")
def masks_link(act: Act) -> None:
    """The folder of pictures is a link to a folder of the host's."""
    shutil.rmtree(act.out / "masks")
    (act.out / "masks").symlink_to(act.target / "pictures")


@attack("masks-shard-folder-link")
def masks_shard_link(act: Act) -> None:
    """The folder of one shard's pictures is a link."""
    folder = act.out / "masks" / f"{act.shard:05d}"
    shutil.rmtree(folder)
    folder.symlink_to(act.target / "pictures" / folder.name)


@attack("masks-folder-fifo")
def masks_fifo(act: Act) -> None:
    """The folder of one shard's pictures is a pipe."""
    folder = act.out / "masks" / f"{act.shard:05d}"
    shutil.rmtree(folder)
    os.mkfifo(folder)


@attack("masks-of-others")
def masks_of_others(act: Act) -> None:
    """Pictures for images and shards that are not this one's, and names that are none."""
    for folder in ("00000", "00003", "00099", "x", "\n", "..."):
        (act.out / "masks" / folder).mkdir(parents=True, exist_ok=True)
        for name in ("00000000.png", "00000001.png", "00000099.png", "x.png", "\x1b[2J.png"):
            path = act.out / "masks" / folder / name
            if not path.exists():
                path.write_bytes(b"not a picture")


# --- the cache, which is shared with later workers
@attack("cache-of-links", "ready")
def cache_links(act: Act) -> None:
    """Links in the cache under all names that others may write."""
    for name in ("home", "xdg", "matplotlib", "numba", "torch", "cuda", "made-by-the-host"):
        path = act.cache / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        path.symlink_to(act.target / "made-by-the-host")
    os._exit(9)


@attack("cache-of-fifos", "ready")
def cache_fifos(act: Act) -> None:
    """Pipes in the cache."""
    for name in ("home", "xdg", "x.json"):
        path = act.cache / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        os.mkfifo(path)
    os._exit(9)


# --- what the guest is and sees
@attack("runs-as-root", "ready")
def runs_as_root(act: Act) -> None:
    """A worker in a container is never root."""
    if 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()):
        (act.cache / "reached-root").write_text(f"uid {os.getuid()}, gid {os.getgid()}, groups {os.getgroups()}")


@attack("looks-at-inputs", "ready")
def looks_at_inputs(act: Act) -> None:
    """Whatever below the folder of images is no image."""
    for folder, _, files in os.walk(act.job["paths"]["data"], followlinks=False):
        for file in files:
            path = Path(folder, file)
            if path.suffix != ".png" or "etc" in path.parts or "outside" in path.parts:
                (act.cache / f"reached-{os.urandom(3).hex()}").write_text(str(path))


@attack("reaches-the-host", "ready")
def reaches_the_host(act: Act) -> None:
    """Whatever of the host's files the guest can open, and whatever it can write outside of its own folders."""
    for path in (
        act.target / "secret.txt",
        Path("/etc/shadow"),
        act.out.parent / "shards",
        act.out.parent / "run.json",
    ):
        try:
            with open(path, "rb") as stream:
                stream.read(1)
            (act.cache / f"reached-{os.urandom(3).hex()}").write_text(f"read {path}")
        except OSError:
            continue
    for folder in ("/", "/job", "/data", "/weights", "/opt/orch", "/usr/bin", "/etc"):
        try:
            (Path(folder) / "planted").write_bytes(b"x")
            (act.cache / f"reached-{os.urandom(3).hex()}").write_text(f"wrote into {folder}")
        except OSError:
            continue


@attack("spool-staged-images", "ready")
def staged_images(act: Act) -> None:
    """Staged images that the guest can change although they are the host's own files under a second name."""
    data = Path(act.job["paths"]["data"])
    for entry in data.iterdir():
        for folder, _, files in os.walk(entry.resolve()):
            for file in files:
                path = os.path.join(folder, file)
                if os.stat(path).st_nlink > 1 and can_change(path):
                    (act.cache / f"reached-{os.urandom(3).hex()}").write_text(f"{file} is the host's own, and writable")


def can_change(path: str) -> bool:
    """Whether a file can be opened for writing, or its mode or times be set."""
    changes: Any = (
        lambda: os.close(os.open(path, os.O_WRONLY)),
        lambda: os.chmod(path, 0o644),
        lambda: os.utime(path, (1, 1)),
    )
    for change in changes:
        try:
            change()
        except OSError:
            continue
        return True
    return False
