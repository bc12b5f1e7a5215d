"""Attacks by the content of a finished shard: arrays that break the format, and .npz files that are traps."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from typing import Any, Callable, Dict

import numpy as np
from guest import Act, attack

Arrays = Dict[str, Any]
Change = Callable[[Arrays], Any]


class Bomb:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/orch-hostile-pickle",)


def changed(name: str, change: Change) -> None:
    """Register an attack that changes a finished shard's arrays."""

    def act(act: Act) -> None:
        arrays = read(act)
        change(arrays)
        write(act, arrays)

    attack(name)(act)


def read(act: Act) -> Arrays:
    """The arrays of the attacked shard, writable."""
    with np.load(act.npz, allow_pickle=False) as data:
        return {name: data[name].copy() for name in data.files}


def write(act: Act, arrays: Arrays) -> None:
    """Replace the attacked shard."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_bytes(act, stream.getvalue())


def write_bytes(act: Act, content: bytes) -> None:
    """Replace the attacked shard's file."""
    aside = act.out / ".aside"
    aside.write_bytes(content)
    os.replace(aside, act.npz)


def put(array: str, value: Any, at: Any = 0) -> Change:
    """Set a value of an array."""

    def change(arrays: Arrays) -> None:
        arrays[array][at] = value

    return change


def become(array: str, make: Callable[[Any], Any]) -> Change:
    """Replace an array."""

    def change(arrays: Arrays) -> None:
        arrays[array] = make(arrays[array])

    return change


def meta(**fields: Any) -> Change:
    """Change the shard's description."""
    return become("meta", lambda value: np.array(json.dumps({**json.loads(str(value[()])), **fields})))


def with_masks(make: Callable[[bytes], bytes]) -> Change:
    """Replace the counts of the first mask."""

    def change(arrays: Arrays) -> None:
        cuts, data = arrays["mask_offsets"], arrays["masks"].tobytes()
        first = make(data[cuts[0] : cuts[1]])
        arrays["masks"] = np.frombuffer(first + data[cuts[1] :], np.uint8)
        arrays["mask_offsets"] = cuts + np.where(np.arange(len(cuts)) > 0, len(first) - int(cuts[1]), 0)

    return change


nan, inf = float("nan"), float("inf")
changed("boxes-nan", put("boxes", nan))
changed("boxes-infinite", put("boxes", inf))
changed("boxes-negative", put("boxes", [-500, -500, 10, 10]))
changed("boxes-outside", put("boxes", [0, 0, 1e30, 1e30]))
changed("boxes-flipped", put("boxes", [20, 20, 5, 5]))
changed("boxes-float64", become("boxes", lambda a: a.astype(np.float64)))
changed("boxes-five-columns", become("boxes", lambda a: np.zeros((len(a), 5), np.float32)))
changed("boxes-one-axis", become("boxes", lambda a: a.reshape(-1)))
changed("boxes-structured", become("boxes", lambda a: np.zeros((len(a), 4), [("x", np.float32)])))
changed("boxes-objects", become("boxes", lambda a: np.array([[Bomb()] * 4] * len(a), object)))
changed("boxes-big-endian", become("boxes", lambda a: a.astype(">f4")))
changed("boxes-columns-first", become("boxes", np.asfortranarray))
changed("boxes-one-row-more", become("boxes", lambda a: np.concatenate([a, a[:1]])))
changed("scores-nan", put("scores", nan))
changed("scores-infinite", put("scores", inf))
changed("scores-above-one", put("scores", 1.5))
changed("scores-negative", put("scores", -0.1, 1))
changed("scores-ascending", become("scores", lambda a: np.where(np.arange(len(a)) % 2, 0.9, 0.1).astype(np.float32)))
changed("scores-float16", become("scores", lambda a: a.astype(np.float16)))
changed("scores-complex", become("scores", lambda a: a.astype(np.complex64)))
changed("scores-two-axes", become("scores", lambda a: a[:, None]))
changed("classes-negative", put("classes", -5))
changed("classes-unknown", put("classes", 99))
changed("classes-largest", put("classes", 2**31 - 1))
changed("classes-int64", become("classes", lambda a: a.astype(np.int64)))
changed("classes-dates", become("classes", lambda a: a.astype("datetime64[s]")))
changed("status-seven", put("status", 7))
changed("status-int64", become("status", lambda a: a.astype(np.int64)))
changed("failed-without-reason", put("status", 1))
changed(
    "failed-with-instances",
    lambda a: (a["status"].__setitem__(0, 1), a.update(error=np.array(["x"] * len(a["error"])))),
)
changed("predicted-with-reason", become("error", lambda a: np.array(["all is well"] * len(a))))
changed(
    "reason-with-escapes", lambda a: _fail(a, "\x1b[2J\r::error file=x::owned\n::set-output name=x::y\x9b31m\x00\u202e")
)
changed("reason-of-a-megabyte", lambda a: _fail(a, "x" * 1_000_000))
changed("reason-surrogate", lambda a: _fail(a, "\ud800\udfff"))
changed("reason-invalid-unicode", lambda a: a.update(error=np.frombuffer(b"\xff\xff\xff\xff" * len(a["error"]), "<U1")))
changed("size-negative", put("image_size", [-1, -1]))
changed("size-zero", put("image_size", [0, 0]))
changed("size-largest", put("image_size", [2**31 - 1, 2**31 - 1]))
changed("size-of-another", put("image_size", [7, 9]))
changed("size-float", become("image_size", lambda a: a.astype(np.float64)))
changed("files-swapped", become("image_file", lambda a: a[::-1]))
changed("files-renamed", put("image_file", "x.png"))
changed("files-that-climb", become("image_file", lambda a: np.array(["../../../evil"] * len(a))))
changed("files-absolute", become("image_file", lambda a: np.array(["/etc/passwd"] * len(a))))
changed("files-bytes", become("image_file", lambda a: np.char.encode(a)))
changed("files-objects", become("image_file", lambda a: np.array([Bomb()] * len(a), object)))
changed("files-none", become("image_file", lambda a: a[:0]))
changed("rows-one-image-less", lambda a: _cut(a, -1))
changed("rows-none", lambda a: _cut(a, 0))
changed("offsets-short", become("offsets", lambda a: a[:-1]))
changed("offsets-negative", put("offsets", -3, 1))
changed("offsets-beyond", put("offsets", 10**12, -1))
changed("offsets-descending", put("offsets", 4, 1))
changed("offsets-not-from-zero", put("offsets", 1, 0))
changed("offsets-int32", become("offsets", lambda a: a.astype(np.int32)))
changed("mask-offsets-beyond", put("mask_offsets", 2**62, -1))
changed("mask-offsets-descending", put("mask_offsets", 10**6, 1))
changed("mask-offsets-negative", put("mask_offsets", -(2**40), 1))
changed("masks-int8", become("masks", lambda a: a.view(np.int8)))
changed("masks-garbage", with_masks(lambda counts: os.urandom(len(counts))))
changed("masks-other-size", with_masks(lambda counts: b"`a0" * 3))
changed("masks-empty", with_masks(lambda counts: b""))
changed("masks-endless-count", with_masks(lambda counts: b"o" * 40 + b"0"))
changed("masks-negative-count", with_masks(lambda counts: b"On0On0"))
changed("masks-megabytes", with_masks(lambda counts: b"0" * 5_000_000))
changed("masks-zero-bytes", with_masks(lambda counts: bytes(len(counts))))
changed("meta-other-shard", meta(shard=4))
changed("meta-other-plan", meta(plan="0" * 64))
changed("meta-other-format", meta(format="orch-shard/999"))
changed("meta-other-count", meta(images=10**9))
changed("meta-of-odd-kinds", meta(plan=[], shard={}, format=None))
changed("meta-no-json", become("meta", lambda a: np.array("{")))
changed("meta-list", become("meta", lambda a: np.array("[]")))
changed("meta-nested", become("meta", lambda a: np.array("[" * 100_000)))
changed("meta-bytes", become("meta", lambda a: np.array(b"{}")))
changed("meta-object", become("meta", lambda a: np.array(Bomb(), object)))
changed("meta-vector", become("meta", lambda a: np.array([str(a[()])] * 3)))
changed("array-missing", lambda a: a.pop("scores"))
changed("array-meta-missing", lambda a: a.pop("meta"))
changed("array-of-another-name", lambda a: a.update(extra=np.zeros(3)))
changed("array-that-climbs", lambda a: a.update({"../../evil": np.zeros(3)}))
changed("attributes-unasked", lambda a: a.update(attributes=np.zeros((len(a["scores"]), 3), np.float32)))
changed("image-scores-unasked", lambda a: a.update(image_scores=np.full(len(a["image_file"]), 7, np.float32)))
changed("digests-forged", lambda a: a.update(image_sha256=np.array(["zz"] * len(a["image_file"]))))
changed("digests-objects", lambda a: a.update(image_sha256=np.array([Bomb()] * len(a["image_file"]), object)))
changed("too-many-instances", lambda a: _repeat(a, 1000))


def _fail(arrays: Arrays, reason: str) -> None:
    """Let the shard's images fail, as a worker may say they did."""
    count = len(arrays["image_file"])
    _cut_instances(arrays)
    arrays["status"] = np.ones(count, np.uint8)
    arrays["error"] = np.array([reason] * count)


def _cut_instances(arrays: Arrays) -> None:
    for name in ("boxes", "classes", "scores", "masks"):
        arrays[name] = arrays[name][:0]
    arrays["offsets"] = np.zeros(len(arrays["image_file"]) + 1, np.int64)
    arrays["mask_offsets"] = np.zeros(1, np.int64)


def _cut(arrays: Arrays, images: int) -> None:
    """Leave images out at the end."""
    _cut_instances(arrays)
    for name in ("image_file", "image_size", "status", "error", "image_sha256"):
        if name in arrays:
            arrays[name] = arrays[name][:images]
    arrays["offsets"] = np.zeros(len(arrays["image_file"]) + 1, np.int64)


def _repeat(arrays: Arrays, times: int) -> None:
    """Give the first image more instances than the run allows."""
    first = int(arrays["offsets"][1])
    cuts = arrays["mask_offsets"]
    lengths = np.concatenate([np.tile(np.diff(cuts)[:1], times), np.diff(cuts)])
    arrays["masks"] = np.concatenate([np.tile(arrays["masks"][: cuts[1]], times), arrays["masks"]])
    arrays["mask_offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    for name in ("boxes", "classes", "scores"):
        array = arrays[name]
        arrays[name] = np.concatenate([np.repeat(array[:1], times, axis=0), array])
    arrays["offsets"] = arrays["offsets"] + np.where(np.arange(len(arrays["offsets"])) > 0, times, 0)
    del first


# --- .npz files that are traps


def header(shape: str, dtype: str = "<f4") -> bytes:
    """The beginning of an .npy file with a shape of any text."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def rezip(act: Act, replaced: Dict[str, bytes], method: int = zipfile.ZIP_STORED, twice: str = "") -> None:
    """Replace members of the shard's archive by bytes."""
    import warnings

    stream = io.BytesIO()
    with zipfile.ZipFile(act.npz) as old, zipfile.ZipFile(stream, "w", method) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in old.namelist():
            new.writestr(name, replaced.pop(name, old.read(name)))
            if name == twice:
                new.writestr(name, old.read(name)[:-4] + b"\x00\x00\xc0\x7f")
        for name, content in replaced.items():
            new.writestr(name, content)
    write_bytes(act, stream.getvalue())


@attack("npz-bomb")
def npz_bomb(act: Act) -> None:
    """A gigabyte of zeros in a megabyte."""
    rezip(act, {"boxes.npy": header("(67108864, 4)") + bytes(1 << 30)}, zipfile.ZIP_DEFLATED)


@attack("npz-names-bomb")
def npz_names_bomb(act: Act) -> None:
    """Names of 100 MB each."""
    rezip(act, {"image_file.npy": header("(2,)", "<U25000000") + bytes(200_000_000)}, zipfile.ZIP_DEFLATED)


@attack("npz-shape-too-large")
def npz_shape(act: Act) -> None:
    """A header that claims an exabyte."""
    rezip(act, {"boxes.npy": header("(1152921504606846976, 4)")})


@attack("npz-shape-negative")
def npz_shape_negative(act: Act) -> None:
    """A header with a negative side."""
    rezip(act, {"boxes.npy": header("(-1, 4)")})


@attack("npz-shape-of-text")
def npz_shape_of_text(act: Act) -> None:
    """A header that is an expression."""
    rezip(act, {"boxes.npy": header("(__import__('os').system('touch /tmp/orch-hostile-pickle'),)")})


@attack("npz-header-nested")
def npz_header_nested(act: Act) -> None:
    """A header of thousands of brackets."""
    rezip(act, {"boxes.npy": header("(" * 9000 + ")" * 9000)})


@attack("npz-header-of-objects")
def npz_header_objects(act: Act) -> None:
    """A pickle where an array belongs."""
    rezip(act, {"boxes.npy": header("(2, 4)", "|O") + pickle.dumps(Bomb())})


@attack("npz-members-twice")
def npz_twice(act: Act) -> None:
    """Two arrays of one name: the second is not the one that was checked."""
    rezip(act, {}, twice="scores.npy")


@attack("npz-member-that-climbs")
def npz_climbs(act: Act) -> None:
    """A member outside of any folder."""
    rezip(act, {"../../../../tmp/orch-hostile-member.npy": header("(1,)") + bytes(4)})


@attack("npz-member-odd-name")
def npz_odd_name(act: Act) -> None:
    """A member whose name has control characters."""
    rezip(act, {"\x1b[2J\r\n::error::x.npy": header("(1,)") + bytes(4)})


@attack("npz-many-members")
def npz_many(act: Act) -> None:
    """A hundred thousand members."""
    rezip(act, {f"m{number}": b"" for number in range(60_000)})


@attack("npz-truncated")
def npz_truncated(act: Act) -> None:
    """Half a file."""
    content = act.npz.read_bytes()
    write_bytes(act, content[: len(content) // 2])


@attack("npz-flipped-bit")
def npz_flipped(act: Act) -> None:
    """A checksum that does not hold."""
    content = bytearray(act.npz.read_bytes())
    content[content.index(b"scores.npy") + 160] ^= 1
    write_bytes(act, bytes(content))


@attack("npz-empty")
def npz_empty(act: Act) -> None:
    """No byte at all."""
    write_bytes(act, b"")


@attack("npz-text")
def npz_text(act: Act) -> None:
    """Text instead of an archive."""
    write_bytes(act, b"not an archive\n" * 100)


@attack("npz-pickle")
def npz_pickle(act: Act) -> None:
    """A pickle instead of an archive."""
    write_bytes(act, pickle.dumps(Bomb()))


@attack("npz-npy")
def npz_npy(act: Act) -> None:
    """One array instead of an archive."""
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], object), allow_pickle=True)
    write_bytes(act, stream.getvalue())


@attack("npz-encrypted")
def npz_encrypted(act: Act) -> None:
    """Members that claim to be encrypted."""
    content = bytearray(act.npz.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 8] |= 1
        at += 4
    write_bytes(act, bytes(content))


@attack("npz-unknown-method")
def npz_method(act: Act) -> None:
    """Members compressed by a method that does not exist."""
    content = bytearray(act.npz.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 10 : at + 12] = b"\x63\x00"
        at += 4
    write_bytes(act, bytes(content))


@attack("npz-overlapping")
def npz_overlapping(act: Act) -> None:
    """A directory whose entries all point at one member."""
    content = bytearray(act.npz.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 42 : at + 46] = b"\x00\x00\x00\x00"
        at += 4
    write_bytes(act, bytes(content))


@attack("npz-directory-far-away")
def npz_far(act: Act) -> None:
    """An end record that points beyond the file."""
    content = bytearray(act.npz.read_bytes())
    at = content.rfind(b"PK\x05\x06")
    content[at + 16 : at + 20] = b"\xfe\xff\xff\xff"
    write_bytes(act, bytes(content))
