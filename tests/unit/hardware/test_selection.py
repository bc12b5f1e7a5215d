"""Which variant fits which machine, and what is said where none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.spec import Variant
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import (
    Gpu,
    Machine,
    Selection,
    check_compatibility,
    choose_variant,
    explain_old_driver,
    gpus_of,
)
from tests.unit.stack_samples import MINIMAL, stack_entry

CPU: dict[str, Any] = MINIMAL["variants"]["cpu"]
CU111 = {**CPU, "device": "cuda", "cuda": "11.1", "min_driver": "450.80.02",
         "native_capabilities": ["3.7", "7.0", "7.5", "8.0"]}  # fmt: skip
CU121 = {**CPU, "device": "cuda", "cuda": "12.1", "min_driver": "525.60",
         "native_capabilities": ["8.0", "9.0"], "ptx_capabilities": ["9.0"]}  # fmt: skip
HAS = "only native 3.7, 7.0, 7.5, 8.0; PTX none"


def gpu(capability: str = "8.6", driver: str = "535.104.05", name: str = "A10") -> Gpu:
    return Gpu(0, "GPU-0", name, 24_000, capability, driver)


def stack(folder: Path, **variants: Any) -> StackEntry:
    return stack_entry(folder, variants=variants)


def test_a_variant_on_request_is_taken_by_name_alone(tmp_path: Path) -> None:
    both = stack(tmp_path, cu111={**CU111, "on_request": True}, cu121=CU121)
    chosen = choose_variant(both, None, "cuda", (gpu("8.6"),))
    why = "--device cuda; cu111: only on request: --variant cu111"
    assert chosen == Selection("cu121", "cuda", why, ("cuda:GPU-0",))
    assert choose_variant(both, "cu111", None, (gpu("8.6"),)).variant == "cu111"
    with pytest.raises(MachineError) as caught:
        choose_variant(both, None, None, (gpu("7.5"),))
    assert "cu111: only on request: --variant cu111" in str(caught.value.why)


@pytest.mark.parametrize(
    ("capability", "native", "ptx", "runs"),
    [
        ("8.6", ["8.0"], [], True),
        ("8.0", ["8.6"], [], False),
        ("8.6", ["7.5"], [], False),
        ("9.0", ["8.0"], [], False),
        ("9.0", ["8.0"], ["8.0"], True),
        ("12.0", ["9.0"], ["9.0"], True),
        ("7.5", [], ["8.0"], False),
        ("10.0", ["9.0"], [], False),
        ("7.5", [], [], True),
        ("[N/A]", ["8.0"], [], True),
    ],
)
def test_what_code_runs_on_what_gpu(capability: str, native: list[str], ptx: list[str], runs: bool) -> None:
    variant = Variant(**{**CU111, "native_capabilities": native, "ptx_capabilities": ptx})
    assert check_compatibility(variant, gpu(capability)).is_possible is runs


@pytest.mark.parametrize(
    ("present", "variant", "why"),
    [
        ((), "cpu", "no GPU to use on this machine"),
        ((gpu("7.5"),), "cu111", "fits A10, compute capability 7.5"),
        ((gpu("8.9"),), "cu111", "fits A10, compute capability 8.9"),
        ((gpu("9.0"),), "cu121",
         f"fits A10, compute capability 9.0; cu111: its binaries have no code for A10 (compute capability 9.0), {HAS}"),
        ((gpu("12.0", "570.1"),), "cu121",
         "fits A10, compute capability 12.0; cu111: its binaries have no code for A10 (compute capability 12.0), "
         f"{HAS}; compiled by the driver from PTX 9.0 at the first start, then kept"),
        ((gpu("8.6", "450.80.02"),), "cu111", "fits A10, compute capability 8.6"),
        ((gpu("8.6", "450.80"),), "cpu",
         "no variant fits the GPU: cu111: it needs driver 450.80.02 or newer, this machine has 450.80; "
         "cu121: it needs driver 525.60 or newer, this machine has 450.80; "
         "update NVIDIA's driver to 450.80.02 or newer"),
        ((gpu("9.0", "470.1", "H100"),), "cpu",
         f"no variant fits the GPU: cu111: its binaries have no code for H100 (compute capability 9.0), {HAS}; "
         "cu121: it needs driver 525.60 or newer, this machine has 470.1; update NVIDIA's driver to 525.60 or newer"),
        ((gpu("3.5"),), "cpu",
         f"no variant fits the GPU: cu111: its binaries have no code for A10 (compute capability 3.5), {HAS}; "
         "cu121: its binaries have no code for A10 (compute capability 3.5), only native 8.0, 9.0; PTX 9.0"),
    ],
)  # fmt: skip
def test_the_variant_follows_from_the_machine(tmp_path: Path, present: tuple[Gpu, ...], variant: str, why: str) -> None:
    chosen = choose_variant(stack(tmp_path, cpu=CPU, cu111=CU111, cu121=CU121), None, None, present)
    on_cpu = variant == "cpu"
    assert chosen == Selection(variant, "cpu" if on_cpu else "cuda", why, ("cpu",) if on_cpu else ("cuda:GPU-0",))


def test_asked_for_a_gpu_it_is_a_gpu_or_an_error(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    assert choose_variant(entry, None, "cuda", (gpu(),)) == Selection("cu111", "cuda", "--device cuda", ("cuda:GPU-0",))
    assert choose_variant(entry, None, "cpu", (gpu(),)) == Selection("cpu", "cpu", "--device cpu")
    for present in ((), (gpu("9.0"),)):
        with pytest.raises(MachineError, match="no variant of tiny fits this machine") as caught:
            choose_variant(entry, None, "cuda", present)
        assert caught.value.hint == "ask for the CPU: --device cpu"


def test_the_device_that_was_asked_for_is_the_one_examined(tmp_path: Path) -> None:
    entry = stack(tmp_path, cu111=CU111)
    present = (gpu("9.0", name="H100"), replace(gpu("8.0", name="A100"), index=1, uuid="GPU-1"))
    assert choose_variant(entry, None, "cuda:1", present) == Selection(
        "cu111", "cuda", "--device cuda:1", ("cuda:GPU-1",)
    )
    with pytest.raises(MachineError):
        choose_variant(entry, None, "cuda:0", present)
    with pytest.raises(MachineError) as caught:
        choose_variant(entry, "cu111", "cuda:2", present)
    assert caught.value.message == "there is no GPU 2"
    assert caught.value.why == "this machine has 0 (H100, GPU-0), 1 (A100, GPU-1)"


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:x", "cpu:0", "", "cuda:-1"])
def test_there_are_no_other_devices(tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        choose_variant(stack(tmp_path, cpu=CPU, cu111=CU111), None, device, (gpu(),))


def test_a_variant_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    assert choose_variant(entry, "cu111", None, (gpu(),)) == Selection("cu111", "cuda", "asked for", ("cuda:GPU-0",))
    assert choose_variant(entry, "cpu", None, (gpu(),)) == Selection("cpu", "cpu", "asked for")
    with pytest.raises(UsageError, match="tiny has no variant 'cu999'") as usage:
        choose_variant(entry, "cu999", None, ())
    assert usage.value.why == "it has cpu, cu111"
    with pytest.raises(UsageError, match="the variant cpu is for cpu, not for --device cuda"):
        choose_variant(entry, "cpu", "cuda", (gpu(),))
    with pytest.raises(MachineError, match="the variant cu111 needs a GPU") as machine:
        choose_variant(entry, "cu111", None, ())
    assert machine.value.why == "this machine has none"
    assert machine.value.hint == "orch doctor"


def test_a_stack_without_a_cpu_variant_never_falls_back(tmp_path: Path) -> None:
    entry = stack(tmp_path, cu111=CU111)
    with pytest.raises(MachineError) as caught:
        choose_variant(entry, None, None, ())
    assert (caught.value.why, caught.value.hint) == ("it has only cu111 (cuda)", None)
    with pytest.raises(MachineError):
        choose_variant(entry, None, "cpu", (gpu(),))
    only_cpu = stack(tmp_path / "cpu", cpu=CPU)
    assert choose_variant(only_cpu, None, None, (gpu(),)).why == "this stack uses no GPU"


def test_devices_may_be_several_and_by_uuid(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    present = tuple(replace(gpu(), index=number, uuid=f"GPU-{number}a") for number in range(3))
    for device, devices in [
        ("0,2", ("cuda:GPU-0a", "cuda:GPU-2a")),
        ("2, cuda:0", ("cuda:GPU-2a", "cuda:GPU-0a")),
        ("GPU-1", ("cuda:GPU-1a",)),
        ("gpu-1A,0", None),
        ("cuda", ("cuda:GPU-0a", "cuda:GPU-1a", "cuda:GPU-2a")),
    ]:
        if devices is None:
            with pytest.raises(UsageError, match="unknown device"):
                choose_variant(entry, None, device, present)
        else:
            assert choose_variant(entry, None, device, present).devices == devices
    with pytest.raises(UsageError, match="names a GPU twice"):
        choose_variant(entry, None, "0,GPU-0", present)
    with pytest.raises(MachineError, match="there are 3 GPUs GPU-0…"):
        choose_variant(entry, None, "GPU-0", tuple(replace(one, uuid=f"GPU-0{one.uuid}") for one in present))


def test_a_number_is_nvidia_smis_also_where_gpus_are_lost_or_hidden(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    present = tuple(replace(gpu(), index=number, uuid=f"GPU-{number}") for number in (0, 3, 2))
    for number in (0, 2, 3):
        assert choose_variant(entry, None, str(number), present).devices == (f"cuda:GPU-{number}",)
    with pytest.raises(MachineError, match="there is no GPU 1") as caught:
        choose_variant(entry, None, "1", present)
    assert caught.value.why == "this machine has 0 (A10, GPU-0), 3 (A10, GPU-3), 2 (A10, GPU-2)"
    machine = Machine(present, notes=("GPU 1 does not answer: GPU is lost",))
    with pytest.raises(MachineError, match="there is no GPU 1") as caught:
        gpus_of(machine, entry, "1", None)
    assert str(caught.value.why).endswith("2 (A10, GPU-2); GPU 1 does not answer: GPU is lost")
    slices = tuple(replace(gpu(), index=1, uuid=f"MIG-{part}", parent="GPU-1", mig="3g.20gb") for part in "xy")
    assert choose_variant(entry, None, "1", (*present, *slices)).devices == ("cuda:MIG-x", "cuda:MIG-y")
    assert choose_variant(entry, None, "MIG-y", (*present, *slices)).devices == ("cuda:MIG-y",)
    assert [one.label for one in (*present, *slices)] == ["0", "3", "2", "MIG-x", "MIG-y"]


def test_where_the_driver_is_too_old_the_variant_that_fits_is_named(tmp_path: Path) -> None:
    by_name = {**CU111, "on_request": True}
    entry = stack(tmp_path / "both", cpu=CPU, cu111=by_name, cu121=CU121)
    old = gpu("8.6", "470.256.02")
    step = "--variant cu111 fits, or update NVIDIA's driver to 525.60 or newer"
    assert explain_old_driver(entry, (old,)) == ("cu121 needs 525.60 or newer", step)
    assert choose_variant(entry, None, None, (old,)).why.endswith(step)
    for variant, device, hint in (("cu121", None, step), (None, "cuda", f"{step}; or ask for the CPU: --device cpu")):
        with pytest.raises(MachineError) as caught:
            choose_variant(entry, variant, device, (old,))
        assert caught.value.hint == hint
    none = gpu("9.0", "470.256.02")
    with pytest.raises(MachineError) as caught:
        choose_variant(entry, "cu111", None, (none,))
    assert caught.value.hint == "update NVIDIA's driver to 525.60 or newer"
    kepler = gpu("3.5", "470.256.02")  # for which no driver helps
    assert explain_old_driver(entry, (kepler,)) is None
    with pytest.raises(MachineError) as caught:
        choose_variant(entry, "cu121", None, (kepler,))
    assert caught.value.hint == "orch doctor"
    assert explain_old_driver(stack(tmp_path / "fits", cpu=CPU, cu111=CU111, cu121=CU121), (old,)) is None


def test_every_gpu_that_is_named_has_to_fit(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    present = (gpu("8.0", name="A100"), replace(gpu("9.0", name="H100"), index=1, uuid="GPU-1"))
    assert choose_variant(entry, None, "cuda", present).devices == ("cuda:GPU-0",)
    assert "H100 is skipped: its binaries have no code" in choose_variant(entry, None, "cuda", present).why
    with pytest.raises(MachineError, match="no variant of tiny fits this machine"):
        choose_variant(entry, None, "0,1", present)
    with pytest.raises(MachineError, match="the variant cu111 does not fit this machine") as caught:
        choose_variant(entry, "cu111", "0,1", present)
    assert str(caught.value.why).startswith("native code for 8.0; its binaries have no code for H100")


def test_native_code_is_taken_before_jit_and_jit_before_the_cpu(tmp_path: Path) -> None:
    jit = {**CU111, "native_capabilities": ["7.0"], "ptx_capabilities": ["7.0"], "jit_minutes": 12}
    both = stack(tmp_path / "both", cpu=CPU, jit=jit, cu121=CU121)
    chosen = choose_variant(both, None, None, (gpu("9.0"),))
    assert chosen.variant == "cu121"
    lasts = "compiled by the driver from PTX 7.0 at the first start, about 12 minutes, then kept"
    assert chosen.why == f"fits A10, compute capability 9.0; jit: {lasts}"
    alone = choose_variant(stack(tmp_path / "jit", cpu=CPU, jit=jit), None, None, (gpu("9.0"),))
    assert (alone.variant, alone.why) == ("jit", f"fits A10, compute capability 9.0; {lasts}")


def test_a_gpu_with_too_little_memory_is_none(tmp_path: Path) -> None:
    entry = stack(tmp_path, cpu=CPU, cu111=CU111)
    assert choose_variant(entry, None, None, (gpu(),), 24_000).variant == "cu111"
    chosen = choose_variant(entry, None, None, (gpu(),), 24_001)
    assert chosen.variant == "cpu"
    assert "cu111: the model needs 24001 MiB of GPU memory, A10 has 24000" in chosen.why


def test_asked_for_a_gpu_where_there_is_none_the_error_says_what_is_missing(tmp_path: Path) -> None:
    entry = stack(tmp_path / "both", cpu=CPU, cu111=CU111)
    bare = Machine(lacks="there is no NVIDIA driver")
    assert (
        gpus_of(bare, entry, None, None) == gpus_of(bare, entry, "cpu", None) == gpus_of(bare, entry, None, "cpu") == ()
    )
    for device, variant in (("cuda", None), ("0", None), (None, "cu111"), ("cuda", "cu111")):
        with pytest.raises(MachineError, match="no GPU that can be used") as caught:
            gpus_of(bare, entry, device, variant)
        assert caught.value.why == "there is no NVIDIA driver"
        assert caught.value.hint == "orch doctor; or ask for the CPU: --device cpu"
    assert gpus_of(bare, stack(tmp_path / "cpu", cpu=CPU), "cuda", None) == ()


def test_a_broken_driver_is_an_error_but_not_for_those_who_ask_for_the_cpu(tmp_path: Path) -> None:
    entry = stack(tmp_path / "both", cpu=CPU, cu111=CU111)
    broken = Machine(broken="NVML: Driver/library version mismatch")
    with pytest.raises(MachineError, match="the GPU driver does not answer") as caught:
        gpus_of(broken, entry, None, None)
    assert caught.value.why == "NVML: Driver/library version mismatch"
    assert gpus_of(broken, entry, "cpu", None) == gpus_of(broken, entry, None, "cpu") == ()
    assert gpus_of(broken, stack(tmp_path / "cpu", cpu=CPU), None, None) == ()
