#!/usr/bin/env bash
# Which packets are lost, where, and why? Counts for a while what ringtun dropped, by its reasons,
# what the kernel's counters of the same network namespace say, and, where its trace point is
# allowed, each packet that the kernel dropped, by reason and function.
#
#   tuning/perf/drops.sh [OPTIONS] [-- DEMO-OPTIONS]
#
#   --interface NAME   the ringtun that serves this interface, in whatever namespace
#   --pid PID          or this one; with neither, ringtun demo is started, both ends are watched
#                      under one TCP stream, and it is stopped again
#   --seconds N        how long to count (1 to 60) [default: 5]
#   --no-trace         only counters: costs nothing
#   RINGTUN=PATH       (environment) the ringtun to run the demo with [default: target/release's]
#
# Needs
#   jq                 apt-get install jq
#   perf               for the last part: apt-get install linux-perf (Ubuntu: linux-tools-generic)
#   privileges         for the last part root; the rest works for any user and a ringtun of his own
#   kernel             reasons came with 5.17; before, the last part has only functions
# No hardware counters.
#
# How to read it: nothing but what is not zero is printed.
#   ringtun            one reason a line, as in ringtun show --json; ringtun show NAME says them in
#                      words, with what to do. tun_queue_full: more is sent into the tunnel than it
#                      carries (TCP does that, a little, by nature; --txqueuelen lengthens the queue).
#                      socket_buffer_full: the worker did not come to receive in time: see
#                      wakeups.sh, and ringtun check for the buffer's size
#   notes              no drops: receives that had used up their buffers and began anew
#                      (receive_starved: usual under load), sends that were repeated packet by packet
#                      (gso_refused), packets passed on with a wrong checksum
#   counters           of the namespace the tunnel is in: every device, and UDP. dropped on send by
#                      the tunnel's device is tun_queue_full; UDP RcvbufErrors holds
#                      socket_buffer_full, and other sockets'
#   the kernel         of the whole machine: other traffic is among it. FULL_RING in tun_net_xmit:
#                      tun_queue_full. SOCKET_RCVBUFF in udp…: socket_buffer_full. QDISC_…: the
#                      device below. NO_SOCKET: nobody listens there. NETFILTER_DROP: a firewall.
#                      TCP_…, and NOT_SPECIFIED in tcp_…: TCP's housekeeping, no loss in the tunnel
set -euo pipefail
. "$(dirname "$0")/lib.sh"

trace=1

extra_option() {
    # shellcheck disable=SC2034 # parse_options reads it
    taken=1
    case $1 in
        --no-trace) trace='' ;;
        *) return 1 ;;
    esac
}

choose_trace() {
    local why=
    [ -n "$trace" ] || return 0
    if ! have perf; then
        why='perf is missing: apt-get install linux-perf (Ubuntu: linux-tools-generic)'
    elif ! has_event skb:kfree_skb; then
        why="the trace point skb:kfree_skb is out of reach: run this as root (with /sys/kernel/tracing \
mounted)"
    else
        return 0
    fi
    note "note: without the kernel's reasons: $why"
    trace=''
}

# Called by measure: the counters of each engine's network namespace, `name TAB value`.
snapshot() {
    local pid
    for pid in "${engines[@]}"; do counters "/proc/$pid/net" >"$scratch/$pid.$1.counters"; done
}

counters() {
    awk '/:/ { sub(/:/, " "); print $1 " dropped on receive\t" $5; print $1 " dropped on send\t" $13
            print $1 " errors on receive\t" $4; print $1 " errors on send\t" $12 }' "$1/dev"
    # Two lines a protocol: names, values.
    awk '$1 ~ /^(Ip|Udp):$/ { if (!($1 in seen)) { seen[$1] = $0; next }
            split(seen[$1], name)
            for (i = 2; i <= NF; i++) print $1 " " name[i] "\t" $i }' "$1/snmp" | only_losses
    # Without IPv6 there is none.
    [ ! -r "$1/snmp6" ] || sed -E 's/^(Ip6|Udp6)/\1: /' "$1/snmp6" | awk '{ print $1 " " $2 "\t" $3 }' |
        only_losses
    for family in udp udp6; do
        [ ! -r "$1/$family" ] || awk -v family="$family" '
            FNR > 1 { split($2, at, ":"); drops[at[2]] += $NF }
            END { for (port in drops) print family " socket, buffer full, port " port "\t" drops[port] }
            ' "$1/$family"
    done
    awk -v what='softnet backlog (whole machine), core ' '
        { print what FNR - 1 " dropped, hexadecimal\t" $2 }' "$1/softnet_stat"
}

only_losses() {
    awk -F'\t' '$1 ~ /^(Ip|Udp)6?: .*(Discards|Errors|NoRoutes|NoPorts|Fails)$/'
}

print_counters() {
    awk -F'\t' '
        function hex(text,    i, value) {
            for (i = 1; i <= length(text); i++)
                value = value * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
            return value
        }
        {
            value = $1 ~ /hexadecimal$/ ? hex($2) : $2
            if (FNR == NR) { before[$1] = value; next }
            name = $1
            sub(/, hexadecimal$/, "", name)
            if (match(name, /port [0-9A-F]+$/))
                name = substr(name, 1, RSTART + 4) hex(tolower(substr(name, RSTART + 5)))
            if (value > before[$1]) printf "  %10d  %s\n", value - before[$1], name
        }' "$scratch/$1.before.counters" "$scratch/$1.after.counters"
}

print_own() {
    figure "$1" '
        def total(f): [.workers[] | f] | add // 0;
        ([.workers[].drops | to_entries[]] | group_by(.key)
            | map({key: .[0].key, value: (map(.value) | add)}))
        + [{key: "tun_queue_full (by the kernel)", value: .kernel_drops.tun_queue_full},
           {key: "socket_buffer_full (by the kernel)", value: .kernel_drops.socket_buffer_full}]
        | .[] | select(.value > 0) | "\(.value)\t\(.key)"' | sort -rn |
        awk -F'\t' '{ printf "  %10d  %s\n", $1, $2 }'
}

print_notes() {
    figure "$1" '
        def total(f): [.workers[] | f] | add // 0;
        [["bad_checksums", total(.bad_checksums)], ["receive_starved", total(.receive_starved)],
         ["gso_refused", total(.gso_refused)], ["refused_handshakes", .refused_handshakes]]
        | .[] | select(.[1] > 0) | "\(.[1])\t\(.[0])"' |
        awk -F'\t' '{ printf "  %10d  %s\n", $1, $2 }'
}

# section TITLE COMMAND...: its lines, or that there are none.
section() {
    local lines
    lines=$("${@:2}")
    if [ -n "$lines" ]; then printf '%s\n%s\n' "$1" "$lines"; else echo "$1: none"; fi
}

traced() {
    perf script -i "$scratch/perf.data" -F comm,event,trace 2>"$scratch/script.log" | awk '
        {
            location = reason = "unknown"
            if (match($0, /location=[^ +]+/)) location = substr($0, RSTART + 9, RLENGTH - 9)
            if (match($0, /reason: [A-Z0-9_x]+/)) reason = substr($0, RSTART + 8, RLENGTH - 8)
            count[reason " in " location]++
        }
        END { for (key in count) printf "  %10d  %s\n", count[key], key }' | sort -rn | head -n 20
    ! grep -i 'lost' "$scratch/script.log" >&2 || note 'note: perf lost events (above): too few are shown'
}

report() {
    local pid=$1
    echo "== ${engine_name[$pid]}, $seconds s: $(figure "$pid" '
        "\([.workers[].outbound.packets] | add) packets out, \([.workers[].inbound.packets] | add) in"')"
    section 'dropped by ringtun, or at its edges' print_own "$pid"
    section 'notes of ringtun' print_notes "$pid"
    section "counters of its network namespace" print_counters "$pid"
}

parse_options "$@"
find_target
choose_trace
start_load
[ -z "$trace" ] || perf_start trace record -a -m 8M -e skb:kfree_skb -o "$scratch/perf.data"
measure
for pid in "${engines[@]}"; do report "$pid"; done
[ -n "$trace" ] || exit 0
perf_stop trace
section '== packets dropped by the kernel, the whole machine' traced
