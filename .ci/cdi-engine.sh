#!/usr/bin/env bash
# An engine that knows CDI, unpacked beside this machine's own and never installed: Debian trixie's 26.1.
#
#   cdi-engine.sh FOLDER    then: export ORCH_TEST_CDI_ENGINE=FOLDER, and tests/docker/test_gpu_wiring.py tests CDI too
#
# Root is not needed. The machine's own runc is used: trixie's needs a newer C library than bookworm has.
set -euo pipefail

folder=${1:?usage: cdi-engine.sh FOLDER}
mkdir -p "$folder"/.apt/{lists/partial,archives/partial}
folder=$(cd "$folder" && pwd)
touch "$folder/.apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${ORCH_DEBIAN_MIRROR:?} trixie main" \
    >"$folder/.apt/sources.list"
cat >"$folder/.apt/apt.conf" <<CONF
Dir::State::lists "$folder/.apt/lists";
Dir::State::status "$folder/.apt/status";
Dir::Cache::archives "$folder/.apt/archives";
Dir::Etc::sourcelist "$folder/.apt/sources.list";
Dir::Etc::sourceparts "$folder/.apt/none";
APT::Sandbox::User "root";
CONF
export APT_CONFIG=$folder/.apt/apt.conf
apt-get update -q
cd "$folder/.apt"
apt-get download -q docker.io containerd
for package in ./*.deb; do dpkg -x "$package" "$folder"; done
rm -rf "$folder/.apt"
"$folder/usr/sbin/dockerd" --version
