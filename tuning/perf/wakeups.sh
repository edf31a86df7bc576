#!/usr/bin/env bash
# How do the workers sleep and wake? For each worker: its time on a CPU, waiting for one, and
# asleep; wake-ups a second and packets a wake-up. Where the kernel's scheduler may be traced, also
# what woke it, how long it then waited for a CPU, and where it slept; as a flame graph of the time
# off the CPU, if one is asked for.
#
#   tuning/perf/wakeups.sh [OPTIONS] [-- DEMO-OPTIONS]
#
#   --interface NAME   the ringtun that serves this interface, in whatever namespace
#   --pid PID          or this one; with neither, ringtun demo is started, both ends are watched
#                      under one TCP stream, and it is stopped again
#   --seconds N        how long to watch (1 to 60) [default: 5]
#   --output FILE      write the time off the CPU as a flame graph (SVG); needs tracing
#   --no-trace         only what /proc tells: costs the workers nothing
#   RINGTUN=PATH       (environment) the ringtun to run the demo with [default: target/release's]
#
# Needs
#   jq                 apt-get install jq
#   perf               for the second half: apt-get install linux-perf (Ubuntu: linux-tools-generic)
#   privileges         for the second half root, as it follows all of the machine's threads; the
#                      first half works for any user and a ringtun of his own
#   inferno            for --output: cargo install inferno
# No hardware counters.
#
# How to read it:
#   on a CPU           near 100 %: this worker is the limit; flamegraph.sh says with what
#   waiting for one    it could run and was not let: too few cores for what runs here, or another
#                      thread on the core it is pinned to. The first thing to look for when round
#                      trips under load are long
#   wake-ups/s         each costs a switch and, on an idle core, an interrupt. Many with few packets
#                      each: the load is light, or every packet comes alone
#   woken by           tun_net_xmit: a packet was sent into the tunnel; __udp_enqueue_schedule_skb:
#                      datagrams came from the network; otherwise the kernel's function that did it
#   then waited        from being woken to running, in microseconds
#   preempted          put aside though it had work. In (irqentry_)exit_to_user_mode…: on the way
#                      out of the kernel, as its time slice was over or another thread more due
set -euo pipefail
. "$(dirname "$0")/lib.sh"

output=
trace=1

extra_option() {
    case $1 in
        --output) output=$(value "$@") || exit 2 ;;
        --no-trace) trace='' taken=1 ;;
        *) return 1 ;;
    esac
}

# Decides whether the scheduler can be traced, and says why not.
choose_trace() {
    local why=
    [ -n "$trace" ] || return 0
    if ! have perf; then
        why='perf is missing: apt-get install linux-perf (Ubuntu: linux-tools-generic)'
    elif ! perf --version >/dev/null 2>&1; then
        why='perf does not run: is it the one for this kernel?'
    elif ! has_event sched:sched_switch sched:sched_waking; then
        why="the scheduler's trace points are out of reach: run this as root (with /sys/kernel/tracing \
mounted)"
    else
        return 0
    fi
    [ -z "$output" ] || die "--output needs to trace the scheduler: $why"
    note "note: only what /proc tells: $why"
    trace=
}

# `2378 left worker-0` for every worker.
name_workers() {
    local pid
    for pid in "${engines[@]}"; do
        workers "$pid" | while read -r task name; do
            echo "$task ${engine_name[$pid]} $name $pid"
        done
    done
}

# Called by measure. One line a worker: its id, ns on a CPU, ns waiting for one, sleeps, preemptions.
snapshot() {
    local task pid run wait slices
    date +%s%N >"$scratch/$1.time"
    while read -r task _ _ pid; do
        read -r run wait slices <"/proc/$pid/task/$task/schedstat" 2>/dev/null || continue
        : "$slices"
        awk -v task="$task" -v run="$run" -v wait="$wait" '
            /^voluntary_ctxt_switches/ { sleeps = $2 }
            /^nonvoluntary_ctxt_switches/ { preempted = $2 }
            END { print task, run, wait, sleeps, preempted }' "/proc/$pid/task/$task/status"
    done <"$scratch/workers" >"$scratch/$1.tasks"
}

print_times() {
    local pid
    for pid in "${engines[@]}"; do
        figure "$pid" "\"$pid worker-\" as \$name | .workers | to_entries[] |
            \$name + (.key | tostring) + \" \" +
            (.value.outbound.packets + .value.inbound.packets | tostring)"
    done >"$scratch/packets"
    awk -v ns="$(($(cat "$scratch/after.time") - $(cat "$scratch/before.time")))" '
        FILENAME ~ /packets$/ { packets[$1 " " $2] = $3; next }
        FILENAME ~ /workers$/ { name[$1] = $2 " " $3; of[$1] = packets[$4 " " $3]; next }
        FILENAME ~ /before.tasks$/ { run[$1] = $2; wait[$1] = $3; sleeps[$1] = $4; cut[$1] = $5; next }
        !titled++ { printf "%-18s %8s %11s %8s %11s %11s %12s\n", "worker", "on a CPU", "waiting for",
            "asleep", "wake-ups/s", "preempted/s", "packets a"
            printf "%-18s %8s %11s %8s %11s %11s %12s\n", "", "", "one", "", "", "", "wake-up" }
        $1 in run {
            on = ($2 - run[$1]) / ns; waits = ($3 - wait[$1]) / ns; slept = $4 - sleeps[$1]
            asleep = 1 - on - waits
            printf "%-18s %6.1f %% %9.1f %% %6.1f %% %11.0f %11.0f %12s\n", name[$1], 100 * on,
                100 * waits, 100 * (asleep > 0 ? asleep : 0), slept * 1e9 / ns,
                ($5 - cut[$1]) * 1e9 / ns, slept ? sprintf("%.1f", of[$1] / slept) : "-"
        }' "$scratch"/{packets,workers,before.tasks,after.tasks}
}

start_trace() {
    local task switches='' wakes=''
    while read -r task _; do
        switches+="${switches:+||}prev_pid==$task||next_pid==$task"
        wakes+="${wakes:+||}pid==$task"
    done <"$scratch/workers"
    # Only the kernel's half of the stacks: a worker sleeps in few places, all of them there.
    perf_start trace record -a --call-graph fp --kernel-callchains \
        -e sched:sched_switch --filter "$switches" -e sched:sched_waking --filter "$wakes" \
        -o "$scratch/perf.data"
}

# From switches and wake-ups to spells off the CPU. Writes, a line each,
#   spell ENGINE WORKER how microseconds-asleep microseconds-waiting where; the stack
read_trace() {
    perf script -i "$scratch/perf.data" -F comm,tid,cpu,time,event,trace,ip,sym \
        2>"$scratch/script.log" >"$scratch/script"
    ! grep -i 'lost' "$scratch/script.log" >&2 ||
        note 'note: perf lost events (above): counts by cause are too low'
    awk -f "$(dirname "$0")/wakeups.awk" "$scratch/workers" "$scratch/script" >"$scratch/spells"
}

# shares TITLE FIELD FILTER: how often each value of a field occurs, by worker.
shares() {
    awk -v title="$1" -v field="$2" -v kind="$3" '
        kind == "" || $1 == kind { n[$2 " " $3]++; count[$2 " " $3 "\t" $field]++ }
        END { for (key in count) { split(key, part, "\t")
            printf "%s\t%s\t%d\t%.0f\n", part[1], part[2], count[key],
                100 * count[key] / n[part[1]] } }' "$scratch/spells" | sort -t"$(printf '\t')" -k1,1 -k3,3nr |
        awk -F'\t' -v title="$1" '
            $1 != last { printf "%s%-18s %-12s", (last == "" ? "" : "\n"), $1, title; last = $1; shown = 0 }
            shown++ < 4 && $4 > 0 { printf "%s %s %d %%", (shown > 1 ? "," : ""), $2, $4 }
            END { if (last != "") print "" }'
}

print_waits() {
    local engine worker
    while read -r _ engine worker _; do
        awk -v e="$engine" -v w="$worker" '$1 == "asleep" && $2 == e && $3 == w { print $5 }' \
            "$scratch/spells" | sort -n | awk -v name="$engine $worker" '
                { us[NR] = $1; sum += $1 }
                function within(share) { return us[int((NR - 1) * share) + 1] }
                END { if (NR) printf "%-18s then waited  mean %.0f µs, half within %.0f, " \
                    "99 %% within %.0f, longest %.0f\n", name, sum / NR, within(0.5), within(0.99),
                    us[NR] }'
    done <"$scratch/workers"
}

write_picture() {
    [ -n "$output" ] || return 0
    awk -F'\t' '{ split($1, head, " ")
        print head[2] " " head[3] ";" head[1] ";" $2, int(head[4] + head[5] + 0.5) }' \
        "$scratch/spells" | awk '$NF > 0' |
        inferno-flamegraph --quiet --colors blue --truncate-text-right --countname µs \
            --title "ringtun off the CPU, $(list_engines)" --subtitle "$seconds s" >"$scratch/off.svg"
    cp "$scratch/off.svg" "$output"
    echo "time off the CPU: $output"
}

parse_options "$@"
[ -z "$output" ] || [ -n "$trace" ] || usage_error '--output and --no-trace exclude each other'
find_target
[ -z "$output" ] || need_inferno
[ -z "$output" ] || need_output "$output"
choose_trace
start_load
name_workers >"$scratch/workers"
[ -z "$trace" ] || start_trace
measure
print_times
[ -n "$trace" ] || exit 0
perf_stop trace
read_trace
echo
shares 'woken by' 6 asleep
print_waits
shares 'slept in' 7 asleep
shares 'preempted in' 7 preempted
write_picture
