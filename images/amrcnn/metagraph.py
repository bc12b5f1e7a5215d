"""A network's graph, kept as a MetaGraph: to build it anew takes most of a start, and needs upstream's modules.

Images are built with those of the default settings in the folder $ORCH_GRAPHS; others are made when first needed and
kept in the cache. The name of a kept one says what it was made from, so one that does not fit is never taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

from google.protobuf.message import DecodeError
from network import IMAGE, build_network
from settings import MODELS, with_defaults
from tf1 import tf

BUILT = "ORCH_GRAPHS"
UNUSABLE = (OSError, DecodeError, ValueError, KeyError, TypeError, tf.errors.OpError)
"""What importing a damaged MetaGraph raises."""


def open_graph(model: str, source: str, settings: Mapping[str, Any], cache: str = "") -> Any:
    """The graph of a model with these settings: kept from earlier if there is one that fits, else built and kept."""
    name = kept_name(model, source, settings)
    for folder in filter(None, (os.environ.get(BUILT, ""), _kept_folder(cache))):
        graph = _read(Path(folder) / name)
        if graph is not None:
            return graph
    print(f"building the graph of {model}", file=sys.stderr)
    graph = build_network(model, source, settings)
    if cache:
        try:
            write_graph(graph, Path(_kept_folder(cache)) / name)
        except OSError as error:
            print(f"the graph could not be kept: {error}", file=sys.stderr)
    return graph


def kept_name(model: str, source: str, settings: Mapping[str, Any]) -> str:
    """File name of a kept graph: another one for any other setting, upstream code, TensorFlow, or code of ours."""
    digest = hashlib.sha256()
    parts = [MODELS[model].config, tf.__version__, sorted(with_defaults(settings).items())]
    digest.update(json.dumps(parts).encode())
    upstream = [path for pattern in ("*.py", "*.yaml") for path in sorted(Path(source).rglob(pattern))]
    for path in (Path(__file__).with_name("network.py"), *upstream):
        digest.update(path.read_bytes())
    return f"{model}-{digest.hexdigest()[:16]}.meta"


def _kept_folder(cache: str) -> str:
    return str(Path(cache) / "amrcnn") if cache else ""


def _read(path: Path) -> Optional[Any]:
    if not path.is_file():
        return None
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.add_to_collection(tf.GraphKeys.SAVERS, tf.train.import_meta_graph(str(path)))
        graph.get_operation_by_name(IMAGE)
    except UNUSABLE as error:
        print(f"{path} cannot be used: {error}", file=sys.stderr)
        return None
    return graph


def write_graph(graph: Any, path: Path) -> None:
    """Write aside, then rename: workers start at the same time and share the cache. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with graph.as_default():
            saver = tf.get_collection(tf.GraphKeys.SAVERS)[0]
            meta = tf.train.export_meta_graph(
                saver_def=saver.as_saver_def(), collection_list=[tf.GraphKeys.GLOBAL_VARIABLES]
            )
        aside.write_bytes(meta.SerializeToString(deterministic=True))
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
