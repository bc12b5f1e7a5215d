"""Configuration files of the user's in fformer and amrcnn, with stand-ins for mmcv and TensorFlow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.stacks.stack_modules import IMAGES

PUBLISHED = "configs/fashionformer/fashionpedia/r50.py"


class _Config:
    """mmcv's, as far as it is needed: reads the file and, beside it, the one that `_base_` names."""

    @staticmethod
    def fromfile(path: str, import_custom_modules: bool) -> dict[str, Any]:
        assert not import_custom_modules
        values: dict[str, Any] = {}
        exec(Path(path).read_text(), values)
        base = values.pop("_base_", None)
        return {**({} if base is None else _Config.fromfile(str(Path(path).parent / base), False)), **values}


def stand_in(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


def import_from(monkeypatch: pytest.MonkeyPatch, stack: str, *names: str) -> list[ModuleType]:
    """Import modules of a stack as the runner does, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(IMAGES / stack))
    for name in (*names, "settings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    return [importlib.import_module(name) for name in names]


def test_fformer_reads_an_own_file_as_if_it_lay_beside_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mmcv", stand_in("mmcv", Config=_Config))
    (upstream,) = import_from(monkeypatch, "fformer", "upstream")
    published = tmp_path / "sources" / PUBLISHED
    published.parent.mkdir(parents=True)
    published.write_text("classes = 46\nlr = 1\n")
    (published.parent.parent / "_base_.py").write_text("depth = 50\n")
    own = tmp_path / "weights" / "mine.py"
    own.parent.mkdir()
    own.write_text("_base_ = './r50.py'\nclasses = 3\n")
    read = upstream.read_config(str(tmp_path / "sources"), PUBLISHED, str(own))
    assert (read["classes"], read["lr"]) == (3, 1)
    own.write_text("_base_ = '../_base_.py'\n")
    assert upstream.read_config(str(tmp_path / "sources"), PUBLISHED, str(own))["depth"] == 50
    assert upstream.read_config(str(tmp_path / "sources"), PUBLISHED)["classes"] == 46
    assert [path.name for path in published.parent.iterdir()] == ["r50.py"], "the sources stay as they are"


def test_amrcnn_takes_the_own_file_and_caches_its_graph_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    parameters = SimpleNamespace(override=lambda *_, **__: None, validate=lambda: None, lock=lambda: None)

    def note(base: object, path: str, **_: object) -> object:
        read.append(path)
        return parameters

    override = SimpleNamespace(override_params_dict=note)
    factory = SimpleNamespace(config_generator=lambda name: name)
    tf = SimpleNamespace(__version__="2.11", errors=SimpleNamespace(OpError=OSError))
    for name, module in {
        "tf1": stand_in("tf1", tf=tf),
        "google.protobuf.message": stand_in("message", DecodeError=ValueError),
        "hyperparameters": stand_in("hyperparameters", params_dict=override),
        "projects.fashionpedia.configs": stand_in("configs", factory=factory),
        **{name: ModuleType(name) for name in ("google", "google.protobuf", "projects", "projects.fashionpedia")},
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    network, metagraph = import_from(monkeypatch, "amrcnn", "network", "metagraph")
    published = network.config_path("amrcnn-r50-fpn", "/sources")
    assert published == f"/sources/{metagraph.MODELS['amrcnn-r50-fpn'].config}"
    own = tmp_path / "mine.yaml"
    names = []
    for text in ("classes: 3", "classes: 4"):
        own.write_text(text)
        names.append(metagraph.cached_name("amrcnn-r50-fpn", str(tmp_path / "none"), {}, str(own)))
    names.append(metagraph.cached_name("amrcnn-r50-fpn", str(tmp_path / "none"), {}))
    assert len(set(names)) == 3
    network._make_parameters(str(own), {})
    assert read == [str(own)]
