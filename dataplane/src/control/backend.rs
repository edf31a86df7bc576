//! Which I/O backend a start uses, and why.
//!
//! In: what was asked for. Out: the backend with a reason in words for the log and `show`, or the
//! cause why io_uring, asked for by name, cannot be had.

use tracing::warn;

use super::plan::IoChoice;
use crate::engine::BackendChoice;
use crate::ring::probe::{self, UringError, UringFeatures};

/// A decision and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenBackend {
    /// The decision.
    pub backend: BackendChoice,
    /// The reason in words.
    pub reason: String,
}

impl ChosenBackend {
    /// `uring` or `mmsg`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.backend.name()
    }
}

/// Decides by trying io_uring, unless mmsg is asked for.
pub fn choose(asked: IoChoice, multishot: bool) -> Result<ChosenBackend, UringError> {
    if asked == IoChoice::Mmsg {
        return Ok(ChosenBackend { backend: BackendChoice::Mmsg, reason: "asked for".to_owned() });
    }
    let probed = probe::uring();
    if let (IoChoice::Auto, Err(error)) = (asked, &probed) {
        warn!("io_uring is not used: {error}");
    }
    decide(asked, multishot, probed)
}

fn decide(
    asked: IoChoice,
    multishot: bool,
    probed: Result<UringFeatures, UringError>,
) -> Result<ChosenBackend, UringError> {
    match probed {
        Ok(found) => {
            let how = match (multishot, found.multishot_read) {
                (false, _) => "tun reads single-shot as asked for",
                (true, true) => "with multishot receive and read",
                (true, false) => "tun reads single-shot: this kernel lacks multishot reads (6.7)",
            };
            let reason = match asked {
                IoChoice::Uring => format!("asked for, {how}"),
                IoChoice::Auto | IoChoice::Mmsg => format!("io_uring works here, {how}"),
            };
            let multishot_read = found.multishot_read && multishot;
            Ok(ChosenBackend { backend: BackendChoice::Uring { multishot_read }, reason })
        }
        Err(error) if asked == IoChoice::Uring => Err(error),
        Err(error) => Ok(ChosenBackend { backend: BackendChoice::Mmsg, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: UringFeatures = UringFeatures { multishot_read: true, multishot_recv: true };

    #[test]
    fn auto_takes_io_uring_where_it_works() {
        let chosen = decide(IoChoice::Auto, true, Ok(FULL)).unwrap();
        assert_eq!(chosen.backend, BackendChoice::Uring { multishot_read: true });
        assert!(chosen.reason.contains("with multishot"));
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let chosen = decide(IoChoice::Auto, true, Err(UringError::Disabled { value: 2 })).unwrap();
        assert_eq!((chosen.backend, chosen.name()), (BackendChoice::Mmsg, "mmsg"));
        assert!(chosen.reason.contains("kernel.io_uring_disabled"));
    }

    #[test]
    fn uring_by_name_does_not_fall_back() {
        assert!(decide(IoChoice::Uring, true, Err(UringError::Missing)).is_err());
    }

    #[test]
    fn multishot_can_be_switched_off() {
        let chosen = decide(IoChoice::Uring, false, Ok(FULL)).unwrap();
        assert_eq!(chosen.backend, BackendChoice::Uring { multishot_read: false });
    }

    #[test]
    fn mmsg_by_name_probes_nothing() {
        assert_eq!(choose(IoChoice::Mmsg, true).unwrap().reason, "asked for");
    }
}
