//! The full suite's interoperation: ringtun against other WireGuards, and on an older kernel.
//!
//! ```text
//! this machine   ringtun ── wg0 of wireguard-go, boringtun, gotatun, ringtun         peers.rs
//!                rekeys under traffic, all of them at once                         rekey.rs
//!                ringtun here ── wg0 of the kernel in the guest                      outside.rs
//! guest.rs       starts QEMU with Debian's kernel, and this binary in it:
//!   in the guest ringtun ── wg0 of the kernel                                      peers.rs
//!                ringtun without multishot reads, plain and WireGuard              fallback.rs
//! ```
//!
//! Runs only with `RINGTUN_FULL` set; otherwise everything is reported as ignored.
#![allow(clippy::unwrap_used)]

mod ends;
mod fallback;
mod guest;
mod outside;
mod peers;
mod program;
mod rekey;

use std::process::ExitCode;

use ringtun_tests::place::{FULL, is_full};
use ringtun_tests::suite::{self, Case};

fn main() -> ExitCode {
    if guest::is_serving() {
        outside::serve().unwrap();
        return ExitCode::SUCCESS;
    }
    if guest::is_inside() {
        let mut cases = peers::cases(&guest::PROGRAMS);
        cases.extend(rekey::cases(&guest::PROGRAMS));
        cases.extend(fallback::cases());
        return suite::run(cases);
    }
    let mut cases = peers::cases(&program::HERE);
    cases.extend(rekey::cases(&program::HERE));
    cases.extend(guest::cases());
    cases.extend(outside::cases());
    if !is_full() {
        cases = cases.into_iter().map(left_out).collect();
    }
    suite::run(cases)
}

fn left_out(case: Case) -> Case {
    Case::maybe(case.name().to_owned(), || {
        Some(format!("part of the full suite: bash tests/run.sh --full, or {FULL}=1"))
    })
}
