//! Which AEAD a start uses, and why.
//!
//! In: what was asked for. Out: the AEAD with a reason in words for the log and `show`, or the
//! cause why IPsec-MB, asked for by name, cannot be had.

use tracing::warn;

use super::plan::AeadChoice;
use crate::engine::aead::{AeadError, AeadLibrary};
use crate::sys::ipsec_mb::LoadError;

/// A decision and its reason.
#[derive(Clone, Debug)]
pub struct ChosenAead {
    /// The decision.
    pub library: AeadLibrary,
    /// The reason in words.
    pub reason: String,
}

/// Decides by trying IPsec-MB, unless ring is asked for.
pub fn choose(asked: AeadChoice) -> Result<ChosenAead, AeadError> {
    if asked == AeadChoice::Ring {
        return Ok(ChosenAead { library: AeadLibrary::Ring, reason: "asked for".to_owned() });
    }
    decide(asked, AeadLibrary::ipsec_mb())
}

fn decide(
    asked: AeadChoice,
    tried: Result<AeadLibrary, AeadError>,
) -> Result<ChosenAead, AeadError> {
    match tried {
        Ok(library) => {
            let reason = match asked {
                AeadChoice::IpsecMb => "asked for, seals and opens as ring does",
                AeadChoice::Auto | AeadChoice::Ring => "found, seals and opens as ring does",
            };
            Ok(ChosenAead { library, reason: reason.to_owned() })
        }
        Err(error) if asked == AeadChoice::IpsecMb => Err(error),
        Err(error) => {
            // That it is not there is how most machines are; the rest is worth a look.
            let usual =
                matches!(error, AeadError::Load(LoadError::Processor | LoadError::Missing(_)));
            if !usual {
                warn!("packets are encrypted by ring: {error}");
            }
            Ok(ChosenAead { library: AeadLibrary::Ring, reason: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow() -> Result<AeadLibrary, AeadError> {
        Err(LoadError::Processor.into())
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let chosen = decide(AeadChoice::Auto, slow()).unwrap();
        assert_eq!(chosen.library.to_string(), "ring");
        assert!(chosen.reason.contains("AVX-512"));
    }

    #[test]
    fn by_name_it_does_not_fall_back() {
        assert!(decide(AeadChoice::IpsecMb, slow()).is_err());
        assert!(decide(AeadChoice::IpsecMb, Err(LoadError::Version(0x2_0001).into())).is_err());
    }

    #[test]
    fn ring_by_name_looks_for_nothing() {
        assert_eq!(choose(AeadChoice::Ring).unwrap().reason, "asked for");
    }

    #[test]
    fn a_version_is_told_in_figures() {
        let text = LoadError::Version(0x2_0001).to_string();
        assert!(text.contains("version 2.0.1"), "{text}");
    }
}
