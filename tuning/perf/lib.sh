# shellcheck shell=bash
# What the scripts in this folder share: options, finding the engines, the demo as a load, one
# window of time in which everything is recorded, cleaning up. To be sourced; runs nothing.
#
#   the script sets `seconds`, defines extra_option (and snapshot, if it wants one), then calls
#   parse_options "$@" ─► find_target ─► what it needs ─► start_load ─► [perf_start …] ─► measure
#   ─► [perf_stop …] ─► its report
#
# Everything temporary is in $scratch; the demo and perf end with the script, also after Ctrl-C.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=5
wanted_name=
wanted_pid=
demo_options=()
engines=()               # process ids of what is watched
declare -A engine_name   # by process id
declare -A engine_dir    # by process id: its folder of control sockets, as seen from here
declare -A perf_pid      # by the name of a recording
declare -A perf_say perf_hear
demo_pid=
helpers=()               # process ids of whatever else must not outlive the script
scratch=

# More is no sharper, and fills the disk.
SECONDS_MAX=60
# The demo's idle part has some 1,000 packets a second, both ways together; TCP has many more.
LOAD_PACKETS_PER_SECOND=3000
# What the demo may take to begin with a measurement, and perf to answer.
PATIENCE_S=20

note() { printf '%s\n' "$*" >&2; }
die() { note "error: $*"; exit 1; }
usage_error() { note "error: $*; see --help"; exit 2; }

# The comment at the top of the script.
print_help() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; }

have() { command -v "$1" >/dev/null; }

# need PROGRAM HOW-TO-INSTALL-IT
need() { have "$1" || die "$1 is missing: $2"; }

need_inferno() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    need inferno-collapse-perf 'cargo install inferno'
    need inferno-flamegraph 'cargo install inferno'
}

# On Ubuntu perf is a script that looks for the real one of this very kernel.
need_perf() {
    need perf 'apt-get install linux-perf (Ubuntu: linux-tools-generic)'
    perf --version >/dev/null 2>&1 ||
        die "perf is there but does not run: $(perf --version 2>&1 | head -n 3 | tr '\n' ' ')"
}

# has_event EVENT...: whether perf may count it here and the machine has it.
has_event() {
    local answer event events=()
    for event in "$@"; do events+=(-e "$event"); done
    answer=$(LC_ALL=C perf stat -x, "${events[@]}" -- true 2>&1 >/dev/null) || return 1
    [[ $answer != *"not supported"* && $answer != *"not counted"* ]]
}

paranoid() { cat /proc/sys/kernel/perf_event_paranoid 2>/dev/null || echo unknown; }

# value OPTION VALUE...: the value, or an error that names the option.
value() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then usage_error "$1 needs a value"; fi
    printf '%s\n' "$2"
}

whole_number() { # OPTION VALUE LEAST MOST UNIT
    if ! [[ $2 =~ ^[0-9]{1,9}$ ]] || [ "$((10#$2))" -lt "$3" ] || [ "$((10#$2))" -gt "$4" ]; then
        usage_error "$1 is '$2': it must be a whole number from $3 to $4${5:+ ($5)}"
    fi
    echo "$((10#$2))"
}

# need_output FILE: before anything is measured for it.
need_output() {
    if [ ! -d "$(dirname "$1")" ] || [ ! -w "$(dirname "$1")" ] || [ -d "$1" ]; then
        die "cannot write $1: its folder must exist and be writable"
    fi
}

# Replaced by scripts with options of their own: returns 0 when it took OPTION, sets `taken`.
extra_option() { return 1; }

# Options that all have. An option's value is checked here, so that nothing starts in vain.
parse_options() {
    local taken
    while [ $# -gt 0 ]; do
        taken=2
        case $1 in
            -h | --help) print_help; exit 0 ;;
            --) shift; demo_options=("$@"); break ;;
            --interface) wanted_name=$(value "$@") || exit 2 ;;
            --pid) wanted_pid=$(value "$@") && wanted_pid=$(whole_number "$1" "$2" 1 99999999 '') ||
                exit 2 ;;
            --seconds) seconds=$(value "$@") &&
                seconds=$(whole_number "$1" "$2" 1 $SECONDS_MAX seconds) || exit 2 ;;
            *) extra_option "$@" || usage_error "unknown option $1" ;;
        esac
        shift "$taken"
    done
    [ -z "$wanted_name" ] || [ -z "$wanted_pid" ] ||
        usage_error '--interface and --pid exclude each other'
    [ "${#demo_options[@]}" = 0 ] || [ -z "$wanted_name$wanted_pid" ] ||
        usage_error 'what follows -- is for the demo, which runs only without --interface and --pid'
}

clean_up() {
    local pid
    for pid in "${perf_pid[@]}" "${helpers[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    stop_demo
    [ -z "$scratch" ] || rm -rf "$scratch"
}

# The demo takes its namespaces and engines with it when it is told to stop.
stop_demo() {
    local waited
    [ -n "$demo_pid" ] || return 0
    kill -TERM "$demo_pid" 2>/dev/null || true
    for ((waited = 0; waited < 100; waited++)); do
        kill -0 "$demo_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$demo_pid" 2>/dev/null || true
    wait "$demo_pid" 2>/dev/null || true
    demo_pid=
}

# What was asked for is found before anything else is looked at.
find_target() {
    need jq 'apt-get install jq'
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/ringtun-perf.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    [ -z "$wanted_name$wanted_pid" ] || find_wanted
}

# Without a target, starts the demo and waits until it is under load.
start_load() { [ -n "$wanted_name$wanted_pid" ] || start_demo; }

# ask PID ARGUMENTS...: the program that runs there is asked, so that versions always fit; its
# control socket may be in a mount namespace of its own (the demo's, a container's).
ask() {
    local pid=$1
    shift
    (
        export RINGTUN_RUN_DIR=${engine_dir[$pid]}
        exec -a ringtun timeout 10 "/proc/$pid/exe" "$@"
    )
}

status() { ask "$1" show "${engine_name[$1]}" --json; }

# find_engines [PARENT]: fills `engines` with all that run here (under that process) and answer:
# they are known by their workers.
find_engines() {
    local pid dir own name processes
    engines=()
    mapfile -t processes < <(grep -lsx 'worker-[0-9]*' /proc/[0-9]*/task/[0-9]*/comm |
        cut -d/ -f3 | sort -nu)
    for pid in "${processes[@]}"; do
        [ -z "${1:-}" ] || grep -qsx "PPid:[[:space:]]*$1" "/proc/$pid/status" || continue
        dir=$({ tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^RINGTUN_RUN_DIR=//p'; } 2>/dev/null) ||
            continue
        engine_dir[$pid]=/proc/$pid/root${dir:-/run/ringtun}
        # Its own idea of its number, which differs in a container.
        own=$(sed -n 's/^NSpid:.*[[:space:]]//p' "/proc/$pid/status" 2>/dev/null) || continue
        name=$(ask "$pid" show --json 2>/dev/null |
            jq -r --argjson own "${own:-$pid}" '.[] | select(.pid == $own) | .name' 2>/dev/null) ||
            continue
        [ -n "$name" ] || continue
        engine_name[$pid]=$name
        engines+=("$pid")
    done
}

list_engines() {
    local pid text=
    for pid in "${engines[@]}"; do text+="${text:+, }${engine_name[$pid]} (pid $pid)"; done
    echo "${text:-none}"
}

find_wanted() {
    local pid found=() running as_root='' wanted
    find_engines
    running=$(list_engines)
    [ "$(id -u)" = 0 ] || as_root=' (those of other users only root can ask)'
    for pid in "${engines[@]}"; do
        if [ "$pid" = "$wanted_pid" ] || [ "${engine_name[$pid]}" = "$wanted_name" ]; then
            found+=("$pid")
        fi
    done
    case ${#found[@]} in
        1) engines=("${found[@]}") ;;
        0)
            wanted="--pid $wanted_pid"
            [ -z "$wanted_name" ] || wanted="--interface $wanted_name"
            die "$wanted: no such ringtun. Running here$as_root: $running. Start it (ringtun up …), \
or leave the option out to measure the demo"
            ;;
        *) die "several ringtuns serve an interface named '$wanted_name': $running. Choose by --pid" ;;
    esac
}

find_program() {
    local program=${RINGTUN:-$root/target/release/ringtun}
    if [ -n "${RINGTUN:-}" ]; then
        [ -x "$program" ] || die "RINGTUN is '$program', which cannot be run"
    elif [ ! -x "$program" ]; then
        program=$(command -v ringtun) || die "there is no $root/target/release/ringtun and none in PATH: \
cargo build --release, or name one by RINGTUN=/path/to/ringtun"
    fi
    echo "$program"
}

start_demo() {
    local program deadline before=0 now
    program=$(find_program) || exit 1
    need setsid 'apt-get install util-linux'
    note "starting ringtun demo as the load; measuring when TCP flows (in about $((seconds + 5)) s)"
    # Its TCP measurement must outlast the window and the time perf takes to attach. In a session
    # of its own, as a second signal (the terminal's and ours) would keep it from cleaning up.
    setsid "$program" demo "${demo_options[@]}" --seconds "$((seconds + 3))" >"$scratch/demo.log" 2>&1 &
    demo_pid=$!
    deadline=$((SECONDS + seconds + 3 + PATIENCE_S))
    while :; do
        kill -0 "$demo_pid" 2>/dev/null || fail_demo 'ended before there was traffic'
        [ "$SECONDS" -lt "$deadline" ] || fail_demo 'did not come to its TCP measurement in time'
        sleep 0.5
        find_engines "$demo_pid"
        [ "${#engines[@]}" = 2 ] || continue
        now=$(status "${engines[0]}" 2>/dev/null |
            jq '[.workers[] | .outbound.packets + .inbound.packets] | add' 2>/dev/null) || continue
        [ "$before" = 0 ] || [ $(((now - before) * 2)) -lt "$LOAD_PACKETS_PER_SECOND" ] || break
        before=$now
    done
    pid_order
}

fail_demo() {
    tail -n 12 "$scratch/demo.log" >&2
    die "ringtun demo $1; its last lines are above"
}

# left before right: the one that sends before the one that receives.
pid_order() {
    local first=${engines[0]}
    if [ "${engine_name[$first]}" = right ]; then engines=("${engines[1]}" "$first"); fi
}

engine_pids() { local IFS=,; echo "${engines[*]}"; }

# workers PID: its workers' thread ids and names, `2378 worker-0`.
workers() {
    local task name
    for task in "/proc/$1/task/"*; do
        name=$(cat "$task/comm" 2>/dev/null) || continue
        [[ $name != worker-* ]] || echo "${task##*/} $name"
    done
}

# perf_start NAME SUBCOMMAND OPTIONS...: ready, but counts nothing before `measure`.
perf_start() {
    local name=$1 control ack say hear
    control=$scratch/$name.control ack=$scratch/$name.ack
    mkfifo "$control" "$ack"
    exec {say}<>"$control" {hear}<>"$ack"
    perf_say[$name]=$say perf_hear[$name]=$hear
    LC_ALL=C perf "$2" -D -1 --control "fifo:$control,$ack" "${@:3}" \
        >"$scratch/$name.log" 2>&1 &
    perf_pid[$name]=$!
    perf_order "$name" ping
}

# perf_order NAME ORDER: returns when perf has done it.
perf_order() {
    local name=$1 waited answer
    echo "$2" >&"${perf_say[$name]}"
    for ((waited = 0; waited < PATIENCE_S * 5; waited++)); do
        if read -r -t 0.2 answer <&"${perf_hear[$name]}"; then return; fi
        kill -0 "${perf_pid[$name]}" 2>/dev/null || break
    done
    note "${answer:-}$(grep -v '^Events' "$scratch/$name.log" | head -n 12)"
    die "perf did not start or has ended; its words are above (kernel.perf_event_paranoid is \
$(paranoid); as root everything is allowed)"
}

# perf_stop NAME: its output is complete when this returns.
perf_stop() {
    kill -INT "${perf_pid[$1]}" 2>/dev/null || true
    # Its status is that of the signal.
    wait "${perf_pid[$1]}" 2>/dev/null || true
    unset "perf_pid[$1]"
}

# Replaced by scripts that look at more: called with `before` and `after`.
snapshot() { :; }

# The window: every engine's status before and after it, perf in between.
measure() {
    local pid name packets
    note "measuring for $seconds s: $(list_engines)"
    statuses before
    for name in "${!perf_pid[@]}"; do perf_order "$name" enable; done
    snapshot before
    # In the background, so that a signal is not kept waiting.
    sleep "$seconds" &
    helpers+=($!)
    wait $!
    snapshot after
    for name in "${!perf_pid[@]}"; do perf_order "$name" disable; done
    for pid in "${engines[@]}"; do
        [ -d "/proc/$pid" ] ||
            die "the engine of ${engine_name[$pid]} (pid $pid) ended during the measurement"
    done
    statuses after
    for pid in "${engines[@]}"; do
        difference "$pid"
        packets=$(figure "$pid" '[.workers[] | .outbound.packets + .inbound.packets] | add')
        [ "$packets" -ge "$seconds" ] || note "note: ${engine_name[$pid]} carried $packets packets \
in $seconds s: send traffic through it while this runs"
    done
}

statuses() {
    local pid
    for pid in "${engines[@]}"; do
        status "$pid" >"$scratch/$pid.$1.json" ||
            die "the engine of ${engine_name[$pid]} (pid $pid) does not answer"
    done
}

# Counters become what they grew by; what is no counter loses its sense and is not used.
difference() {
    jq -n --slurpfile before "$scratch/$1.before.json" --slurpfile after "$scratch/$1.after.json" '
        def minus($a; $b):
            if ($a | type) == "number" then $a - ($b // 0)
            elif ($a | type) == "object" then $a | with_entries(.value = minus(.value; $b[.key]))
            elif ($a | type) == "array" then [range($a | length) as $i | minus($a[$i]; $b[$i])]
            else $a end;
        minus($after[0]; $before[0])' >"$scratch/$1.json"
}

# figure PID FILTER: out of what changed during the window.
figure() { jq -r "$2" "$scratch/$1.json"; }
