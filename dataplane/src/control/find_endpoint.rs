//! Endpoint names at the start: asked for again, as `wg` does, while that may help.
//!
//! In: a name, how often it is asked for, a resolver and a way to pause. Out: its addresses, or why
//! there are none. A failure that the resolver calls final ends the search at once; others are
//! followed by pauses of 1 s, 1.2 s … 20 s, as many as `WG_ENDPOINT_RESOLUTION_RETRIES` says.

use std::env;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::warn;

use super::config_file::EndpointName;
use crate::sys::resolver::LookupError;

/// How often a name is asked for again, or `infinity`.
pub const VARIABLE: &str = "WG_ENDPOINT_RESOLUTION_RETRIES";
/// Without it.
const RETRIES: u32 = 15;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How often a name that cannot be found yet is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// So many times.
    Times(u32),
    /// Until it is found.
    Infinity,
}

impl Default for Retries {
    fn default() -> Self {
        Self::Times(RETRIES)
    }
}

/// A value of [`VARIABLE`] that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}={value:?}: give a number from 0 to {max}, infinity, or leave it out for {RETRIES}",
    max = i32::MAX
)]
pub struct RetriesError {
    value: OsString,
}

impl Retries {
    /// What the environment says.
    ///
    /// # Errors
    /// Neither a number nor `infinity`.
    pub fn from_env() -> Result<Self, RetriesError> {
        Self::parse(env::var_os(VARIABLE))
    }

    fn parse(value: Option<OsString>) -> Result<Self, RetriesError> {
        let Some(value) = value else { return Ok(Self::default()) };
        match value.to_str().map(str::trim_start) {
            Some("infinity") => Ok(Self::Infinity),
            // As wg's strtoul has it.
            Some("") => Ok(Self::Times(0)),
            Some(text) if text.parse().is_ok_and(|number: i32| number >= 0) => {
                Ok(Self::Times(text.parse().unwrap_or(0)))
            }
            _ => Err(RetriesError { value }),
        }
    }
}

/// Why a name was not found.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFound<I> {
    /// The last answer.
    Error(LookupError),
    /// Somebody wanted an end of it.
    Interrupted(I),
}

impl<I> From<LookupError> for NotFound<I> {
    fn from(error: LookupError) -> Self {
        Self::Error(error)
    }
}

/// Asks for `name`, and again after pauses; `look_up` and `pause` say when to stop.
///
/// # Errors
/// See [`NotFound`].
pub fn find<I>(
    name: &EndpointName,
    retries: Retries,
    mut look_up: impl FnMut(&EndpointName) -> Result<Result<Vec<SocketAddr>, LookupError>, I>,
    mut pause: impl FnMut(Duration) -> Result<(), I>,
) -> Result<Vec<SocketAddr>, NotFound<I>> {
    let mut left = retries;
    let mut wait = PAUSE_FIRST;
    loop {
        let error = match look_up(name).map_err(NotFound::Interrupted)? {
            Ok(found) => return Ok(found),
            Err(error) if error.permanent => return Err(NotFound::Error(error)),
            Err(error) => error,
        };
        left = match left {
            Retries::Infinity => Retries::Infinity,
            Retries::Times(0) => return Err(NotFound::Error(error)),
            Retries::Times(left) => Retries::Times(left - 1),
        };
        let more = match left {
            Retries::Infinity => "until it is found".to_owned(),
            Retries::Times(left) => format!("{left} more times after that"),
        };
        warn!(
            "the endpoint {name} cannot be found yet ({error}); trying again in {:.1} s, {more}",
            wait.as_secs_f32()
        );
        pause(wait).map_err(NotFound::Interrupted)?;
        wait = (wait * 6 / 5).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Retries, String> {
        Retries::parse(Some(value.into())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_is_read_as_wg_reads_it() {
        assert_eq!(Retries::parse(None), Ok(Retries::Times(15)));
        for (value, times) in [("0", 0), ("7", 7), (" 9", 9), ("", 0), ("2147483647", 2147483647)] {
            assert_eq!(parse(value), Ok(Retries::Times(times)), "{value:?}");
        }
        assert_eq!(parse("infinity"), Ok(Retries::Infinity));
        for value in ["-1", "Infinity", "1x", "x", "2147483648", "1.5", "9 "] {
            let error = parse(value).unwrap_err();
            assert!(error.contains(&format!("{VARIABLE}={value:?}")), "{error}");
            assert!(error.contains("0 to 2147483647, infinity"), "{error}");
        }
    }

    fn name() -> EndpointName {
        EndpointName { host: "vpn.example".to_owned(), port: 7 }
    }

    fn refusal(permanent: bool) -> LookupError {
        LookupError { permanent, reason: "no answer".to_owned() }
    }

    /// What comes of `failures` temporary ones, then `last`; the pauses in milliseconds.
    fn search(
        retries: Retries,
        failures: usize,
        last: &Result<Vec<SocketAddr>, LookupError>,
        pauses_max: usize,
    ) -> (Result<Vec<SocketAddr>, NotFound<&'static str>>, Vec<u128>) {
        let (mut asked, mut pauses) = (0, Vec::new());
        let look_up = |asked_for: &EndpointName| {
            assert_eq!(*asked_for, name());
            asked += 1;
            Ok(if asked > failures { last.clone() } else { Err(refusal(false)) })
        };
        let pause = |wait: Duration| {
            if pauses.len() == pauses_max {
                return Err("stop");
            }
            pauses.push(wait.as_millis());
            Ok(())
        };
        (find(&name(), retries, look_up, pause), pauses)
    }

    #[test]
    fn what_may_pass_is_asked_again_after_growing_pauses() {
        let found = Ok(vec!["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(search(Retries::Times(0), 0, &found, 0).0.as_ref().ok(), found.as_ref().ok());
        let (result, pauses) = search(Retries::default(), 3, &found, 99);
        assert_eq!(result.unwrap(), *found.as_ref().unwrap());
        assert_eq!(pauses, [1_000, 1_200, 1_440]);
        // One more look-up than pauses, and the last answer is the reason.
        let (result, pauses) = search(Retries::default(), 99, &found, 99);
        assert_eq!(result, Err(NotFound::Error(refusal(false))));
        assert_eq!(pauses.len(), 15);
        assert!(pauses.is_sorted() && pauses[14] < 20_000, "{pauses:?}");
        let (result, pauses) = search(Retries::Times(0), 1, &found, 99);
        assert!(result.is_err() && pauses.is_empty());
        let (result, pauses) = search(Retries::Infinity, 1_000, &found, 1_000);
        assert!(result.is_ok() && pauses.len() == 1_000 && pauses[999] == 20_000);
    }

    #[test]
    fn what_is_final_or_interrupted_ends_it_at_once() {
        let (result, pauses) = search(Retries::Infinity, 2, &Err(refusal(true)), 99);
        assert_eq!((result, pauses.len()), (Err(NotFound::Error(refusal(true))), 2));
        let (result, pauses) = search(Retries::Infinity, 99, &Err(refusal(true)), 5);
        assert_eq!((result, pauses.len()), (Err(NotFound::Interrupted("stop")), 5));
        let asleep = find(&name(), Retries::Infinity, |_| Err("stop"), |_| Ok(()));
        assert_eq!(asleep, Err(NotFound::Interrupted("stop")));
    }
}
