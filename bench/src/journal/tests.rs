//! Journals, also broken ones.
