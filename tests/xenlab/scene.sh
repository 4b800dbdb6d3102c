# scene.sh: what the lab's tests share, to be sourced: two hosts with agents, etcd as a third party, a client outside. A test sets
# mode, interval and kind before scene_begin, and asserts with fail. Sourced scripts need `set -euo pipefail`.
# shellcheck shell=bash
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
top=$(readlink -f "$here/../..")
guest=g address=10.9.0.100 mac=00:16:3e:09:00:64
mode=periodic interval=300 kind=pvh detect=20s load=(rate=300 batch_us=20000 beacon=200 beacon_to=10.9.0.254:7777)
switch=bridge # or openvswitch: what the guest's interface is on
grace=10s # of restart_grace: agents in an emulated dom0 take their time
disk=0 # MB of the guest's second disk; its first one is its root then. Operations per second and thread on it:
disk_rate=5
san='' # not empty: both disks are in a SAN that both hosts see, and a host that is lost is switched off
patience=${HIKAE_LAB_PATIENCE:-420} # seconds for anything to come about; the lab's machine may have other work
work=$(mktemp -d)
declare -a started=()
declare -A names=([1]=a [2]=b)
test_name=${0##*/}
take_down='' # not empty: the lab is ended with the test

say() { printf '%5d s  %s\n' "$SECONDS" "$*"; }
fail() {
    echo "$test_name: $*" >&2
    exit 1
}
lab() { "$here/lab" "$@"; }
on() { timeout -k 5 180 "$here/lab" ssh "$1" "$2" </dev/null; } # HOST COMMAND
other() { echo $((3 - $1)); }

finish() {
    local status=$? pid host
    trap - EXIT
    set +e
    if ((status)); then
        for host in 1 2; do
            echo "---- host $host" >&2
            timeout 30 "$here/lab" ssh "$host" 'for f in /tmp/hikae-*.log; do echo "-- $f"; tail -n 25 $f; done; xl list; cat /tmp/status.txt' </dev/null >&2
        done
        tail -n 5 "$work"/*.log >&2
    fi
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done
    [[ ! $san ]] || kill -KILL "$san" 2>/dev/null
    [[ ! $take_down ]] || lab down
    wait 2>/dev/null
    rm -rf "$work"
    exit "$status"
}

# Asking a dom0 takes processor time from it: not often.
wait_for() { # WHAT COMMAND..
    local end=$((SECONDS + patience)) what=$1 pause=4
    shift
    [[ $1 != has_replies ]] || pause=0.5
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain for: $what"
        sleep "$pause"
    done
}

# ---- the arbiter, on the machine of the lab ----

arbiter_begin() {
    "$here/lab" outside etcd --name lab --data-dir "$work/etcd" --listen-client-urls http://10.8.0.254:2379 \
        --advertise-client-urls http://10.8.0.254:2379 --listen-peer-urls http://127.0.0.1:2380 >"$work/etcd.log" 2>&1 </dev/null &
    started+=($!)
}

# ---- the SAN, and what switches hosts off, likewise ----

san_begin() {
    [[ $san ]] || return 0
    command -v tgtd >/dev/null || fail "--shared takes Debian's package tgt; its service need not run (systemctl disable --now tgt)"
    cp --sparse=always "$(lab folder)/guest.img" "$work/lun-0"
    truncate -s "${disk}M" "$work/lun-1"
    "$here/lab" outside "$here/san" "$work/lun-0" "$work/lun-1" >"$work/san.log" 2>&1 </dev/null &
    san=$! # it does not hear SIGTERM while somebody is logged in
    : >"$work/power"
    HIKAE_LAB_POWER_LOG=$work/power "$here/lab" outside socat TCP-LISTEN:2400,bind=10.8.0.254,reuseaddr,fork "EXEC:$here/power-switch" \
        >"$work/power.log" 2>&1 </dev/null &
    started+=($!)
}
san_login() { [[ ! $san ]] || on "$1" /lab/san || fail "host $1 can't log in to the SAN: $(cat "$work/san.log")"; } # HOST

# ---- the hosts ----

# Keys are made once and kept outside, so that a host that comes back with an empty disk is the same host.
host_keys() {
    local host
    for host in 1 2; do
        on "$host" 'rm -rf /etc/hikae /var/lib/hikae; mkdir -p /etc/hikae; /opt/hikae/bin/hikae init --name x >/dev/null'
        on "$host" 'tar -C /etc -c hikae' >"$work/$host.tar"
        on "$host" '/opt/hikae/bin/hikae fingerprint' | grep -o '[0-9a-f]\{64\}' | head -n 1 >"$work/$host.print"
    done
}

host_configure() { # HOST
    local peer disks='' fence=''
    peer=$(other "$1")
    lab ssh "$1" "tar -C /etc -x" <"$work/$1.tar"
    # Host a has disks that its section names, host b those that are made for a replica.
    ((!disk || $1 != 1)) || disks="disk = /lab/disks/$guest-0.img /lab/disks/$guest-1.img"
    [[ ! $san ]] || disks='shared_disk = /dev/san0 /dev/san1' fence='fence = /lab/power-off'
    lab ssh "$1" "cat >/etc/hikae/hikae.conf" <<END
[host]
name = ${names[$1]}
listen = 192.168.77.$1
arbiter = etcd:http://10.8.0.254:2379
detect = $detect
worker_bound = 60s
pause_bound = 60s
restart_grace = $grace
$fence

[peer ${names[$peer]}]
address = 192.168.77.$peer
fingerprint = $(cat "$work/$peer.print")
accept = *

[vm $guest]
backend = xen
mode = $mode
interval = $interval
max_interval = $interval
$disks
END
}

# After each boot: as the lab's hosts start they have a Linux bridge.
host_switch() { # HOST
    [[ $switch != openvswitch ]] || on "$1" /lab/openvswitch
}

agents_start() { # HOST
    on "$1" 'for p in primary secondary; do
        [ ! -e /tmp/hikae-$p.pid ] || ! kill -0 $(cat /tmp/hikae-$p.pid) 2>/dev/null || continue
        setsid /opt/hikae/bin/hikae-$p >>/tmp/hikae-$p.log 2>&1 </dev/null & echo $! >/tmp/hikae-$p.pid; done'
}

# All of ours at once, workers included, as a crash of everything would.
agents_kill() { # HOST
    on "$1" 'for f in /proc/[0-9]*/comm; do case $(cat $f 2>/dev/null) in hikae-*) p=${f#/proc/}; kill -9 ${p%/comm};; esac; done; true'
}

agents_answer() { on "$1" '/opt/hikae/bin/hikae --json status >/dev/null 2>&1'; }

# Both hosts up with programs and keys, agents not started.
hosts_prepare() {
    local host
    lab deploy
    host_keys
    for host in 1 2; do
        host_configure "$host"
        host_switch "$host"
        san_login "$host"
        agents_start "$host"
    done
    for host in 1 2; do wait_for "the agents on host $host" agents_answer "$host"; done
}

# A host that was killed comes back: with its disk (reboot) or as one that was installed anew (fresh).
host_back() { # HOST fresh|reboot
    if [[ $2 == fresh ]]; then
        lab up "$1" >"$work/up.log" 2>&1
        lab deploy release "$1"
        host_configure "$1"
        ((!disk)) || [[ $san ]] || on "$1" "mkdir /lab/disks; truncate -s 64M /lab/disks/$guest-0.img; truncate -s ${disk}M /lab/disks/$guest-1.img"
    else
        lab reboot "$1" >"$work/up.log" 2>&1
        check_store "$1"
    fi
    host_switch "$1"
    san_login "$1"
    agents_start "$1"
    wait_for "the agents on host $1" agents_answer "$1"
}

# ---- the VM ----

status() { on "$1" '/opt/hikae/bin/hikae --json status 2>/dev/null | tee /tmp/status.txt' 2>/dev/null || true; }
field() { grep -o "\"$1\": *\"\?[^\",}]*" | head -n 1 | sed 's/^"[^"]*": *"\{0,1\}//'; } # KEY <JSON
is_up() { [[ $(lab status) == *"host $1: process"* ]]; } # HOST
is_protected() { [[ $(status "$1") == *'"PROTECTED"'* ]]; }
domains() { on "$1" "xl list | sed 1,2d"; }            # HOST: all but dom0
hikae() { on "$1" "/opt/hikae/bin/hikae ${*:2}"; }      # HOST WORDS..

# ---- the client ----

client_begin() {
    coproc CLIENT { exec "$here/lab" outside "$top/build/release/bin/lab-client" "$address" "$mac" lan.1 lan.2 $( ((!disk)) || echo disks) \
        2>"$work/client.log"; }
    started+=("$CLIENT_PID")
    exec 7<&"${CLIENT[0]}" 8>&"${CLIENT[1]}"
}
client() { # report|mark
    local line
    echo "$1" >&8
    read -r -t 30 line <&7 || fail "the client outside does not answer: $(cat "$work/client.log")"
    echo "$line"
}
replies() { client report | field replies; }
has_replies() { (($(replies) > $1)); }

# Everything that must never be, so far.
check_client() {
    local line key
    line=$(client report)
    for key in client_errors memory_errors output_violations overlooked disk_errors database_errors; do
        [[ $(field "$key" <<<"$line") == 0 ]] || fail "the client outside: $key: $line"
    done
}
# The guest answers now: more than before, on the connection of the beginning.
check_alive() {
    local before
    before=$(replies)
    wait_for "answers of the guest" has_replies $((before + 20))
    check_client
}

# The guest reads all that it has written, and knows what must be there.
check_disks() {
    local before
    ((disk)) || return 0
    before=$(client verify)
    verified_at=$(field disk_verified <<<"$before") checked_at=$(field database_checked <<<"$before")
    wait_for "the guest's word about its disks" has_read_disks
    check_client
}
has_read_disks() {
    local now
    now=$(client report)
    (($(field disk_verified <<<"$now") > verified_at && $(field database_checked <<<"$now") > checked_at))
}

# What the power loss of a host has left of the root's file system: by its journal it must become whole. On a copy.
check_store() { # HOST
    local image=/var/lib/hikae/images/$guest-0.img
    ((disk)) && [[ ! $san ]] || return 0
    ((${1} != 1)) || image=/lab/disks/$guest-0.img
    on "$1" "cp --sparse=always $image /tmp/fsck.img && { e2fsck -fp /tmp/fsck.img >/tmp/fsck.log 2>&1 || [ \$? = 1 ]; } &&
        e2fsck -fn /tmp/fsck.img >>/tmp/fsck.log 2>&1; status=\$?; rm -f /tmp/fsck.img; [ \$status = 0 ] || cat /tmp/fsck.log; exit \$status" ||
        fail "the file system on the disk that host $1 had when it was lost"
}

# Likewise of disks in a SAN, as a loss of both hosts would leave them: to be called before the other host has taken the guest over.
check_luns() {
    [[ $san ]] || return 0
    sleep 1 # what was on its way
    cp --sparse=always "$work/lun-0" "$work/fsck.img"
    e2fsck -fp "$work/fsck.img" >"$work/fsck.log" 2>&1 || (($? == 1)) || fail "the file system in the SAN: $(cat "$work/fsck.log")"
    e2fsck -fn "$work/fsck.img" >"$work/fsck.log" 2>&1 || fail "the file system in the SAN: $(cat "$work/fsck.log")"
}

# ---- begin ----

scene_begin() {
    trap finish EXIT
    [[ -x $top/build/release/bin/lab-client ]] || fail "nothing is built: ./dev build release"
    lab down
    lab up
    arbiter_begin
    san_begin
    hosts_prepare
    [[ $switch != openvswitch ]] || load+=(vif=bridge=ovsbr0,script=vif-openvswitch)
    [[ $kind != hvm ]] || disk_rate=1 # each command to an IDE disk is some twenty accesses to ports, and each of those leaves the guest
    [[ ! $san ]] || load+=(stores=san)
    ((!disk)) || load+=("disk=$disk" "disk_rate=$disk_rate" "disk_blocks=$((disk * 256))")
    lab guest 1 "$guest" "$kind" "${load[@]}"
    client_begin
    wait_for "the guest's first answers" has_replies 20
    hikae 1 protect "$guest" --to b --no-wait
    wait_for "the first epoch" is_protected 1
}
