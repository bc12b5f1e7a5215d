"""What the stack fformer says of itself, and those of its modules that need no PyTorch."""

from __future__ import annotations

import importlib
import io
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from orch_runner.contract import Fatal

from orchestrator import cli
from orchestrator.catalog.loader import ModelEntry, StackEntry, load_catalog
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Gpu, choose_variant
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.build import build_arguments
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import run_model

STACK = Path(__file__).resolve().parents[3] / "images" / "fformer"
MODELS = ("fformer-swin", "fformer-r50-fpn")


@pytest.fixture
def stack() -> StackEntry:
    return load_catalog([]).stack("fformer")


def model(name: str) -> ModelEntry:
    return load_catalog([]).model(name)


def gpu(capability: str, driver: str = "550.54.14") -> Gpu:
    return Gpu(0, "GPU-0", "a GPU", 24_000, capability, driver)


@pytest.mark.parametrize(
    ("capability", "variant"),
    [("3.7", "cu102"), ("6.1", "cu102"), ("7.5", "cu102"), ("8.0", "cu121"), ("8.6", "cu121"), ("8.9", "cu121"),
     ("9.0", "cu121"), ("12.0", "cpu")],
)  # fmt: skip
def test_the_variant_for_a_gpu(stack: StackEntry, capability: str, variant: str) -> None:
    chosen = choose_variant(stack, None, None, (gpu(capability),))
    assert chosen.variant == variant
    if variant == "cu121":
        assert "cu102: its binaries have no code for a GPU" in chosen.why


def test_cu111_is_for_those_who_ask(stack: StackEntry) -> None:
    assert choose_variant(stack, "cu111", None, (gpu("8.6"),)).variant == "cu111"
    with pytest.raises(MachineError, match="does not fit this machine"):
        choose_variant(stack, "cu111", None, (gpu("9.0"),))
    with pytest.raises(MachineError) as caught:
        choose_variant(stack, None, "cuda", (gpu("8.6", "470.57.02"),))
    assert "cu121: it needs driver 525.60.13" in str(caught.value.why)
    assert "cu111: taken on request alone" in str(caught.value.why)


def test_cu111_needs_the_address_of_its_wheels(stack: StackEntry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be built without TORCH_INDEX"):
        build_inputs(stack, "cu111", BuildOptions())
    options = BuildOptions(build_args={"TORCH_INDEX": "https://wheels.example.org/cu111"})
    command = build_arguments(["docker", "build"], build_inputs(stack, "cu111", options), options, tmp_path)
    assert "TORCH=torch==1.9.0+cu111 torchvision==0.10.0+cu111" in command
    assert "TORCH_INDEX=https://wheels.example.org/cu111" in command


def test_a_named_variant_is_built_for_other_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "fformer", "--variant", "cu111", "--runtime", "venv"]) == 2
    assert "cannot be built without TORCH_INDEX" in capsys.readouterr().err
    assert cli.main(["build", "fformer", "--variant", "cu111", "--device", "cuda", "--runtime", "venv"]) == 4


def test_the_lock_of_cu111_is_the_published_one_but_for_torch() -> None:
    locks = [
        re.findall(r"(?m)^[a-z0-9-]+==\S+", (STACK / name).read_text()) for name in ("published.lock", "cu111.lock")
    ]
    assert sorted(set(locks[0]) - set(locks[1])) == ["torch==1.9.0", "torchvision==0.10.0"]
    assert set(locks[1]) <= set(locks[0])


def test_locks_name_no_index() -> None:
    for lock in [*STACK.glob("*.lock"), *STACK.glob("ops-*.txt")]:
        assert "http" not in lock.read_text()
        assert "--hash=sha256:" in lock.read_text()


def test_upstreams_code_is_asked_for_at_one_commit(stack: StackEntry) -> None:
    source = stack.spec.sources["fashionformer"]
    assert source.commit == "0752737bb1e071ebd03315a1c5e8a62ab2573620"
    configs = [model(name).spec.config or "" for name in MODELS]
    assert all(config.partition("/")[0] in source.folders for config in configs)


@pytest.mark.parametrize("name", MODELS)
def test_defaults_are_as_published(name: str) -> None:
    spec, taxonomy = model(name).spec, model(name).taxonomy
    assert (spec.defaults.score_threshold, spec.defaults.max_detections) == (0.05, None)
    assert spec.defaults.attributes
    assert len(set(taxonomy.attributes)) == 294
    assert (taxonomy.attributes[0], taxonomy.attributes[293]) == ("classic (t-shirt)", "plant")
    assert model(name).class_map == tuple(range(46))
    assert spec.native.published_box_edges == "inclusive"


def test_all_stacks_name_the_same_categories() -> None:
    assert model("fformer-swin").categories == model("facere").categories


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    options = RunOptions(images=[str(tmp_path / "x.jpg")], out=tmp_path / "run", device="cpu", runtime="venv")
    with pytest.raises(MachineError, match="the weights of fformer-r50-fpn are missing") as caught:
        run_model(model("fformer-r50-fpn"), options, SilentDisplay())
    assert "https://1drv.ms/" in str(caught.value.why)
    assert "(file fashionformer_r50_3x.pth, 150 to 700 MB)" in str(caught.value.why)
    assert caught.value.hint == "orch weights add fformer-r50-fpn PATH"


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports one of the stack's own modules; all are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(STACK))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


SWIN = {"backbone.patch_embed.projection.weight": (128, 3, 4, 4), "roi_head.mask_head.0.attr_pred.weight": (294, 256)}
R50 = {"backbone.layer3.5.conv1.weight": (256, 1024, 1, 1), "roi_head.mask_head.0.attr_pred.weight": (294, 256)}


def test_weights_of_the_other_model_are_named(guest: Callable[[str], Any]) -> None:
    check = guest("checkpoint").check

    check("fformer-swin", SWIN, dict(SWIN))
    with pytest.raises(Fatal) as caught:
        check("fformer-swin", SWIN, R50)
    assert caught.value.category == "weights"
    assert str(caught.value) == (
        "these are weights of fformer-r50-fpn, not of fformer-swin: "
        "1 keys missing (backbone.patch_embed.projection.weight); 1 keys unknown (backbone.layer3.5.conv1.weight)"
    )
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("orch weights add fformer-swin PATH")


def test_weights_of_no_model_say_what_does_not_fit(guest: Callable[[str], Any]) -> None:
    check, owner = guest("checkpoint").check, guest("checkpoint").owner

    assert owner({"backbone.layer3.5.conv1.weight": (1,)}) is None
    assert owner({**R50, "backbone.layer3.6.conv1.weight": (1,)}) is None
    with pytest.raises(Fatal, match=r"these are no weights of fformer-swin: 1 keys of another shape \(roi_head"):
        check("fformer-swin", SWIN, {**SWIN, "roi_head.mask_head.0.attr_pred.weight": (15, 256)})
    with pytest.raises(Fatal, match=r"5 keys unknown \(k0, k1, k2, …\)"):
        check("fformer-swin", SWIN, {**SWIN, **{f"k{number}": (1,) for number in range(5)}})


class Trap:
    """Reading it in the usual way writes a file."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("/nonexistent/trap"), "sprung")


def test_nothing_in_a_checkpoint_is_run(guest: Callable[[str], Any]) -> None:
    content = {"state": {"a": 1}, "optimizer": [Trap(), Trap()], "meta": {"path": Path("x"), "set": {1, 2}}}
    found = guest("checkpoint").Reader(io.BytesIO(pickle.dumps(content))).load()
    assert found["state"] == {"a": 1}
    assert type(found["optimizer"][0]).__name__ == "_Inert"


def test_stand_ins_import_and_say_what_they_lack(guest: Callable[[str], Any]) -> None:
    sys.modules["mmcv"] = ModuleType("mmcv")
    sys.modules["mmcv"].__path__ = []
    absent = guest("absent")
    assert absent.stand_in() is False
    assert absent.stand_in() is False
    extension = guest("mmcv._ext")
    assert hasattr(extension, "nms")
    with pytest.raises(RuntimeError, match=r"mmcv\._ext\.nms was called.*COMPILED_OPS=1"):
        extension.nms(1, 2)
    with pytest.raises(RuntimeError, match="needed for training alone"):
        guest("panopticapi.utils").id2rgb(1)
