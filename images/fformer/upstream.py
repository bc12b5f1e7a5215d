"""Import FashionFormer's own code from its sources, at the commit in stack.yaml."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import numpy as np
from absent import install_stand_ins

PACKAGES = ("datasets", "models", "projects")
"""Upstream's top-level packages; other projects use these names too."""
PLUGINS = ("projects.FashionFormer", "models.necks.semantic_fpn_wrapper")
"""Modules that register themselves with mmdet; upstream's third, `datasets`, is for training and evaluation."""


class Upstream(NamedTuple):
    """The network without weights, and its preprocessing."""

    network: Any
    pipeline: Any


def register(root: str) -> None:
    """Import upstream's plugins from the folder `root`. Raises ImportError with the reason of a failed import."""
    install_stand_ins()
    for name in PACKAGES:
        folder = str(Path(root) / name)
        known = sys.modules.get(name)
        if known is not None:
            if list(getattr(known, "__path__", [])) != [folder]:
                raise ImportError(f"the module {name} is {known!r} already, not FashionFormer's {folder}")
            continue
        if not Path(folder).is_dir():
            raise ImportError(f"FashionFormer's sources have no folder {folder}")
        # By its folder: on sys.path, an installed package of that name could be first.
        package = types.ModuleType(name)
        package.__path__ = [folder]  # type: ignore[attr-defined]
        sys.modules[name] = package
    for name in PLUGINS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            reason = error.__cause__ or error.__context__
            also = f" ({type(reason).__name__}: {reason})" if reason is not None else ""
            raise ImportError(f"FashionFormer's {name} cannot be imported: {error}{also}") from error


def read_config(root: str, config: str, own_config: str = "") -> Any:
    """Read a configuration file inside `root`, or the user's own one as if it lay in the same folder.

    The own one's `_base_` lines thus lead to upstream's files, as in the clone that it was trained in.
    """
    from mmcv import Config

    # mmcv's own import of the plugins would use sys.path.
    if not own_config:
        return Config.fromfile(str(Path(root) / config), import_custom_modules=False)
    top = Path(config).parts[0]
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(str(Path(root) / top), str(Path(scratch) / top))
        beside = Path(scratch) / Path(config).with_name("orch_own_config" + Path(own_config).suffix)
        shutil.copyfile(own_config, str(beside))
        return Config.fromfile(str(beside), import_custom_modules=False)


def build(root: str, config: str, own_config: str = "") -> Upstream:
    """Build the network of a configuration (see `read_config`), and its preprocessing of a decoded image."""
    register(root)
    from mmcv.cnn.utils import revert_sync_batchnorm
    from mmdet.datasets.pipelines import Compose
    from mmdet.models import build_detector

    settings = read_config(root, config, own_config)
    settings.model.train_cfg = None
    settings.model.backbone.init_cfg = None  # otherwise it is downloaded
    network = build_detector(settings.model, test_cfg=settings.get("test_cfg"))
    # Synchronized batch normalization cannot run on a CPU; at inference in one process, both are the same.
    network = revert_sync_batchnorm(network).eval()
    first, *others = settings.data.test.pipeline
    if first.type != "LoadImageFromFile":
        raise ValueError(f"{own_config or config}: preprocessing begins with {first.type}, not with LoadImageFromFile")
    return Upstream(network, Compose(others))


def prepare(pipeline: Any, pixels: np.ndarray) -> Tuple[Any, List[List[Any]]]:
    """Turn (H, W, 3) uint8 BGR pixels into the network's image (1, 3, h, w) and its metadata."""
    shape = pixels.shape
    given = {
        "filename": None,
        "ori_filename": None,
        "img": pixels,
        "img_shape": shape,
        "ori_shape": shape,
        "img_fields": ["img"],
    }
    prepared = pipeline(given)
    return prepared["img"][0][None], [[prepared["img_metas"][0].data]]
