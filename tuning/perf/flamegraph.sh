#!/usr/bin/env bash
# Where does ringtun spend its CPU time? Records the running threads with perf and writes a flame
# graph (SVG, to be opened in a browser): one tower a thread, ringtun's functions in green and, on
# top of those that called it, the kernel's in orange.
#
#   tuning/perf/flamegraph.sh [OPTIONS] [-- DEMO-OPTIONS]
#
#   --interface NAME   the ringtun that serves this interface, in whatever namespace
#   --pid PID          or this one; with neither, ringtun demo is started, both ends are recorded
#                      under one TCP stream, and it is stopped again
#   --seconds N        how long to record (1 to 60) [default: 5]
#   --output FILE      the picture [default: ringtun-flame.svg]
#   --folded FILE      keep the folded stacks too, for inferno-diff-folded
#   --frequency N      samples a second and thread (1 to 10000) [default: 999]
#   --call-graph HOW   dwarf: any release build; fp: cheaper, for a build with frame pointers, and
#                      without what the compiler inlined [default: dwarf]
#   --no-inline        leave out functions that the compiler inlined (most of the packet path)
#   RINGTUN=PATH       (environment) the ringtun to run the demo with [default: target/release's]
#
# Needs
#   perf               apt-get install linux-perf (Ubuntu: linux-tools-generic)
#   inferno            cargo install inferno
#   jq                 apt-get install jq
#   privileges         root; or sysctl kernel.perf_event_paranoid=1 (or lower) and
#                      kernel.kptr_restrict=0, for a ringtun of your own or the demo
#   symbols            cargo build --release is right as it is: it keeps the symbols and line tables
#                      that dwarf needs. For fp: RUSTFLAGS='-C force-frame-pointers=yes'
#                      cargo build --release
# Where the machine has no hardware counters (most virtual machines), cpu-clock is used instead of
# cycles, and said so in the picture.
#
# How to read it: width is time on a CPU, height is who called whom; time asleep is not in it (that
# is wakeups.sh). Click to zoom, Ctrl-F to search.
#   _copy_to_iter, _copy_from_iter   the kernel's copies of each packet, at the tun and at the socket
#   seal, open, imb_* or ring's asm  encryption; Intel's library says nothing about its callers, so
#                                    a part of it may stand beside the worker's stack, or under
#                                    [unknown]
#   Split::write, checksums_valid    our header work and checksums
#   Start::run, Outbound::seal, …    with a full path: a function of the program. Those without one,
#                                    below it in the picture, were inlined into it
#   udp_sendmsg, tun_get_user        what sends and tun writes cost; above them the receiver's way
#                                    in the kernel, when both ends are on this machine
#   _raw_spin_unlock_irqrestore, finish_task_switch
#                                    wake-ups; with cpu-clock also whatever ran with interrupts off
#                                    just before, as the sample is taken when they come on again
set -euo pipefail
. "$(dirname "$0")/lib.sh"

output=ringtun-flame.svg
folded=
frequency=999
call_graph=dwarf
inline=--inline

extra_option() {
    case $1 in
        --output) output=$(value "$@") || exit 2 ;;
        --folded) folded=$(value "$@") || exit 2 ;;
        --frequency) frequency=$(value "$@") &&
            frequency=$(whole_number "$1" "$2" 1 10000 'a second') || exit 2 ;;
        --call-graph)
            call_graph=$(value "$@") || exit 2
            [[ $call_graph =~ ^(dwarf|fp)$ ]] ||
                usage_error "--call-graph is '$call_graph': it must be dwarf or fp"
            ;;
        --no-inline) inline=--no-inline taken=1 ;;
        *) return 1 ;;
    esac
}

check_privileges() {
    if [ "$(id -u)" != 0 ] && ! [[ $(paranoid) =~ ^(-1|0|1)$ ]]; then
        die "kernel.perf_event_paranoid is $(paranoid): the kernel's half of the stacks is out of \
reach. Run this as root, or: sysctl kernel.perf_event_paranoid=1"
    fi
    # Hidden addresses read as zero.
    grep -qm1 -v '^0* ' /proc/kallsyms 2>/dev/null ||
        note 'note: the kernel hides its symbols; for names: sysctl kernel.kptr_restrict=0'
}

check_symbols() {
    local pid
    have readelf || return 0
    for pid in "${engines[@]}"; do
        readelf -SW "/proc/$pid/exe" 2>/dev/null | grep '\.symtab' >/dev/null ||
            note "note: the program of ${engine_name[$pid]} has no symbols, so its functions have no \
names: run one from cargo build --release, unstripped"
    done
}

# A frame's worth of stack for each sample: the workers' deepest stacks are well below this.
call_graph_option() { [ "$call_graph" = fp ] && echo fp || echo dwarf,16384; }

# Which thread belongs to which engine, `2378 left`.
threads() {
    local pid task
    for pid in "${engines[@]}"; do
        for task in "/proc/$pid/task/"*; do echo "${task##*/} ${engine_name[$pid]}"; done
    done
}

# Folds. A thread is called after its engine; what merely starts threads goes, and so do generic
# parameters, which would fill the picture.
fold() {
    perf script -i "$scratch/perf.data" "$inline" -F comm,pid,tid,time,event,ip,sym,dso \
        2>"$scratch/script.log" |
        inferno-collapse-perf --tid --kernel --quiet |
        sed -E 's/^([^;]*);.*__rust_begin_short_backtrace[^;]*;/\1;/' |
        awk '
            FNR == NR { engine[$1] = $2; next }
            {
                weight = $NF
                sub(/ [^ ]*$/, "")
                count = split($0, frame, ";")
                stack = frame[1]
                thread = stack
                sub(/.*\//, "", thread)
                sub(/-[^-]*$/, "", stack)
                if (thread in engine) stack = engine[thread] " " stack
                for (i = 2; i <= count; i++) {
                    name = frame[i]
                    if (name !~ /^</) sub(/<.*>/, "", name)
                    # The suffixes colour the frames.
                    stack = stack ";" name (name ~ /_\[k\]$/ ? "" : "_[j]")
                }
                print stack, weight
            }' "$scratch/threads" - >"$scratch/folded"
    [ -s "$scratch/folded" ] || die "perf took no sample: was the engine idle for $seconds s? \
$(head -n 3 "$scratch/script.log")"
}

# What a person wants to know before opening the picture: the share of each thread.
print_shares() {
    awk '
        { weight = $NF; sub(/;.*| [0-9]*$/, ""); share[$0] += weight; all += weight }
        END { for (thread in share)
            printf "%6.2f %%  %6d samples  %s\n", 100 * share[thread] / all, share[thread], thread }
        ' "$scratch/folded" | sort -rn | head -n 20
}

parse_options "$@"
find_target
need_perf
need_inferno
need_output "$output"
[ -z "$folded" ] || need_output "$folded"
check_privileges
event=cpu-clock
! has_event cycles || event=cycles
start_load
check_symbols

perf_start record record -F "$frequency" -e "$event" --call-graph "$(call_graph_option)" \
    -p "$(engine_pids)" -o "$scratch/perf.data"
threads >"$scratch/threads"
measure
perf_stop record
fold
inferno-flamegraph --quiet --colors java --truncate-text-right --title "ringtun, $(list_engines)" \
    --subtitle "$seconds s, $event at $frequency Hz, one tower a thread" \
    "$scratch/folded" >"$scratch/flame.svg"
cp "$scratch/flame.svg" "$output"
[ -z "$folded" ] || cp "$scratch/folded" "$folded"
print_shares
echo "flame graph: $output ($event; open it in a browser)${folded:+; stacks: $folded}"
