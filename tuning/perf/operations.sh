#!/usr/bin/env bash
# How much work is a packet? Counts the workers' system calls and io_uring operations and divides
# them by the packets that ringtun says it carried in the same time.
#
#   tuning/perf/operations.sh [OPTIONS] [-- DEMO-OPTIONS]
#
#   --interface NAME   the ringtun that serves this interface, in whatever namespace
#   --pid PID          or this one; with neither, ringtun demo is started, both ends are counted
#                      under one TCP stream, and it is stopped again
#   --seconds N        how long to count (1 to 60) [default: 5]
#   --no-opcodes       only count: leave out the tables by opcode, for which every operation is
#                      recorded
#   --strace           count by strace, as is done where perf may not
#   RINGTUN=PATH       (environment) the ringtun to run the demo with [default: target/release's]
#
# Needs
#   jq                 apt-get install jq
#   perf               apt-get install linux-perf (Ubuntu: linux-tools-generic)
#   privileges         root, for the kernel's trace points (in /sys/kernel/tracing). Without them,
#                      strace (apt-get install strace) counts system calls of a ringtun of your own,
#                      but slows the workers down, up to four times; io_uring's operations stay unknown
# No hardware counters.
#
# How to read it:
#   packets, batches   ringtun's own figures: how many wire packets one tun read, one UDP send, one
#                      UDP receive, one tun write holds. Near 45: full batches. Near 1: offloads are
#                      off or refused (ringtun show), or the traffic is single packets
#   system calls       with io_uring one io_uring_enter a turn should be nearly all. More packets in
#                      each: the busier the worker. `not listed`: any other system call; there should
#                      be none
#   submitted          SENDMSG and WRITEV are one a batch. A multishot READ or RECVMSG is submitted
#                      once and completes until its buffers are used up (ENOBUFS): of full batches
#                      only two or three are lent at a time, of small items many more
#   completions        by kind, with the bytes that one carries and how many ended with an error
#   punted             operations that the kernel gave to a thread of its own: should be none
#   overflowed         completions that found no room: should be none
set -euo pipefail
. "$(dirname "$0")/lib.sh"

opcodes=1
by=perf

# What the packet path and its edges call; the rest shows up as `not listed`.
CALLS=(io_uring_enter read write readv writev recvmsg sendmsg recvmmsg sendmmsg recvfrom sendto
    epoll_wait epoll_pwait epoll_ctl poll ppoll futex sched_yield clock_nanosleep)

extra_option() {
    taken=1
    case $1 in
        --no-opcodes) opcodes='' ;;
        --strace) by=strace ;;
        *) return 1 ;;
    esac
}

tracefs() {
    local folder
    for folder in /sys/kernel/tracing /sys/kernel/debug/tracing; do
        if [ -d "$folder/events/syscalls" ]; then echo "$folder"; return; fi
    done
    return 1
}

# Falls back to strace, and from there to ringtun's own figures, and says why.
choose_counter() {
    local why=
    if [ "$by" = perf ]; then
        if ! have perf; then
            why='perf is missing: apt-get install linux-perf (Ubuntu: linux-tools-generic)'
        elif ! tracefs >/dev/null || ! has_event raw_syscalls:sys_enter io_uring:io_uring_submit_req; then
            why="the kernel's trace points are out of reach: run this as root, with /sys/kernel/tracing \
mounted"
        else
            return 0
        fi
        note "note: not by perf: $why"
        by=strace
    fi
    if have strace; then
        note 'note: strace slows the workers down; rates are not what they are without it'
    else
        note "note: nor by strace, which is missing: apt-get install strace; only ringtun's own figures"
        by=none
    fi
}

all_workers() {
    local pid
    for pid in "${engines[@]}"; do workers "$pid" | sed "s/\$/ $pid/"; done
}

task_list() { cut -d' ' -f1 "$scratch/workers" | paste -sd"$1"; }

start_perf() {
    local folder call events=(-e raw_syscalls:sys_enter)
    folder=$(tracefs)
    for call in "${CALLS[@]}"; do
        [ ! -d "$folder/events/syscalls/sys_enter_$call" ] || events+=(-e "syscalls:sys_enter_$call")
    done
    for call in io_uring_queue_async_work io_uring_cqe_overflow; do
        [ ! -d "$folder/events/io_uring/$call" ] || events+=(-e "io_uring:$call")
    done
    perf_start count stat -x, --per-thread "${events[@]}" -t "$(task_list ,)" -o "$scratch/counts"
    [ -z "$opcodes" ] || perf_start opcodes record -m 8M -t "$(task_list ,)" \
        -e io_uring:io_uring_submit_req -e io_uring:io_uring_complete -o "$scratch/perf.data"
}

# Called by measure: strace has no switch to begin at, so it is attached within the window.
snapshot() {
    local pid
    [ "$by" = strace ] || return 0
    if [ "$1" = before ]; then
        for pid in "${engines[@]}"; do
            # shellcheck disable=SC2046
            strace -c -U calls,name -o "$scratch/$pid.strace" $(workers "$pid" | sed 's/^/-p /; s/ worker.*//') \
                2>"$scratch/$pid.strace.log" &
            strace_pid[pid]=$!
            helpers+=($!)
        done
    else
        for pid in "${engines[@]}"; do
            kill -INT "${strace_pid[pid]}" 2>/dev/null ||
                die "strace ended: $(head -n 2 "$scratch/$pid.strace.log")"
            wait "${strace_pid[pid]}" 2>/dev/null || true
        done
    fi
}
strace_pid=()

print_own() {
    figure "$1" "$(printf '%s' "def sum(f): [.workers[] | f] | add;"'
        def each(a; b): if b == 0 then "-" else (a / b * 10 | round / 10 | tostring) end;
        "packets        \(sum(.outbound.packets)) out, \(sum(.inbound.packets)) in\n" +
        "batches        out: \(each(sum(.outbound.packets); sum(.outbound.reads))) packets a tun read, " +
        "\(each(sum(.outbound.packets); sum(.outbound.writes))) a UDP send; " +
        "in: \(each(sum(.inbound.packets); sum(.inbound.reads))) a UDP receive, " +
        "\(each(sum(.inbound.packets); sum(.inbound.writes))) a tun write\n" +
        "turns          \(sum(.turns)), \(each(sum(.outbound.packets + .inbound.packets);
            sum(.turns))) packets each"')"
}

# table TITLE FILE: lines `count TAB name [TAB extra]`, against the packets.
table() {
    sort -t"$(printf '\t')" -k1,1nr "$2" | awk -F'\t' -v title="$1" -v n="$seconds" \
        -v packets="$packets" '
        $1 > 0 {
            if (!titled++)
                printf "%-34s %12s %10s %14s\n", title, "a second", "a packet", "packets each"
            printf "  %-32s %12.0f %10.5f %14.1f%s\n", $2, $1 / n, packets ? $1 / packets : 0,
                packets / $1, $3 == "" ? "" : "  " $3
        }
        END { if (!titled) print title ": none" }'
}

# The counts of one engine as `count TAB name`.
calls_by_perf() {
    awk -F, -v pid="$1" '
        FNR == NR { split($0, part, " "); of[part[1]] = part[3]; next }
        {
            task = $1
            sub(/.*-/, "", task)
            if (of[task] != pid || $2 !~ /^[0-9]+$/) next
            name = $4
            if (name == "raw_syscalls:sys_enter") { rest += $2; next }
            if (sub(/^syscalls:sys_enter_/, "", name)) { rest -= $2 }
            else if (name ~ /async_work/) name = "(punted)"
            else if (name ~ /overflow/) name = "(overflowed)"
            count[name] += $2
        }
        END { count["not listed"] = rest; for (name in count) print count[name] "\t" name }
        ' "$scratch/workers" "$scratch/counts"
}

calls_by_strace() {
    awk '$1 ~ /^[0-9]+$/ && $NF != "total" { print $1 "\t" $NF }' "$scratch/$1.strace"
}

# The kinds are those of `Kind` in dataplane/src/ring/uring.rs, in the upper half of user_data.
read_opcodes() {
    perf script -i "$scratch/perf.data" -F tid,event,trace 2>"$scratch/script.log" | awk '
        FNR == NR { of[$1] = $3; next }
        !($1 in of) { next }
        match($0, /opcode [A-Z0-9_]+/) {
            submitted[of[$1] "\t" substr($0, RSTART + 7, RLENGTH - 7)]++
            next
        }
        match($0, /user_data 0x[0-9a-f]+/) {
            data = substr($0, RSTART + 12, RLENGTH - 12)
            kind = length(data) > 8 ? substr(data, 1, length(data) - 8) : "0"
            key = of[$1] "\t" (kind in word ? word[kind] : "other")
            match($0, /result -?[0-9]+/)
            result = substr($0, RSTART + 7, RLENGTH - 7) + 0
            completed[key]++
            if (result >= 0) { bytes[key] += result; good[key]++ }
            else refused[key "\t" errno(-result)]++
        }
        function errno(number) { return number in named ? named[number] : "errno " number }
        BEGIN {
            named[11] = "EAGAIN"; named[90] = "EMSGSIZE"; named[105] = "ENOBUFS"
            named[125] = "ECANCELED"
            word["1"] = "tun read (multishot)"; word["2"] = "tun read (single)"
            word["3"] = "UDP receive"; word["4"] = "poll"
            word["5"] = "UDP send"; word["6"] = "tun write"
        }
        END {
            for (key in submitted) print "submitted\t" submitted[key] "\t" key
            for (key in completed) {
                extra = key ~ /poll$/ || !good[key] ? "" : \
                    sprintf("%.0f bytes each", bytes[key] / good[key])
                for (one in refused) if (index(one, key "\t") == 1)
                    extra = extra (extra ? ", " : "") refused[one] " × " substr(one, length(key) + 2)
                print "completed\t" completed[key] "\t" key "\t" extra
            }
        }' "$scratch/workers" - >"$scratch/opcodes"
    ! grep -i 'lost' "$scratch/script.log" >&2 ||
        note 'note: perf lost events (above): the tables by opcode are too low; try --no-opcodes'
}

opcodes_of() { # submitted|completed PID
    awk -F'\t' -v what="$1" -v pid="$2" \
        '$1 == what && $3 == pid { print $2 "\t" $4 "\t" $5 }' "$scratch/opcodes"
}

report() {
    local pid=$1
    packets=$(figure "$pid" '[.workers[] | .outbound.packets + .inbound.packets] | add')
    echo "== ${engine_name[$pid]}, $seconds s"
    print_own "$pid"
    [ "$by" != none ] || return 0
    "calls_by_$by" "$pid" >"$scratch/calls"
    table "system calls (by $by)" "$scratch/calls"
    [ "$by" = perf ] && [ -n "$opcodes" ] || return 0
    opcodes_of submitted "$pid" >"$scratch/submitted"
    opcodes_of completed "$pid" >"$scratch/completed"
    table 'io_uring operations submitted' "$scratch/submitted"
    table 'io_uring completions' "$scratch/completed"
}

parse_options "$@"
find_target
choose_counter
start_load
all_workers >"$scratch/workers"
[ "$by" != perf ] || start_perf
measure
if [ "$by" = perf ]; then
    perf_stop count
    [ -z "$opcodes" ] || { perf_stop opcodes; read_opcodes; }
fi
for pid in "${engines[@]}"; do report "$pid"; done
