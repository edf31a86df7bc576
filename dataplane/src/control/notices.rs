//! News from the workers, said once and kept for `show`.
//!
//! In: [`Notice`]s. Out: log lines that name the cause and what to do, and the state of the
//! offloads that can be refused at run time.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{debug, info, warn};

use crate::engine::Notice;

/// Destinations whose refusal is remembered for `show` at most.
const REFUSED_MAX: usize = 64;

/// What has been refused so far.
#[derive(Clone, Debug, Default)]
pub struct OffloadState {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    udp_gso: bool,
    refused: BTreeMap<SocketAddr, String>,
    merge_refused: bool,
}

impl OffloadState {
    /// The state at start.
    #[must_use]
    pub fn new(udp_gso: bool) -> Self {
        let inner = Inner { udp_gso, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `on`, `off`, or `refused: …` with the first reason.
    #[must_use]
    pub fn udp_gso(&self) -> String {
        let inner = self.lock();
        match inner.refused.first_key_value() {
            _ if !inner.udp_gso => "off".to_owned(),
            Some((to, why)) => format!("refused: {to}: {why}"),
            None => "on".to_owned(),
        }
    }

    /// Whether the tun has refused merged frames.
    #[must_use]
    pub fn merge_refused(&self) -> bool {
        self.lock().merge_refused
    }

    /// Takes in and logs one piece of news; several workers may bring the same.
    pub fn take(&self, notice: Notice) {
        let mut inner = self.lock();
        match notice {
            Notice::GsoRefused { to, errno, segment_len } => {
                let why = gso_reason(errno, segment_len);
                if inner.refused.len() < REFUSED_MAX
                    && inner.refused.insert(to, why.clone()).is_none()
                {
                    warn!(%to, "UDP_SEGMENT refused, packets go out one by one: {why}");
                }
            }
            Notice::GsoRestored { to } => {
                if inner.refused.remove(&to).is_some() {
                    info!(%to, "UDP_SEGMENT works again");
                }
            }
            Notice::SourceLost { to } => {
                debug!(%to, "the address it was heard at is no longer ours; the kernel picks one");
            }
            Notice::MergeRefused { errno } => {
                if !std::mem::replace(&mut inner.merge_refused, true) {
                    let error = io::Error::from_raw_os_error(errno);
                    warn!(
                        "the tun refused a merged packet ({error}), packets are written one by \
                         one: a known fault of some kernels (6.6.44 and its time); `--tun-gro \
                         off` avoids the attempt"
                    );
                }
            }
        }
    }
}

/// Why a path refuses segmentation, in words (net/ipv4/udp.c, `udp_send_skb`).
fn gso_reason(errno: i32, segment_len: usize) -> String {
    match errno {
        libc::EMSGSIZE => {
            format!("datagrams of {segment_len} bytes exceed the path's MTU; lower the tunnel's")
        }
        libc::EIO => "the outgoing device cannot compute checksums (EIO)".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_show_until_they_end() {
        let state = OffloadState::new(true);
        let to = SocketAddr::from(([192, 0, 2, 1], 7));
        assert_eq!(state.udp_gso(), "on");
        state.take(Notice::GsoRefused { to, errno: libc::EMSGSIZE, segment_len: 1472 });
        assert!(state.udp_gso().starts_with("refused: 192.0.2.1:7: datagrams of 1472 bytes"));
        state.take(Notice::GsoRestored { to });
        assert_eq!(state.udp_gso(), "on");
        assert_eq!(OffloadState::new(false).udp_gso(), "off");
    }
}
