"""What a build learns of the caller's network: proxies by name, pip's settings and certificates as secrets."""

from __future__ import annotations

import configparser
from pathlib import Path

from orchestrator.catalog import load_catalog
from orchestrator.runtimes.docker.build_network import network_arguments


def test_nothing_is_passed_where_nothing_is_set() -> None:
    with network_arguments({"PATH": "/bin", "HTTP_PROXY": ""}) as arguments:
        assert arguments == []


def test_proxies_are_named_and_their_values_are_not_on_the_command_line() -> None:
    with network_arguments({"HTTPS_PROXY": "http://me:hunter2@proxy:3128", "no_proxy": "localhost"}) as arguments:
        assert arguments == ["--build-arg", "HTTPS_PROXY", "--build-arg", "no_proxy"]


def test_mirrors_and_certificates_are_secrets_that_end_with_the_build(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("certificate")
    variables = {
        "PIP_INDEX_URL": "https://me:hunter2%40x@mirror/simple",
        "PIP_EXTRA_INDEX_URL": "https://one/simple https://two/simple",
        "SSL_CERT_FILE": str(authority),
    }
    with network_arguments(variables) as arguments:
        assert "hunter2" not in " ".join(arguments)
        assert arguments[:2] == ["--secret", f"id=ca.pem,src={authority}"]
        file = Path(arguments[3].partition("src=")[2])
        assert file.stat().st_mode & 0o777 == 0o600
        parser = configparser.RawConfigParser()
        parser.read(file)
        written = dict(parser["global"])
    assert not file.exists()
    assert written == {
        "index-url": "https://me:hunter2%40x@mirror/simple",
        "extra-index-url": "https://one/simple\nhttps://two/simple",
        "cert": "/run/secrets/ca.pem",
    }


def test_a_certificate_file_that_is_missing_is_left_out() -> None:
    with network_arguments({"SSL_CERT_FILE": "/none.pem"}) as arguments:
        assert arguments == []


def test_every_dockerfile_that_installs_packages_takes_the_secrets() -> None:
    files = [stack.dockerfile for stack in load_catalog().stacks.values() if stack.dockerfile]
    assert len(files) >= 6
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "ARG PIP_CONFIG_FILE=/run/secrets/pip.conf" in text, file
        runs = [block for block in text.split("\nRUN ")[1:] if "pip install" in block.split("\n\n")[0]]
        assert runs, file
        for run in runs:
            assert "--mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem" in run.partition("\n")[0], file
