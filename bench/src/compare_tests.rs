//! Verdicts on made-up rounds.
