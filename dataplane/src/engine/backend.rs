//! The life of one worker thread: pin, set up its backend, say so, run.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::Sender;

use crate::io::counters::Counters;
use crate::io::mmsg::{Mmsg, MmsgConfig};
use crate::io::outbox::Notice;
use crate::io::uring::{Uring, UringConfig};
use crate::io::{BusyPoll, Files, IoError};
use crate::worker::{self, path::Path};

/// Which backend to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring.
    Uring {
        /// The tun is read by one multishot operation (Linux 6.7).
        multishot_read: bool,
    },
    /// epoll, `recvmmsg`, `sendmmsg`.
    Mmsg,
}

impl BackendChoice {
    /// `uring` or `mmsg`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring { .. } => "uring",
            Self::Mmsg => "mmsg",
        }
    }

    /// How the tun is read: `multishot`, `single-shot` or `read`.
    #[must_use]
    pub fn tun_read(self) -> &'static str {
        match self {
            Self::Uring { multishot_read: true } => "multishot",
            Self::Uring { multishot_read: false } => "single-shot",
            Self::Mmsg => "read",
        }
    }
}

/// What a worker thread starts from.
pub(super) struct Start {
    pub(super) files: Files,
    pub(super) path: Path,
    pub(super) counters: Arc<Counters>,
    pub(super) notices: Sender<Notice>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) backend: BackendChoice,
    pub(super) udp_gso: bool,
    pub(super) busy_poll: BusyPoll,
    pub(super) cpu: Option<usize>,
}

impl Start {
    /// Runs the worker on this thread; `ready` hears once whether it could be set up.
    pub(super) fn run(self, ready: &Sender<io::Result<()>>) -> Result<(), IoError> {
        if let Some(id) = self.cpu {
            // Not allowed to pin is no reason not to forward.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        let Self { files, path, counters, notices, stop, udp_gso: gso, busy_poll, .. } = self;
        match self.backend {
            BackendChoice::Uring { multishot_read } => {
                let config = UringConfig { multishot_read, gso, busy_poll };
                Self::run_with(Uring::new(files, config, counters, notices), path, &stop, ready)
            }
            BackendChoice::Mmsg => {
                let config = MmsgConfig { gso, busy_poll };
                Self::run_with(Mmsg::new(files, config, counters, notices), path, &stop, ready)
            }
        }
    }

    fn run_with(
        backend: io::Result<impl crate::io::Backend>,
        path: Path,
        stop: &Arc<AtomicBool>,
        ready: &Sender<io::Result<()>>,
    ) -> Result<(), IoError> {
        match backend {
            Ok(backend) => {
                let _ = ready.send(Ok(()));
                worker::run(backend, path, stop)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    }
}
