"""compose.yaml, compose.gpu.yaml and .env: equal to the catalog, as hardened as one-shot workers are."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.catalog.loader import Catalog, StackEntry, load_catalog
from orchestrator.catalog.spec import Variant
from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.runtimes.base import Prepared, WorkerSpec
from orchestrator.runtimes.docker.gpu_access import GpuSettings
from orchestrator.runtimes.docker.runtime import container_settings
from orchestrator.runtimes.warm.compose import USER, compose_document, compose_text, gpu_text, gpu_variant
from orchestrator.runtimes.warm.compose_env import environment, environment_text, write_environment
from tests.unit.stack_samples import MINIMAL, stack_entry

ROOT = Path(__file__).resolve().parents[4]
ONE_SHOT = WorkerSpec(
    run="run1", name="w0", job=Path("/j"), data=Path("/d"), roots=[], weights=Path("/w"), out=Path("/o"),
    cache=Path("/c"), log=Path("/l"), threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml, merged as Compose merges them."""
    document: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document["services"]


@pytest.fixture(scope="module")
def on_gpus() -> dict[str, Any]:
    """The services of compose.gpu.yaml."""
    document: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
    return document["services"]


def catalog_of(*stacks: StackEntry) -> Catalog:
    return Catalog({stack.name: stack for stack in stacks}, {}, {})


def test_the_files_equal_the_catalog() -> None:
    """Where this fails: orch compose --out compose.yaml; orch compose --gpu --out compose.gpu.yaml."""
    assert (ROOT / "compose.yaml").read_text() == compose_text(load_catalog(), ROOT)
    assert (ROOT / "compose.gpu.yaml").read_text() == gpu_text(load_catalog(), ROOT)


def test_every_stack_has_a_service_and_the_demo_alone_needs_no_profile(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert profiles == {name: [name, "all"] for name in load_catalog().stacks} | {"garments": None}


def test_services_are_as_hardened_as_one_shot_workers(services: dict[str, Any], tmp_path: Path) -> None:
    prepared = Prepared(stack_entry(tmp_path), "cpu", "docker", "0", "orch/tiny:cpu-0")
    one_shot = container_settings(prepared, ONE_SHOT, (), (1000, 1000), GpuSettings())
    for service in services.values():
        for name in ("network_mode", "read_only", "cap_drop", "security_opt", "pids_limit", "shm_size", "init"):
            assert service[name] == one_shot[name], name
        assert service["stop_signal"] == one_shot["stop_signal"]
        assert service["tmpfs"] == [f"/tmp:{one_shot['tmpfs']['/tmp']}"]
        assert service["ulimits"] == {
            limit["Name"]: {"soft": limit["Soft"], "hard": limit["Hard"]} for limit in one_shot["ulimits"]
        }
        assert service["user"] == USER == "${ORCH_UID:-1000}:${ORCH_GID:-1000}"
        same = one_shot["environment"].keys() & service["environment"].keys()
        assert {name: service["environment"][name] for name in same} == {
            name: one_shot["environment"][name] for name in same
        }
        assert one_shot["environment"].keys() - same == {
            "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"
        }  # fmt: skip
        assert not {"ports", "networks", "privileged", "cap_add", "devices", "deploy", "pid", "ipc"} & service.keys()


def test_nothing_is_mounted_that_is_not_there_and_only_spool_and_cache_are_writable(services: dict[str, Any]) -> None:
    for name, service in services.items():
        writable = {mount["target"] for mount in service["volumes"] if not mount.get("read_only")}
        assert writable == {"/spool", "/cache"}, name
        binds = [mount for mount in service["volumes"] if mount["type"] == "bind"]
        assert all(mount["bind"] == {"create_host_path": False} for mount in binds), name


def test_gpu_settings_are_in_the_gpu_file_alone(services: dict[str, Any], on_gpus: dict[str, Any]) -> None:
    stacks = load_catalog().stacks
    assert set(on_gpus) == {
        name for name, stack in stacks.items() if any(one.device == "cuda" for one in stack.spec.variants.values())
    }
    reservation = {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}
    for name, service in on_gpus.items():
        variant = service["environment"]["ORCH_VARIANT"]
        assert stacks[name].spec.variants[variant].device == service["environment"]["ORCH_DEVICE"] == "cuda"
        assert service["labels"] == {"org.orch.variant": variant}
        assert service["image"] == f"orch/{name}:{variant}"
        assert service["deploy"] == {"resources": {"reservations": reservation}}
        assert service.get("build", {}).keys() == services[name].get("build", {}).keys()
    assert {service["environment"]["ORCH_DEVICE"] for service in services.values()} == {"cpu"}


def variant(*capabilities: str, device: str = "cuda", **changes: Any) -> Variant:
    fields = {"base_image": "b", "lock": "l", "python": "3.11", "device": device, "cuda": "12.1"}
    return Variant.model_validate({**fields, "native_capabilities": capabilities, **changes})


def test_the_gpu_variant_is_the_one_most_gpus_can_run() -> None:
    old, new = variant("3.7", "5.0", "6.0"), variant("5.0", "6.0", "7.0", "7.5", "8.0")
    newest = variant("7.5", "8.0", "9.0", "10.0")
    assert gpu_variant({"cpu": variant(device="cpu"), "old": old, "new": new, "newest": newest}) == "new"
    assert gpu_variant({"old": old, "newer": newest, "new": new}) == "newer"
    assert gpu_variant({"old": old, "asked": variant("5.0", "6.0", "7.0", "8.0", on_request=True)}) == "old"
    assert gpu_variant({"cpu": variant(device="cpu")}) is None


def test_a_dockerfile_that_compose_builds_from_takes_all_it_is_given(services: dict[str, Any]) -> None:
    """An argument it does not declare is passed over in silence, and the wrong files are looked for."""
    built = {name: service["build"] for name, service in services.items() if "build" in service}
    assert {"garments", "textlines", "facere"} <= set(built)
    for name, build in built.items():
        lines = (ROOT / build["dockerfile"]).read_text().splitlines()
        declared = {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG ")}
        assert build["args"].keys() <= declared, name
        assert all((ROOT / build["args"][part]).exists() for part in ("LOCK", "RUNNER", "STACK")), name


def test_a_stack_from_elsewhere_is_not_built_by_compose(tmp_path: Path) -> None:
    catalog = catalog_of(stack_entry(tmp_path / "elsewhere"))
    service = compose_document(catalog, tmp_path / "root")["services"]["tiny"]
    assert (service["image"], service["pull_policy"], "build" in service) == ("orch/tiny:cpu", "never", False)
    assert "  # Its image is built first: orch build tiny --runtime docker --variant cpu\n  tiny:\n" in compose_text(
        catalog, tmp_path / "root"
    )


def test_away_from_the_repository_nothing_is_built_and_weights_are_found(tmp_path: Path) -> None:
    """As from an installed wheel."""
    catalog = load_catalog()
    services = compose_document(catalog, tmp_path)["services"]
    assert {service.get("pull_policy") for service in services.values()} == {"never"}
    bundled = catalog.stacks["garments"].folder / "weights"
    assert str(bundled) in [mount["source"] for mount in services["garments"]["volumes"]]


def test_a_stack_with_upstream_code_is_built_by_orch_and_says_its_commit(services: dict[str, Any]) -> None:
    source = load_catalog().stacks["amrcnn"].spec.sources["tpu"]
    assert services["amrcnn"]["environment"]["ORCH_SOURCES"] == f'{{"tpu": "{source.commit}"}}'
    assert services["amrcnn"]["pull_policy"] == "never"
    assert "build" not in services["amrcnn"]
    assert "ORCH_SOURCES" not in services["garments"]["environment"]


def weights(tmp_path: Path, *origins: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a stack with these weights, a model each, gets them from: (source, target)."""
    model = MINIMAL["models"]["tiny-model"]
    models = {
        f"m{number}": {**model, "weights": {"onnx": {"licence": "MIT", **origin}}}
        for number, origin in enumerate(origins)
    }
    stack = stack_entry(tmp_path / "tiny", models=models)
    volumes = compose_document(catalog_of(stack), tmp_path)["services"]["tiny"]["volumes"]
    return [(mount["source"], mount["target"]) for mount in volumes if mount["target"].startswith("/weights")]


def test_weights_come_from_the_image_the_stack_or_the_cache(tmp_path: Path) -> None:
    bundled = {"file": "a.onnx", "bundled": "weights/a.onnx"}
    assert weights(tmp_path, {"file": "a.onnx", "package": "theirs"}) == []
    own = [("./tiny/weights", "/weights/m0"), ("./tiny/weights", "/weights/m1")]
    assert weights(tmp_path, bundled, bundled) == own
    cache = [("${ORCH_HOME:-${HOME}/.cache/orch}/weights/tiny", "/weights")]
    assert weights(tmp_path, bundled, {"file": "b.onnx", "url": "https://x/b"}) == cache
    assert weights(tmp_path, {"file": "other.onnx", "bundled": "weights/a.onnx"}) == cache


@pytest.mark.parametrize(("stack", "like"), [("garments", "garments-tiny"), ("textlines", "ppocr-det")])
def test_a_model_file_makes_the_cache_the_workers_folder_of_weights(tmp_path: Path, stack: str, like: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.yaml").write_text(f"model: mine\nlike: {like}\nweights: mine.onnx\n")
    built_in, own = (compose_document(load_catalog(folders), ROOT)["services"] for folders in ([], [tmp_path]))
    mounts = [
        (mount["source"], mount["target"]) for mount in own[stack]["volumes"] if mount["target"].startswith("/weights")
    ]
    assert mounts == [(f"${{ORCH_HOME:-${{HOME}}/.cache/orch}}/weights/{stack}", "/weights")]
    assert own[stack]["image"] == built_in[stack]["image"]
    assert list(own) == list(built_in), "no service of its own"


def test_the_command_writes_a_file_with_the_users_stacks(tmp_path: Path, orch_home: Path, capsys: Any) -> None:
    stack_entry(tmp_path / "stacks" / "tiny")
    out = tmp_path / "compose.yaml"
    assert main(["compose", "--stacks", str(tmp_path / "stacks"), "--out", str(out)]) == 0
    written = yaml.safe_load(out.read_text())["services"]
    assert {"tiny", "garments"} <= set(written)
    assert (written["tiny"]["image"], written["tiny"]["pull_policy"]) == ("orch/tiny:cpu", "never")
    capsys.readouterr()
    assert main(["compose", "--stacks", str(tmp_path / "stacks")]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)["services"]) == set(written)


@pytest.mark.parametrize(
    "arguments", [["--gpu", "--env"], ["--data", "."], ["--env", "--data", "no-such-folder"]]
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(arguments: list[str], orch_home: Path) -> None:
    assert main(["compose", *arguments]) == 2


@pytest.mark.parametrize(
    ("caller", "security", "user"),
    [((1000, 1001), (), ("1000", "1001")), ((0, 0), (), ("65534", "65534")), ((1000, 1000), ("rootless",), ("0", "0"))],
)
def test_workers_run_as_the_caller_and_never_as_root(
    caller: tuple[int, int], security: tuple[str, ...], user: tuple[str, str]
) -> None:
    values = environment(caller, security, Path("/h"), None)
    project = {"COMPOSE_PROJECT_NAME": f"orch-{caller[0]}"}
    assert values == {**project, "ORCH_UID": user[0], "ORCH_GID": user[1], "ORCH_HOME": "/h"}
    assert environment(caller, security, Path("/h"), Path("/d"))["ORCH_DATA"] == "/d"


def test_an_env_file_keeps_odd_paths() -> None:
    text = environment_text({"ORCH_HOME": "/h", "ORCH_DATA": "/my photos/$new #1"})
    assert text.splitlines()[1:] == ["ORCH_HOME=/h", "ORCH_DATA='/my photos/$new #1'"]
    with pytest.raises(UsageError):
        environment_text({"ORCH_DATA": "/it's"})


def test_writing_env_makes_the_folders_that_are_mounted(tmp_path: Path) -> None:
    home, root = tmp_path / "home", tmp_path / "root"
    values = environment((1000, 1000), (), home, None)
    write_environment(root / ".env", values, catalog_of(stack_entry(tmp_path / "tiny")))
    assert (root / ".env").read_text() == environment_text(values)
    folders = [f"spool/tiny-cpu/{name}" for name in ("tickets", "claimed", "jobs", "workers", "data")]
    made = [*(root / name for name in folders), root / "data", home / "weights" / "tiny"]
    assert all(folder.is_dir() for folder in made)
    assert stat.S_IMODE((root / "spool").stat().st_mode) == 0o700


def test_the_folders_of_a_spool_elsewhere_are_made_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, values = catalog_of(stack_entry(tmp_path / "tiny")), environment((1000, 1000), (), tmp_path / "home", None)
    (tmp_path / ".env").write_text(f"ORCH_SPOOL={tmp_path / 'mine'}\n")
    write_environment(tmp_path / ".env", values, catalog)
    assert (tmp_path / "mine" / "tiny-cpu" / "jobs").is_dir()
    monkeypatch.setenv("ORCH_SPOOL", str(tmp_path / "other"))
    write_environment(tmp_path / ".env", values, catalog)
    assert (tmp_path / "other" / "tiny-cpu" / "jobs").is_dir()
    assert not (tmp_path / "spool").exists()


def test_a_worker_has_its_own_folder_of_the_spool_alone(services: dict[str, Any], on_gpus: dict[str, Any]) -> None:
    for name, service in [*services.items(), *on_gpus.items()]:
        variant = service.get("environment", {})["ORCH_VARIANT"]
        (spool,) = [mount["source"] for mount in service["volumes"] if mount["target"] == "/spool"]
        assert spool == f"${{ORCH_SPOOL:-./spool}}/{name}-{variant}"


def test_a_persons_own_settings_stay_in_the_env_file(tmp_path: Path) -> None:
    catalog = catalog_of(stack_entry(tmp_path / "tiny"))
    (tmp_path / ".env").write_text("# mine\nORCH_UID=12\nORCH_IDLE_SECONDS=60\nORCH_DATA=/photos\n")
    values = environment((1000, 1000), (), tmp_path / "home", None)
    for _ in range(2):
        write_environment(tmp_path / ".env", values, catalog)
        kept = "# mine\nORCH_IDLE_SECONDS=60\nORCH_DATA=/photos\n"
        assert (tmp_path / ".env").read_text() == environment_text(values) + kept
