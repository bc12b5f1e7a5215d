"""Proxies, package mirrors and an own certificate authority of the caller, for builds; no image has them."""

from __future__ import annotations

import configparser
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
"""Build arguments that BuildKit knows and keeps out of the image's history."""
AUTHORITIES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file of certificates; the first that is set counts."""
MIRRORS = {
    "PIP_INDEX_URL": "index-url",
    "PIP_EXTRA_INDEX_URL": "extra-index-url",
    "PIP_TRUSTED_HOST": "trusted-host",
    "PIP_PROXY": "proxy",
    "PIP_DEFAULT_TIMEOUT": "timeout",
    "PIP_RETRIES": "retries",
}
"""pip's variables that say where packages come from, and their names in pip.conf."""
SECRETS = "/run/secrets"  # where BuildKit shows secrets to the build


@contextmanager
def network_arguments(environment: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the options of a build command that give the build the caller's network settings.

    Values of proxies stay in the environment; those for pip are in a file of the caller's alone until the build ends.
    """
    arguments: list[str] = []
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        if environment.get(name):
            arguments += ["--build-arg", name]
    authority = next((environment[name] for name in AUTHORITIES if environment.get(name)), None)
    settings = {option: environment[name] for name, option in MIRRORS.items() if environment.get(name)}
    with tempfile.TemporaryDirectory(prefix="orch-network-") as folder:
        if authority is not None and Path(authority).is_file():
            arguments += ["--secret", f"id=ca.pem,src={Path(authority).absolute()}"]
            settings["cert"] = f"{SECRETS}/ca.pem"
        if settings:
            file = Path(folder) / "pip.conf"
            file.touch(mode=0o600)
            file.write_text(_pip_configuration(settings), encoding="utf-8")
            arguments += ["--secret", f"id=pip.conf,src={file}"]
        yield arguments


def _pip_configuration(settings: Mapping[str, str]) -> str:
    parser = configparser.RawConfigParser()
    parser["global"] = {name: "\n".join(value.split()) for name, value in settings.items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
