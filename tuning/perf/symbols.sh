#!/usr/bin/env bash
# Where do running ringtun workers spend their CPU? Samples the whole machine and prints, for the
# worker threads, each function's share of all samples, the kernel's functions included.
#
#   tuning/perf/symbols.sh [SECONDS]        (default 5; run it while traffic flows)
#
# Needs perf (Debian: linux-perf, Ubuntu: linux-tools) and the right to sample the kernel: root, or
# sysctl kernel.perf_event_paranoid=-1. Works without hardware counters (cpu-clock).
#
# How to read it: _copy_to_iter and _copy_from_iter are the kernel's four copies of each packet;
# checksums_valid and Split::write are ours; _raw_spin_unlock_irqrestore and finish_task_switch are
# wake-ups; swapper's idle share says how much of the machine waited.
set -euo pipefail

seconds=${1:-5}
command -v perf >/dev/null || { echo "perf is missing: apt-get install linux-perf" >&2; exit 1; }
pgrep -x ringtun >/dev/null || { echo "no ringtun is running: start one, or the demo" >&2; exit 1; }

samples=$(mktemp)
trap 'rm -f "$samples"' EXIT
perf record -F 1999 -a -g -o "$samples" -- sleep "$seconds" >/dev/null 2>&1 ||
    { echo "perf record failed: are you root, or is perf_event_paranoid too high?" >&2; exit 1; }

perf script -i "$samples" -F comm,ip,sym --no-inline 2>/dev/null | awk '
    BEGIN { RS = "" }
    {
        lines = split($0, line, "\n")
        split(line[1], head, " ")
        comm = head[1]
        $0 = line[lines > 1 ? 2 : 1]
        symbol = $2
        total++
        if (comm ~ /^worker-/) comm = "worker"
        share[comm]++
        if (comm == "worker" || comm == "swapper") count[comm " " symbol]++
    }
    END {
        for (name in share) printf "%6.2f %%  %s, all of it\n", 100 * share[name] / total, name
        for (name in count) printf "%6.2f %%  %s\n", 100 * count[name] / total, name
    }' | sort -rn | head -40
