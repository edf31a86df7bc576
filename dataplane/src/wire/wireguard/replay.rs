//! Which counters have been seen: a sliding window of 8,192 bits (section 5.4.6, RFC 6479).
