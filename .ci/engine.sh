#!/usr/bin/env bash
# A container engine, and base images that need no registry, for machines that have neither.
#
#   engine.sh start    install and start an engine unless one answers already
#   engine.sh bases    make orch-base:py3.11 and, where a Python 3.8 is at hand, orch-base:py3.8; more that are at hand by
#                      name: engine.sh bases 3.10
#   engine.sh client   print the docker client that can build with BuildKit
#   engine.sh compose  print a folder with the Compose plugin, out of a newer Debian where this one has none; nothing is
#                      printed where `docker compose` works already
#   engine.sh cdi FOLDER unpack an engine that knows CDI into FOLDER, for tests/docker/test_gpu_wiring.py
#                      (export ORCH_TEST_CDI_ENGINE=FOLDER); it is not started
#   engine.sh python38 print a Python 3.8 of this machine that really runs
#   engine.sh status   exit 0 when an engine answers
#   engine.sh stop     stop the engine, if `start` started it
#
# Installing and starting need root on Debian; with an engine that answers (Docker CE, a CI host), `start` does nothing.
set -euo pipefail

STATE=${ORCH_ENGINE_STATE:-/run/orch-engine} # dockerd.pid, dockerd.log, lock
STAND_IN_SUITE=bookworm
PLUGINS=${ORCH_ENGINE_PLUGINS:-/var/cache/orch-engine/cli-plugins}
NEWER_SUITE=trixie # the first that has Compose 2, and an engine that knows CDI
RECIPE=1 # raise it when the contents of the stand-in bases change
PYTHON_LIBRARIES=libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,zlib1g

say() { printf '%s\n' "engine: $*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# ---- installing ------------------------------------------------------------------------------------------------------

# apt_install PACKAGE...: those of them that this release has and that are not installed.
apt_install() {
    [[ $(id -u) == 0 ]] || die "not root; type: sudo apt-get install --no-install-recommends $*"
    have apt-get || die "no apt-get here; install by hand: $*"
    apt-get update -q >"$STATE/apt.log" 2>&1 || say "apt-get update failed; trying with the lists that are here"
    local package wanted=()
    for package in "$@"; do
        apt-cache show "$package" >/dev/null 2>&1 && wanted+=("$package")
    done
    [[ ${#wanted[@]} -gt 0 ]] || die "apt knows none of: $*"
    say "installing ${wanted[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${wanted[@]}" \
        >>"$STATE/apt.log" 2>&1 </dev/null || die "apt-get install failed: $(tail -n 3 "$STATE/apt.log")"
}

# ---- the client ------------------------------------------------------------------------------------------------------

# Every docker client here, the one that a bare `docker` means first.
clients() {
    type -ap docker || true
    [[ ! -x /usr/bin/docker ]] || echo /usr/bin/docker
}

engine_answers() {
    local client
    while read -r client; do
        if "$client" info >/dev/null 2>&1 </dev/null; then return 0; fi
    done < <(clients)
    return 1
}

# A client of 23 or newer builds only with its buildx plugin, Debian's 20.10 has BuildKit inside: so try a build.
buildkit_client() {
    local client
    while read -r client; do
        if printf 'FROM scratch\nLABEL probe=1\n' |
            DOCKER_BUILDKIT=1 "$client" build -q --output type=tar,dest=/dev/null - >/dev/null 2>&1; then
            echo "$client"
            return 0
        fi
    done < <(clients)
    return 1
}

# ---- Compose ---------------------------------------------------------------------------------------------------------

# The mirror this machine takes Debian's packages from.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own variable
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | grep -v -- -security | head -n 1
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        say "docker compose works already"
        return
    fi
    if [[ ! -x $PLUGINS/docker-compose ]]; then
        local folder status=0
        folder=$(mktemp -d)
        mkdir -p "$PLUGINS"
        unpack "$folder" docker-compose &&
            cp "$folder/usr/libexec/docker/cli-plugins/docker-compose" "$PLUGINS/.new" &&
            mv "$PLUGINS/.new" "$PLUGINS/docker-compose" || status=$?
        rm -rf "$folder"
        [[ $status == 0 ]] || die "the Compose plugin cannot be had; the log: $STATE/unpack.log"
        say "unpacked the Compose plugin of Debian $NEWER_SUITE into $PLUGINS"
    fi
    echo "$PLUGINS"
}

# Trixie's engine, for the machine's own runc: trixie's needs a newer C library than bookworm has.
cdi() {
    unpack "$1" docker.io containerd || die "an engine that knows CDI cannot be had; the log: $STATE/unpack.log"
    "$1/usr/sbin/dockerd" --version
}

# unpack FOLDER PACKAGE...: packages of a newer Debian, unpacked: nothing is installed, and the machine's own package
# lists and pins stay as they are.
unpack() {
    have apt-get || die "no apt-get here; get by hand: ${*:2}"
    local mirror apt status=0
    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        apt-get update -q >"$STATE/unpack.log" 2>&1 || true
        mirror=$(debian_mirror)
    fi
    [[ -n $mirror ]] || die "no mirror of Debian is known here; get by hand: ${*:2}"
    apt=$(mktemp -d)
    mkdir -p "$apt"/{lists/partial,archives/partial,deb} "$1"
    printf '%s\n' "Types: deb" "URIs: $mirror" "Suites: $NEWER_SUITE" "Components: main" \
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" >"$apt/suite.sources"
    printf '%s\n' "Dir::Etc::SourceList \"/dev/null\";" "Dir::Etc::SourceParts \"$apt\";" \
        "Dir::Etc::PreferencesParts \"/dev/null\";" "Dir::State::Status \"/dev/null\";" \
        "Dir::State::Lists \"$apt/lists\";" "Dir::Cache \"$apt\";" 'APT::Sandbox::User "root";' \
        'Acquire::Languages "none";' >"$apt/apt.conf"
    (
        cd "$apt/deb"
        export APT_CONFIG=$apt/apt.conf
        apt-get update -q && apt-get download -q "${@:2}"
    ) >>"$STATE/unpack.log" 2>&1 || status=$?
    local package
    for package in "$apt"/deb/*.deb; do
        [[ $status != 0 ]] || dpkg -x "$package" "$1" || status=$?
    done
    rm -rf "$apt"
    return "$status"
}

# ---- the engine ------------------------------------------------------------------------------------------------------

our_pid() {
    local pid
    pid=$(cat "$STATE/dockerd.pid" 2>/dev/null) || return 1
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]] || return 1
    echo "$pid"
}

# A daemon that was killed leaves pid files, and dockerd takes any process that has the number by now for its own (and
# signals it): drop those that name something else.
drop_stale_pid_files() {
    local file
    for file in /run/docker.pid /run/docker/containerd/containerd.pid; do
        [[ -e $file ]] || continue
        case $(cat "/proc/$(cat "$file")/comm" 2>/dev/null) in
        dockerd | containerd) ;;
        *) rm -f "$file" ;;
        esac
    done
}

start() {
    if engine_answers; then
        say "an engine answers already"
        return
    fi
    local packages=()
    have dockerd || packages+=(docker.io docker-cli docker-buildx) # one package in bookworm, three later on
    have iptables || packages+=(iptables)
    [[ ${#packages[@]} == 0 ]] || apt_install "${packages[@]}"
    [[ $(id -u) == 0 ]] || die "no engine answers and starting one needs root"
    if ! engine_answers; then # the package may have started it where there is an init system
        drop_stale_pid_files
        # Its own session, log and no lock: nothing that waits for this script's output or lock waits for the daemon.
        setsid nohup dockerd >"$STATE/dockerd.log" 2>&1 </dev/null 9>&- &
        echo $! >"$STATE/dockerd.pid"
        local tries=0
        until engine_answers; do
            tries=$((tries + 1))
            if [[ $tries -gt 150 ]] || ! our_pid >/dev/null; then
                tail -n 20 "$STATE/dockerd.log" >&2
                die "dockerd does not answer; its log: $STATE/dockerd.log"
            fi
            sleep 0.2
        done
        say "started dockerd (pid $(cat "$STATE/dockerd.pid"), log $STATE/dockerd.log)"
    fi
    buildkit_client >/dev/null || apt_install docker-cli docker-buildx docker.io
}

stop() {
    local pid
    if ! pid=$(our_pid); then
        say "nothing of ours to stop"
        return
    fi
    kill "$pid"
    for _ in $(seq 150); do
        if [[ ! -d /proc/$pid ]]; then
            rm -f "$STATE/dockerd.pid"
            say "stopped dockerd (pid $pid)"
            return
        fi
        sleep 0.2
    done
    die "dockerd (pid $pid) is still there 30 s after SIGTERM"
}

# ---- the stand-in bases ----------------------------------------------------------------------------------------------

# The bundle to bake in, only where this machine trusts something of its own.
own_ca_bundle() {
    local bundle=${PIP_CERT:-${SSL_CERT_FILE:-}}
    if [[ -z $bundle ]] && compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        bundle=/etc/ssl/certs/ca-certificates.crt
    fi
    if [[ -n $bundle && -r $bundle ]]; then echo "$bundle"; fi
}

# python_prefix VERSION: installation prefix of one that really runs (a version manager's shims may exist and fail).
python_prefix() {
    local python
    for python in "${PYENV_ROOT:-${HOME:-/root}/.pyenv}/versions/$1".*/bin/python"$1" "python$1"; do
        if "$python" -c 'import ssl, sys; print(sys.base_prefix)' 2>/dev/null; then return 0; fi
    done
    return 1
}

# make_base IMAGE INCLUDE HOOK [DOCKER-IMPORT-OPTION...]: INCLUDE packages; HOOK gets the root folder as $1.
make_base() {
    local image=$1 include=$2 hook=$3
    shift 3
    local started=$SECONDS status=0
    TMPDIR=$SCRATCH/root mmdebstrap --quiet --variant=apt --include="ca-certificates,$include" \
        --customize-hook="$hook" "$STAND_IN_SUITE" - 2>"$STATE/mmdebstrap.log" </dev/null |
        "$DOCKER" import "$@" --change "LABEL orch.base.recipe=$IDENTITY" - "$image" >/dev/null || status=$?
    if [[ $status != 0 ]]; then
        tail -n 5 "$STATE/mmdebstrap.log" >&2
        "$DOCKER" image rm "$image" >/dev/null 2>&1 || true # half of one may have been imported
        return "$status"
    fi
    say "made $image in $((SECONDS - started)) s"
}

is_current() {
    [[ $("$DOCKER" image inspect -f '{{index .Config.Labels "orch.base.recipe"}}' "$1" 2>/dev/null) == "$IDENTITY" ]]
}

# A base whose pip reaches no index is of no use to a build, so say so now; a mirror that this machine is set to use is
# baked in only where pip cannot do without.
ensure_pip_reaches_an_index() {
    local image=$1 mirror
    local probe=("$DOCKER" run --rm "$image" pip download -q --no-deps -d /tmp/probe six)
    if "${probe[@]}" >"$STATE/pip.log" 2>&1; then return; fi
    mirror=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
    if [[ -n $mirror ]]; then
        say "$image: pip needs this machine's own index"
        printf 'FROM %s\nENV PIP_INDEX_URL=%s UV_DEFAULT_INDEX=%s PIP_TRUSTED_HOST=%s\n' \
            "$image" "$mirror" "$mirror" "${PIP_TRUSTED_HOST:-}" |
            DOCKER_BUILDKIT=1 "$DOCKER" build -q -t "$image" - >/dev/null
        if "${probe[@]}" >"$STATE/pip.log" 2>&1; then return; fi
    fi
    say "$image: pip cannot download in it: $(tail -n 1 "$STATE/pip.log")"
}

# bases [VERSION...]: those CI uses, and these.
bases() {
    DOCKER=$(buildkit_client) || die "no engine answers, or no client that can build; first: engine.sh start"
    local ca version versions=() options=()
    ca=$(own_ca_bundle)
    IDENTITY=$RECIPE-$(sha256sum "${ca:-/dev/null}" | cut -c1-12)
    for version in 3.8 "$@"; do
        if ! python_prefix "$version" >/dev/null; then
            say "no Python $version here: skipping orch-base:py$version"
        elif ! is_current "orch-base:py$version"; then
            versions+=("$version")
        fi
    done
    if is_current orch-base:py3.11 && [[ ${#versions[@]} == 0 ]]; then
        say "the bases are here already"
        return
    fi
    [[ $(id -u) == 0 ]] || die "making the bases needs root"
    if ! have mmdebstrap || [[ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
        apt_install mmdebstrap debian-archive-keyring
    fi

    SCRATCH=$(mktemp -d)
    trap 'if mountpoint -q "$SCRATCH/root"; then umount "$SCRATCH/root"; fi; rm -rf --one-file-system "$SCRATCH"' EXIT
    trap 'exit 130' INT # once mmdebstrap has ended and let go of its folder
    trap 'exit 143' TERM
    mkdir "$SCRATCH/root"
    mount -t tmpfs -o size=2g orch-base "$SCRATCH/root" 2>/dev/null ||
        say "no tmpfs: making the bases on disk, which is slower"
    local baked=/etc/ssl/certs/orch-test-bundle.pem
    if [[ -n $ca ]]; then
        options=(--change "ENV PIP_CERT=$baked SSL_CERT_FILE=$baked REQUESTS_CA_BUNDLE=$baked")
    fi
    cat >"$SCRATCH/common" <<HOOK
#!/bin/sh -eu
# Like python:X.Y-slim: pip may install into the system's Python, there is a \`python\`, and no leftover of apt.
rm -f "\$1"/usr/lib/python3*/EXTERNALLY-MANAGED
[ -z "$ca" ] || install -m 644 "$ca" "\$1$baked"
HOOK
    cat >"$SCRATCH/py3.11" <<HOOK
#!/bin/sh -eu
"$SCRATCH/common" "\$1"
ln -s python3 "\$1/usr/bin/python"
HOOK
    chmod +x "$SCRATCH"/{common,py3.11}

    if ! is_current orch-base:py3.11; then
        make_base orch-base:py3.11 python3-pip,python3-venv "$SCRATCH/py3.11" \
            --change 'CMD ["python3"]' "${options[@]}" || die "could not make orch-base:py3.11"
        ensure_pip_reaches_an_index orch-base:py3.11
    fi
    for version in "${versions[@]}"; do
        copied_base "$version" "${options[@]}"
    done
}

# copied_base VERSION [DOCKER-IMPORT-OPTION...]: a base with this machine's own Python of that version in it.
copied_base() {
    local version=$1 prefix folder=/opt/py${1/./}
    shift
    prefix=$(python_prefix "$version")
    cat >"$SCRATCH/py$version" <<HOOK
#!/bin/sh -eu
"$SCRATCH/common" "\$1"
mkdir "\$1$folder"
# site-packages is the host's own affair: the image gets pip from ensurepip instead.
cd "$prefix"
tar --exclude=__pycache__ --exclude='*.a' --exclude=lib/python$version/test --exclude=lib/python$version/idlelib \\
    --exclude='lib/python$version/site-packages/*' -cf - bin/python$version include/python$version lib/python$version \\
    \$(find lib -maxdepth 1 -name 'libpython3*.so*') | tar -C "\$1$folder" -xf -
echo $folder/lib >"\$1/etc/ld.so.conf.d/python.conf"
ln -s python$version "\$1$folder/bin/python3"
ln -s python$version "\$1$folder/bin/python"
chroot "\$1" ldconfig
chroot "\$1" $folder/bin/python$version -c 'import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, zlib'
chroot "\$1" $folder/bin/python$version -m ensurepip --default-pip
HOOK
    chmod +x "$SCRATCH/py$version"
    if make_base "orch-base:py$version" "$PYTHON_LIBRARIES" "$SCRATCH/py$version" --change 'CMD ["python3"]' \
        --change "ENV PATH=$folder/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"; then
        ensure_pip_reaches_an_index "orch-base:py$version"
    else
        say "this machine's Python $version does not run on Debian $STAND_IN_SUITE: skipping orch-base:py$version"
    fi
}

# ---- the command line ------------------------------------------------------------------------------------------------

locked() {
    mkdir -p "$STATE" || die "cannot write $STATE: not root?"
    exec 9>"$STATE/lock"
    flock 9
    "$@"
}

case ${1:-} in
start) if engine_answers; then start; else locked start; fi ;;
bases) locked bases "${@:2}" ;;
stop) locked stop ;;
compose) locked compose ;;
cdi) locked cdi "${2:?usage: engine.sh cdi FOLDER}" ;;
client) buildkit_client || die "no docker client here can build with BuildKit" ;;
python38)
    prefix=$(python_prefix 3.8) || die "no Python 3.8 that runs here"
    echo "$prefix/bin/python3.8"
    ;;
status) engine_answers || die "no engine answers" ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
