//! To come.

use ringtun_tests::suite::Case;

pub(crate) fn cases() -> Vec<Case> {
    Vec::new()
}
