//! Big-endian fields at an offset of a slice.
//!
//! In: a slice and an offset that the caller checked when it parsed the headers. Out: the field.
//! Guaranteed: no panic. Outside the slice a read gives 0 and a write does nothing, so that a slip
//! in the caller's arithmetic can spoil one packet but never stop the worker.

/// The 16-bit field at `at`.
#[inline]
pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(field) => u16::from_be_bytes(*field),
        None => 0,
    }
}

/// The 32-bit field at `at`.
#[inline]
pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(field) => u32::from_be_bytes(*field),
        None => 0,
    }
}

/// Sets the 16-bit field at `at`.
#[inline]
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

/// Sets the 32-bit field at `at`.
#[inline]
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

/// A length known to fit 16 bits.
#[inline]
pub(super) fn low16(len: usize) -> u16 {
    debug_assert!(len <= usize::from(u16::MAX), "length {len} beyond 16 bits");
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// A length known to fit 32 bits.
#[inline]
pub(super) fn low32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian() {
        let mut bytes = [0, 1, 2, 3, 4, 5];
        assert_eq!(get16(&bytes, 1), 0x0102);
        assert_eq!(get32(&bytes, 2), 0x0203_0405);
        put16(&mut bytes, 0, 0xaabb);
        put32(&mut bytes, 2, 0x1122_3344);
        assert_eq!(bytes, [0xaa, 0xbb, 0x11, 0x22, 0x33, 0x44]);
    }

    #[test]
    fn outside_nothing_happens() {
        let mut bytes = [7; 3];
        assert_eq!((get16(&bytes, 2), get32(&bytes, 0), get16(&bytes, 9)), (0, 0, 0));
        put16(&mut bytes, 2, 1);
        put32(&mut bytes, usize::MAX, 1);
        assert_eq!(bytes, [7; 3]);
    }
}
