//! A process that leaves the terminal it was started from.

/// Makes this process the leader of a session of its own and sends its standard error where its
/// standard output goes. For a daemon, after its start.
pub fn detach() {
    // SAFETY: setsid has no preconditions; it fails for a process group leader, which then stays
    // what it is.
    unsafe { libc::setsid() };
    // SAFETY: both descriptors are open (or the call fails); no Rust object owns number 2.
    unsafe { libc::dup2(1, 2) };
}

/// Whether a child process lives and has called [`detach`]: it leads its own session.
#[must_use]
pub fn is_detached(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: getsid only looks the process up. A child that has ended and was not waited for still
    // has its session, so an ended daemon is told by its not leading one, or by its end below.
    let session = unsafe { libc::getsid(pid) };
    session == pid && is_alive(pid)
}

/// False for a child that has ended but was not waited for.
fn is_alive(pid: libc::pid_t) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name in parentheses, which may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
