#!/usr/bin/env bash
# A real Slurm on loopback for tests: munged, slurmctld and three slurmd (or $ORCH_SLURM_NODES) with two made-up GPUs each.
#
#   slurm.sh install  install slurm-wlm and munge unless they are here; nothing is started
#   slurm.sh start    install what is missing, start it, print the path of its slurm.conf (for $SLURM_CONF)
#   slurm.sh node N   start the slurmd of node N, from 1 up, again
#   slurm.sh status   exit 0 when its controller answers
#   slurm.sh stop     stop all of it, jobs first
#
# Needs root on Debian. Everything lies in $ORCH_SLURM_STATE; ports from $ORCH_SLURM_PORT up.
set -euo pipefail

STATE=${ORCH_SLURM_STATE:-/run/orch-slurm}
PORT=${ORCH_SLURM_PORT:-36810}
NODES=${ORCH_SLURM_NODES:-3}
export SLURM_CONF=$STATE/slurm.conf

say() { printf '%s\n' "slurm: $*" >&2; }
die() {
    say "$*"
    exit 1
}

install_what_is_missing() {
    local program missing=no log
    for program in slurmctld slurmd munged; do command -v "$program" >/dev/null || missing=yes; done
    [[ $missing == yes ]] || return 0
    command -v apt-get >/dev/null || die "Slurm is not here, and no apt-get to install it with"
    say "installing slurm-wlm and munge"
    log=$(mktemp)
    apt-get update -q >"$log" 2>&1 || say "apt-get update failed; trying with the lists that are here"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge \
        >>"$log" 2>&1 </dev/null || die "apt-get install failed: $(tail -n 3 "$log")"
    rm -f "$log"
}

write_configuration() {
    local host
    host=$(hostname -s)
    cat >"$SLURM_CONF" <<END
ClusterName=orch
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued may start again once its old credential has expired: two minutes by default.
AuthInfo=socket=$STATE/munge/socket,cred_expire=5
SlurmctldPort=$PORT
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd-%n.pid
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool-%n
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=6
KillWait=5
InactiveLimit=0
MinJobAge=60
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + NODES))] CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
END
    cat >"$STATE/gres.conf" <<END
AutoDetect=off
NodeName=n[1-$NODES] Name=gpu File=/dev/null
NodeName=n[1-$NODES] Name=gpu File=/dev/zero
END
}

start_munge() {
    mkdir -p "$STATE/munge"
    dd if=/dev/urandom of="$STATE/munge/key" bs=1 count=1024 status=none
    chown -R munge: "$STATE/munge"
    chmod 0755 "$STATE/munge"
    chmod 0400 "$STATE/munge/key"
    setpriv --reuid=munge --regid=munge --clear-groups munged --force \
        --socket="$STATE/munge/socket" --key-file="$STATE/munge/key" --pid-file="$STATE/munge/pid" \
        --log-file="$STATE/munge/log" --seed-file="$STATE/munge/seed" >"$STATE/munged.out" 2>&1 </dev/null ||
        die "munged does not start: $(cat "$STATE/munged.out")"
}

# daemon NAME COMMAND...: in a session of its own, its pid remembered.
daemon() {
    local name=$1
    shift
    setsid nohup "$@" >"$STATE/$name.out" 2>&1 </dev/null &
    echo $! >"$STATE/$name.started"
}

node() { daemon "slurmd-n$1" slurmd -D -N "n$1"; }

answers() { [[ -e $SLURM_CONF ]] && scontrol ping 2>/dev/null | grep -q 'is UP'; }

# How many nodes answer: those that do not have a star behind their state.
nodes_up() { sinfo -h -N -o '%T' 2>/dev/null | grep -cE '^(idle|mixed|allocated)$' || true; }

start() {
    if answers; then
        echo "$SLURM_CONF"
        return
    fi
    [[ $(id -u) == 0 ]] || die "starting a Slurm needs root"
    mkdir -p "$STATE/state"
    install_what_is_missing
    write_configuration
    start_munge
    daemon slurmctld slurmctld -D
    local number tries=0
    for number in $(seq "$NODES"); do node "$number"; done
    until [[ $(nodes_up) == "$NODES" ]]; do
        tries=$((tries + 1))
        [[ $tries -le 150 ]] || die "its nodes do not answer; logs are in $STATE"
        sleep 0.2
    done
    echo "$SLURM_CONF"
}

stop() {
    local file pid
    answers && scancel --user=root --quiet >/dev/null 2>&1 && sleep 1
    for file in "$STATE"/slurmd-*.started "$STATE/slurmctld.started" "$STATE/munge/pid"; do
        pid=$(cat "$file" 2>/dev/null) || continue
        case $(cat "/proc/$pid/comm" 2>/dev/null) in
        slurmd | slurmctld | munged) kill "$pid" ;;
        esac
    done
    for file in "$STATE"/slurmd-*.started "$STATE/slurmctld.started"; do
        pid=$(cat "$file" 2>/dev/null) || continue
        for _ in $(seq 50); do
            [[ $(cat "/proc/$pid/comm" 2>/dev/null) == slurm* ]] || break
            sleep 0.1
        done
    done
    rm -rf "$STATE"
}

case ${1:-} in
install) install_what_is_missing ;;
start) start ;;
node) node "${2:?which node}" ;;
status) answers ;;
stop) stop ;;
*) die "usage: slurm.sh install|start|node N|status|stop" ;;
esac
