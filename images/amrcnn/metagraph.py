"""Cache a network's graph as a MetaGraph: building it takes most of a start, and needs upstream's modules.

Images contain the graphs of the default settings in the folder $ORCH_GRAPHS; others are built when first needed and
cached. A cached graph's name is a hash of all it was built from, so that a wrong one is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

from google.protobuf.message import DecodeError
from network import IMAGE, build_network
from orch_runner.files import open_replacement
from settings import MODELS, add_defaults
from tf1 import tf

BUILT = "ORCH_GRAPHS"
UNUSABLE = (OSError, DecodeError, ValueError, KeyError, TypeError, tf.errors.OpError)
"""The errors of importing a damaged MetaGraph."""


def open_graph(model: str, source: str, settings: Mapping[str, Any], cache: str = "", own_config: str = "") -> Any:
    """Return the graph of a model with these settings: a cached one if it exists, else build and cache it."""
    name = cached_name(model, source, settings, own_config)
    for folder in filter(None, (os.environ.get(BUILT, ""), _cache_folder(cache))):
        graph = _read_graph(Path(folder) / name)
        if graph is not None:
            return graph
    print(f"building the graph of {model}", file=sys.stderr)
    graph = build_network(model, source, settings, own_config)
    if cache:
        try:
            write_graph(graph, Path(_cache_folder(cache)) / name)
        except OSError as error:
            print(f"cannot cache the graph: {error}", file=sys.stderr)
    return graph


def cached_name(model: str, source: str, settings: Mapping[str, Any], own_config: str = "") -> str:
    """Return a cached graph's file name, unique for settings, configuration, upstream code, TensorFlow, orch's code."""
    digest = hashlib.sha256()
    parts = [MODELS[model].config, tf.__version__, sorted(add_defaults(settings).items())]
    digest.update(json.dumps(parts).encode())
    upstream = [path for pattern in ("*.py", "*.yaml") for path in sorted(Path(source).rglob(pattern))]
    own = [Path(own_config)] if own_config else []
    for path in (Path(__file__).with_name("network.py"), *upstream, *own):
        digest.update(path.read_bytes())
    return f"{model}-{digest.hexdigest()[:16]}.meta"


def _cache_folder(cache: str) -> str:
    return str(Path(cache) / "amrcnn") if cache else ""


def _read_graph(path: Path) -> Optional[Any]:
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
    """Write a graph as a MetaGraph; safe while other workers write the same one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with graph.as_default():
        saver = tf.get_collection(tf.GraphKeys.SAVERS)[0]
        meta = tf.train.export_meta_graph(
            saver_def=saver.as_saver_def(), collection_list=[tf.GraphKeys.GLOBAL_VARIABLES]
        )
    with open_replacement(path) as stream:
        stream.write(meta.SerializeToString(deterministic=True))
