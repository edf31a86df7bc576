#!/usr/bin/env bash
# What does the whole machine do while ringtun works? Samples all CPUs and prints, for the workers
# and for the idle task, each function's share of all samples, the kernel's functions included.
#
#   tuning/perf/symbols.sh [OPTIONS] [-- DEMO-OPTIONS]
#
#   --interface NAME   the ringtun that serves this interface, in whatever namespace
#   --pid PID          or this one; with neither, ringtun demo is started, both ends are watched
#                      under one TCP stream, and it is stopped again
#   --seconds N        how long to sample (1 to 60) [default: 5]
#   RINGTUN=PATH       (environment) the ringtun to run the demo with [default: target/release's]
#
# Needs
#   perf               apt-get install linux-perf (Ubuntu: linux-tools-generic)
#   jq                 apt-get install jq
#   privileges         root, or sysctl kernel.perf_event_paranoid=0 kernel.kptr_restrict=0
# Without hardware counters it works by cpu-clock.
#
# How to read it: _copy_to_iter and _copy_from_iter are the kernel's four copies of each packet;
# checksums_valid and Split::write are ours; _raw_spin_unlock_irqrestore and finish_task_switch are
# wake-ups; swapper's share says how much of the machine waited. Who called what: flamegraph.sh.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

parse_options "$@"
find_target
need_perf
if [ "$(id -u)" != 0 ] && [ "$(paranoid)" != -1 ] && [ "$(paranoid)" != 0 ]; then
    die "kernel.perf_event_paranoid is $(paranoid): the whole machine is out of reach. Run this as \
root, or: sysctl kernel.perf_event_paranoid=0"
fi
event=cpu-clock
! has_event cycles || event=cycles
start_load

for pid in "${engines[@]}"; do workers "$pid"; done >"$scratch/workers"
perf_start record record -F 1999 -a -g -e "$event" -o "$scratch/perf.data"
measure
perf_stop record

perf script -i "$scratch/perf.data" -F comm,tid,ip,sym --no-inline 2>/dev/null | awk '
    FNR == NR { worker[$1]; next }
    # A sample is a line with the thread, then its stack, indented, innermost first.
    /^[^\t]/ {
        name = $NF in worker ? "worker" : $1
        innermost = 1
        next
    }
    innermost && NF {
        innermost = 0
        total++
        share[name]++
        sub(/^[[:space:]]*[0-9a-f]+ /, "")
        if (name == "worker" || name == "swapper") count[name " " $0]++
    }
    END {
        for (name in share) printf "%6.2f %%  %s, all of it\n", 100 * share[name] / total, name
        for (name in count) printf "%6.2f %%  %s\n", 100 * count[name] / total, name
    }' "$scratch/workers" - | sort -rn >"$scratch/shares"
[ -s "$scratch/shares" ] || die 'perf took no sample'
echo "shares of all samples on all CPUs, $seconds s, by $event"
head -n 40 "$scratch/shares"
