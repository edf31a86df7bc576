//! ringtun end to end: two engines on two hosts of a private lab, real traffic, and everything
//! that can go wrong. Needs no root where user namespaces are allowed.
//!
//! Not the standard harness: the lab must be entered before the first thread starts.
#![allow(clippy::unwrap_used)]

mod aqm;
mod busy_poll;
mod demo;
mod dropin;
mod errors;
mod figures;
mod garbage;
mod lifecycle;
mod many_peers;
mod offloads;
mod order;
mod passes;
mod tuning;
mod wireguard;
mod wireguard_connected;
mod wireguard_handover;
mod wireguard_interop;
mod wireguard_net;
mod wireguard_roaming;
mod wireguard_routes;
mod wireguard_steering;
mod wireguard_tools;

use std::process::ExitCode;

use ringtun_tests::suite;

fn main() -> ExitCode {
    let mut cases = Vec::new();
    cases.extend(passes::cases());
    cases.extend(order::cases());
    cases.extend(offloads::cases());
    cases.extend(lifecycle::cases());
    cases.extend(errors::cases());
    cases.extend(garbage::cases());
    cases.extend(figures::cases());
    cases.extend(aqm::cases());
    cases.extend(busy_poll::cases());
    cases.extend(wireguard::cases());
    cases.extend(wireguard_net::cases());
    cases.extend(wireguard_roaming::cases());
    cases.extend(wireguard_connected::cases());
    cases.extend(wireguard_handover::cases());
    cases.extend(wireguard_routes::cases());
    cases.extend(wireguard_steering::cases());
    cases.extend(wireguard_tools::cases());
    cases.extend(wireguard_interop::cases());
    cases.extend(many_peers::cases());
    cases.extend(dropin::cases());
    cases.extend(demo::cases());
    cases.extend(tuning::cases());
    suite::run(cases)
}
