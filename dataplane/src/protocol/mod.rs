//! The slow half of the WireGuard protocol: configuration, handshakes, timers.
//!
//! A state machine without I/O: messages, events and the time come in, datagrams to send and the
//! next time to be called come out. It runs on one thread of control's and writes what workers
//! read ([`crate::table`]).

pub mod config;

use std::sync::Arc;

use crate::packet::endpoint::Endpoint;
use crate::table::Shared;
use crate::table::event::Event;
use config::{DeviceUpdate, DeviceView, UpdateError};

/// What the state machine wants done.
pub trait Output {
    /// Send `datagram` to the peer at `to`. Never more than a handshake message or a keepalive.
    fn send(&mut self, to: Endpoint, datagram: &[u8]);
    /// A session with a peer has become usable: workers should send what waits for it.
    fn wake_workers(&mut self);
}

/// The state of one device.
pub struct Protocol {
    shared: Arc<Shared>,
}

impl Protocol {
    /// A device without keys or peers.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What it shares with the workers.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Applies `update` in order, all of it, and publishes the result once. What it returns without
    /// error is in force for every batch that starts from now on.
    ///
    /// # Errors
    /// The first entry that cannot be applied; entries before it are applied.
    pub fn update(
        &mut self,
        update: DeviceUpdate,
        out: &mut impl Output,
    ) -> Result<(), UpdateError> {
        let _ = (update, out);
        todo!()
    }

    /// The device as it is now.
    #[must_use]
    pub fn view(&self) -> DeviceView {
        todo!()
    }

    /// Takes news from a worker.
    pub fn event(&mut self, event: Event, out: &mut impl Output) {
        let _ = (event, out);
        todo!()
    }

    /// Does what is due; returns when to call again, in milliseconds of the device's clock.
    pub fn poll(&mut self, out: &mut impl Output) -> Option<u64> {
        let _ = out;
        todo!()
    }
}
