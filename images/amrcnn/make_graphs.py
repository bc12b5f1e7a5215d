"""Build every model's graph with its default settings: a step of the image's build.

Usage: python make_graphs.py SOURCE_FOLDER TARGET_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from metagraph import cached_name, write_graph
from network import build_network
from settings import MODELS


def main(source: str, target: str) -> None:
    """Write the graphs of all models into the folder `target`."""
    for model in MODELS:
        path = Path(target) / cached_name(model, source, {})
        write_graph(build_network(model, source, {}), path)
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
