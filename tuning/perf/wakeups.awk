# Reads the workers (`TID ENGINE WORKER …`), then what perf script says of sched_switch and
# sched_waking with the kernel's stacks. Writes each spell a worker spent off the CPU:
#
#   asleep|preempted ENGINE WORKER µs-asleep µs-waiting-for-a-CPU woken-by off-in TAB stack
#
# A spell whose beginning is not in the trace is left out.

FNR == NR { name[$1] = $2 " " $3; next }

/ sched:sched_(switch|waking): / { begin(); next }
/^[[:space:]]+[0-9a-f]+ / { if (kind != "") { frame[++frames] = $2 } next }
/^$/ { finish(); next }
END { finish() }

function begin(    at) {
    finish()
    at = match($0, / [0-9]+\.[0-9]+: sched:/)
    time = substr($0, at + 1) * 1e6
    kind = index($0, "sched:sched_switch:") ? "switch" : "waking"
    frames = 0
    from = to = state = ""
    if (kind == "switch") {
        split($0, side, " ==> ")
        from = number(side[1], "prev_pid=")
        to = number(side[2], "next_pid=")
        state = match(side[1], /prev_state=[A-Z]/) ? substr(side[1], RSTART + 11, 1) : \
            (match(side[1], /\] [A-Z]\+?$/) ? substr(side[1], RSTART + 2, 1) : "?")
    } else {
        to = number($0, " pid=")
    }
}

# The number behind a word, or, where perf's plugins rewrite the event, in `comm:NUMBER [`.
function number(text, word) {
    if (match(text, word "[0-9]+")) {
        return substr(text, RSTART + length(word), RLENGTH - length(word))
    }
    sub(/.*sched:sched_[a-z]+: /, "", text)
    return match(text, /:[0-9]+ \[/) ? substr(text, RSTART + 1, RLENGTH - 3) : ""
}

function finish() {
    if (kind == "waking" && to in name && (to in left) && !(to in woken)) {
        woken[to] = time
        waker[to] = cause()
    }
    if (kind == "switch") {
        if (to in name && to in left) arrive()
        if (from in name) leave()
    }
    kind = ""
}

function leave(    i) {
    left[from] = time
    how[from] = state == "R" ? "preempted" : "asleep"
    place[from] = where()
    stack[from] = ""
    for (i = frames; i > 0; i--) stack[from] = stack[from] (i < frames ? ";" : "") frame[i]
    delete woken[from]
}

function arrive(    since) {
    since = how[to] == "asleep" && to in woken ? woken[to] : left[to]
    # Woken before it had left: it did not sleep.
    if (how[to] == "preempted" || to in woken) {
        printf "%s %s %.1f %.1f %s %s\t%s\n", how[to], name[to], since - left[to], time - since, \
            how[to] == "asleep" ? waker[to] : "-", place[to], stack[to]
    }
    delete left[to]
    delete woken[to]
}

# The first function that is about something, not about scheduling.
function where(    i) {
    for (i = 1; i <= frames; i++) {
        if (frame[i] !~ /^(__|_)?(schedule|cond_resched|preempt|io_schedule)/) return frame[i]
    }
    return "unknown"
}

# The first function that is about something, not about waking.
function cause(    i) {
    for (i = 1; i <= frames; i++) {
        if (frame[i] !~ /wake|task_work_add|sock_def_|sk_data_ready|_poll_callback|ttwu/) return frame[i]
    }
    return "unknown"
}
