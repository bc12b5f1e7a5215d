"""Made-up machines against the built-in stacks: on each, the right variant, or the right reason why there is none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Gpu, Machine
from orchestrator.hardware.detection import NO_DRIVER
from orchestrator.workflows.preview import VariantPreview, preview_variants

MODELS = {"fformer": "fformer-swin", "amrcnn": "amrcnn-r50-fpn", "facere": "facere", "imdlbenco": "trufor"}
CARDS = {
    "K80": ("Tesla K80", "3.7", 11441), "GTX980": ("NVIDIA GeForce GTX 980", "5.2", 4096),
    "P100": ("Tesla P100-PCIE-16GB", "6.0", 16384), "GTX1080": ("NVIDIA GeForce GTX 1080 Ti", "6.1", 11264),
    "V100": ("Tesla V100-SXM2-32GB", "7.0", 32768), "T4": ("Tesla T4", "7.5", 15360),
    "A100": ("NVIDIA A100-SXM4-80GB", "8.0", 81920), "3090": ("NVIDIA GeForce RTX 3090", "8.6", 24576),
    "4090": ("NVIDIA GeForce RTX 4090", "8.9", 24564), "H100": ("NVIDIA H100 80GB HBM3", "9.0", 81559),
    "B200": ("NVIDIA B200", "10.0", 183359), "5090": ("NVIDIA GeForce RTX 5090", "12.0", 32607),
    "GTX780": ("NVIDIA GeForce GTX 780", "3.5", 3072),
}  # fmt: skip


def card(name: str, driver: str, index: int = 0) -> Gpu:
    title, capability, memory = CARDS[name]
    return Gpu(index, f"GPU-{index}", title, memory, capability, driver)


def machine(cards: str, driver: str) -> Machine:
    return Machine(tuple(card(name, driver, index) for index, name in enumerate(cards.split("+"))), driver)


@cache
def model(stack: str) -> ModelEntry:
    return load_catalog().model(MODELS[stack])


def ahead(stack: str, on: Machine, variant: str | None = None, device: str | None = None) -> VariantPreview:
    return preview_variants(model(stack), on, variant, device)


CHOSEN = [
    # stack, GPUs, driver; variant, how it runs on the first GPU, words of the reason
    ("fformer", "K80", "470.256.02", "cu102", "native", "native code for 3.7"),
    ("fformer", "GTX980", "470.256.02", "cu102", "native", "native code for 5.0"),
    ("fformer", "P100", "440.33", "cu102", "native", "native code for 6.0"),
    ("fformer", "GTX1080", "535.104.05", "cu102", "native", "native code for 6.0"),
    ("fformer", "V100", "535.104.05", "cu102", "native", "native code for 7.0"),
    ("fformer", "T4", "450.80.02", "cu102", "native", "native code for 7.0"),
    ("fformer", "A100", "535.104.05", "cu121", "native", "native code for 8.0"),
    ("fformer", "3090", "525.147.05", "cu121", "native", "native code for 8.6"),
    ("fformer", "4090", "550.90.07", "cu121", "native", "native code for 8.6"),
    ("fformer", "H100", "535.104.05", "cu121", "native", "native code for 9.0"),
    ("fformer", "H100", "525.60.13", "cu121", "native", "native code for 9.0"),
    ("fformer", "A100", "460.91.03", "cpu", "impossible", "driver 525.60.13 or newer, this machine has 460.91.03"),
    ("fformer", "H100", "520.61.05", "cpu", "impossible", "driver 525.60.13 or newer, this machine has 520.61.05"),
    ("fformer", "GTX780", "470.256.02", "cpu", "impossible", "has 470.256.02"),
    ("fformer", "V100", "418.226.00", "cpu", "impossible", "needs driver 440.33 or newer, this machine has 418.226.00"),
    ("fformer", "B200", "570.86.15", "cpu", "impossible", "no code for NVIDIA B200 (compute capability 10.0)"),
    ("fformer", "5090", "570.86.15", "cpu", "impossible", "no code for NVIDIA GeForce RTX 5090 (compute"),
    ("fformer", "K80+A100", "525.147.05", "cu102", "native", "NVIDIA A100-SXM4-80GB is skipped"),
    ("fformer", "K80+A100+H100", "525.147.05", "cu121", "impossible", "Tesla K80 is skipped"),
    ("amrcnn", "V100", "525.147.05", "cuda", "native", "native code for 7.0"),
    ("amrcnn", "T4", "520.61.05", "cuda", "native", "native code for 7.5"),
    ("amrcnn", "A100", "535.104.05", "cuda", "native", "native code for 8.0"),
    ("amrcnn", "3090", "535.104.05", "cuda", "native", "native code for 8.0"),
    ("amrcnn", "H100", "535.104.05", "cuda", "jit", "PTX 8.0 at the first start, about 30 minutes, then kept"),
    ("amrcnn", "B200", "570.86.15", "cuda", "jit", "PTX 8.0 at the first start, about 30 minutes, then kept"),
    ("amrcnn", "K80", "535.104.05", "cuda", "native", "native code for 3.5"),
    ("amrcnn", "K80", "470.256.02", "cuda", "native", "native code for 3.5"),
    ("amrcnn", "V100", "440.33", "cpu", "impossible", "needs driver 450.80.02 or newer, this machine has 440.33"),
    ("amrcnn", "H100+A100", "535.104.05", "cuda", "jit", "NVIDIA H100 80GB HBM3 is skipped"),
    ("facere", "P100", "535.104.05", "cuda", "native", "native code for 6.0"),
    ("facere", "T4", "535.104.05", "cuda", "native", "native code for 7.5"),
    ("facere", "4090", "550.90.07", "cuda", "native", "native code for 8.6"),
    ("facere", "H100", "550.54.14", "cuda", "native", "native code for 9.0"),
    ("facere", "B200", "570.86.15", "cuda", "jit", "PTX 9.0 at the first start, then kept"),
    ("facere", "5090", "570.86.15", "cuda", "jit", "PTX 9.0 at the first start, then kept"),
    ("facere", "GTX980", "535.104.05", "cpu", "impossible", "no code for NVIDIA GeForce GTX 980 (compute"),
    ("facere", "H100", "470.256.02", "cpu", "impossible", "driver 525.60.13 or newer, this machine has 470.256.02"),
    ("imdlbenco", "GTX980", "535.104.05", "cu121", "native", "native code for 5.0"),
    ("imdlbenco", "H100", "535.104.05", "cu121", "native", "native code for 9.0"),
    ("imdlbenco", "5090", "580.95.05", "cu132", "native", "native code for 12.0"),
    ("imdlbenco", "5090", "570.86.15", "cpu", "impossible", "driver 580.65.06 or newer, this machine has 570.86.15"),
    ("imdlbenco", "K80", "470.256.02", "cpu", "impossible", "needs driver 525.60.13 or newer"),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "cards", "driver", "variant", "how", "words"), CHOSEN)
def test_what_orch_run_takes(stack: str, cards: str, driver: str, variant: str, how: str, words: str) -> None:
    found = ahead(stack, machine(cards, driver))
    assert found.selection is not None
    assert (found.selection.variant, found.selection.device) == (
        variant,
        "cpu" if variant.startswith("cpu") else "cuda",
    )
    told = [row for row in found.rows if row.device == "0" and not row.on_request and variant in (row.variant, "cpu")]
    assert {row.runs for row in told} == {how}
    assert words in found.selection.why + "; ".join(row.why for row in told)
    if variant == "cpu":  # the CPU is never taken without a word
        assert found.selection.why.startswith("no variant fits the GPU: ")
        assert words in found.selection.why


REFUSED = [
    # stack, GPUs, driver, variant, device; words of the reason
    ("fformer", "H100", "535.104.05", "cu102", None,
     "no code for NVIDIA H100 80GB HBM3 (compute capability 9.0), only native 3.7, 5.0, 6.0, 7.0; PTX none"),
    ("fformer", "H100", "535.104.05", "cu111", None,
     "(compute capability 9.0), only native 3.7, 5.0, 6.0, 7.0, 7.5, 8.0, 8.6; PTX none"),
    ("fformer", "A100", "535.104.05", "cu102", None, "no code for NVIDIA A100-SXM4-80GB (compute capability 8.0)"),
    ("fformer", "3090", "470.256.02", "cu102", None, "no code for NVIDIA GeForce RTX 3090 (compute capability 8.6)"),
    ("fformer", "3090", "470.256.02", None, "cuda", "cu111: only on request: --variant cu111"),
    ("fformer", "A100", "450.51.06", "cu111", None, "needs driver 450.80.02 or newer, this machine has 450.51.06"),
    ("fformer", "A100", "470.256.02", "cu121", None, "driver 525.60.13 or newer, this machine has 470.256.02"),
    ("fformer", "K80+A100", "535.104.05", None, "0,1",
     "cu102: native code for 3.7; its binaries have no code for NVIDIA A100"),
    ("fformer", "A100", "535.104.05", None, "1", "this machine has 0 (NVIDIA A100-SXM4-80GB, GPU-0)"),
    ("imdlbenco", "5090", "580.95.05", "cu121", None, "no code for NVIDIA GeForce RTX 5090 (compute"),
    ("facere", "K80", "470.256.02", None, "cuda", "driver 525.60.13 or newer, this machine has 470.256.02"),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "cards", "driver", "variant", "device", "words"), REFUSED)
def test_what_orch_run_refuses(
    stack: str, cards: str, driver: str, variant: str | None, device: str | None, words: str
) -> None:
    found = ahead(stack, machine(cards, driver), variant, device)
    assert found.selection is None
    assert isinstance(found.error, MachineError)
    assert words in str(found.error.why)


def test_ampere_and_ada_run_the_published_stack_by_name() -> None:
    for name in ("A100", "3090", "4090"):
        found = ahead("fformer", machine(name, "470.256.02"), "cu111")
        assert found.selection is not None
        assert (found.selection.variant, found.selection.why) == ("cu111", "asked for")


SLICE = replace(card("H100", "535.104.05"), uuid="MIG-1", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory=9856,
                mig="1g.10gb", parent="GPU-0")  # fmt: skip


def test_mig_slices_are_gpus_of_their_own() -> None:
    cut = Machine((SLICE, replace(SLICE, uuid="MIG-2")), "535.104.05")
    found = ahead("fformer", cut, device="MIG-2")
    assert found.selection is not None
    assert (found.selection.variant, found.selection.devices) == ("cu121", ("cuda:MIG-2",))
    assert [row.name for row in found.rows if row.variant == "cu121"] == [SLICE.name, SLICE.name]
    every = ahead("fformer", cut)
    assert every.selection is not None
    assert every.selection.devices == ("cuda:MIG-1", "cuda:MIG-2")


def test_a_slice_with_too_little_memory_is_none_where_the_need_is_known() -> None:
    entry = model("fformer")
    needy = ModelEntry(entry.name, entry.spec.model_copy(update={"gpu_memory": 12_000}), entry.stack)
    found = preview_variants(needy, Machine((SLICE,), "535.104.05"), device="cuda")
    assert "the model needs 12000 MiB of GPU memory, NVIDIA H100 80GB HBM3 MIG 1g.10gb has 9856" in str(
        found.error and found.error.why
    )


@pytest.mark.parametrize("stack", MODELS)
@pytest.mark.parametrize("capability", ["8.7", "7.2", "5.3"])
def test_a_jetson_is_named_and_runs_nothing_built_for_cards(stack: str, capability: str) -> None:
    board = Gpu(0, "0", "NVIDIA Jetson AGX Orin", 30536, capability, "36.4.3")
    found = ahead(stack, Machine((board,), "36.4.3", platform="jetson", model=board.name))
    assert found.selection is not None
    assert found.selection.variant == "cpu"
    assert "NVIDIA Jetson AGX Orin is a Jetson: it needs NVIDIA's own builds" in found.selection.why


@pytest.mark.parametrize("stack", MODELS)
def test_without_a_gpu_it_is_the_cpu_said_plainly_or_exit_code_4(stack: str) -> None:
    bare = Machine(lacks=NO_DRIVER)
    found = ahead(stack, bare)
    assert found.selection is not None
    assert (found.selection.device, found.selection.why) == ("cpu", "no GPU to use on this machine")
    assert {row.why for row in found.rows if row.device == "cuda"} == {NO_DRIVER}
    refused = ahead(stack, bare, device="cuda")
    assert refused.error is not None
    assert (refused.error.exit_code, refused.error.why) == (4, NO_DRIVER)


@pytest.mark.parametrize("stack", MODELS)
def test_a_broken_driver_is_no_reason_to_take_the_cpu_silently(stack: str) -> None:
    broken = Machine(broken="NVML: Driver/library version mismatch")
    found = ahead(stack, broken)
    assert found.error is not None
    assert (found.error.exit_code, found.error.why) == (4, "NVML: Driver/library version mismatch")
    assert "the GPU driver does not answer" in found.rows[0].why
    by_hand = ahead(stack, broken, device="cpu")
    assert by_hand.selection is not None
    assert by_hand.selection.variant == "cpu"


def test_gpus_that_only_the_engine_knows_are_left_to_the_probe() -> None:
    known = Machine((Gpu(0, "GPU-7", "GPU of the container engine", 0, "", ""),), source="the container engine")
    found = ahead("facere", known)
    assert found.selection is not None
    assert (found.selection.variant, found.selection.devices) == ("cuda", ("cuda:GPU-7",))
    assert found.rows[0].runs == "unknown"


def test_names_that_do_not_exist_are_the_users_mistake() -> None:
    on = machine("A100", "535.104.05")
    for variant, device in (("cu999", None), (None, "gpu"), ("cpu", "cuda")):
        with pytest.raises(UsageError):
            ahead("fformer", on, variant, device)
