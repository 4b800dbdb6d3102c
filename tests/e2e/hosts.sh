# hosts.sh: what the tests in hikae-demo's hosts share, to be sourced: real agents and a real VM on two hosts, which are namespaces of
# this machine. A test sets `demo`, the program, and test_name; hosts_begin makes the folder `dir`, begin the hosts, hosts_end ends all.
# Sourced scripts need `set -euo pipefail`.
# shellcheck shell=bash disable=SC2154,SC2034,SC2046,SC2086
demo_pid=

hosts_begin() {
    bin=$(dirname "$demo")
    dir=$(mktemp -d "${TMPDIR:-/tmp}/hikae-scene-XXXXXX")
}

hosts_end() { # STATUS
    [[ ! $demo_pid ]] || { kill "$demo_pid" && wait "$demo_pid"; } 2>/dev/null || true
    (($1 == 0)) || tail -n 40 "$dir"/out "$dir"/host-*/{primary,secondary}.log >&2 || true
    rm -rf "$dir"
    exit "$1"
}

fail() { echo "$test_name: $*" >&2; exit 1; }

wait_for() { # SECONDS COMMAND..
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain for: $*"
        sleep 0.2
    done
}

# The way into the sandbox and into a host, as the demo says it.
inside() { nsenter $(sed -n 's/.*the network: *nsenter //p' "$dir/out") "$@"; }
on() { # HOST COMMAND..
    local way
    way=$(sed -n "s/.*$1: *nsenter \(.*\)config:.*/\1/p" "$dir/out" | tail -n 1)
    shift
    nsenter $way "$@"
}

status() { inside "$bin/hikae" --config "$dir/$1/hikae.conf" --json status 2>/dev/null || true; }
has() { [[ $(status "$1") == *"$2"* ]]; }
is_protected() { has "$1" '"PROTECTED"'; }
# The host that runs it and whose VM is protected now.
runner() {
    local host
    for host in host-a host-b; do
        ! is_protected "$host" || echo "$host"
    done
}
other_of() { [[ $1 == host-a ]] && echo host-b || echo host-a; }

# How many QEMUs live on that host.
machines() { on "$1" sh -c 'cat /proc/[0-9]*/comm 2>/dev/null' | grep -c qemu-system || true; }

# A signal to the processes of that host whose command line begins so; there must be one.
hit() { # SIGNAL HOST PATTERN
    local hit
    hit=$(on "$2" sh -c '
        for p in /proc/[0-9]*; do
            if tr "\0" " " <$p/cmdline 2>/dev/null | grep -q "$2" && [ ${p#/proc/} != $$ ]; then kill -$1 ${p#/proc/} && echo hit; fi
        done' sh "$1" "$3")
    [[ $hit ]] || fail "$2 has no process like $3"
}
slay() { hit KILL "$@"; }

# The hosts, and the VM protected. What is written to descriptor 3 the demo reads as its orders.
begin() { # OPTION OF HIKAE-DEMO..
    : >"$dir/out"
    mkfifo "$dir/in"
    # Opened for both: no end of file, and no waiting for the other side.
    exec 3<>"$dir/in"
    "$demo" --hosts-only --dir "$dir" "$@" <&3 >"$dir/out" 2>&1 &
    demo_pid=$!
    wait_for 120 grep -q "Lines on stdin" "$dir/out"
    is_protected host-a || wait_for 60 is_protected host-a
}
