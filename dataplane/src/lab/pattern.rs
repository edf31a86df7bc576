//! Bytes that can be recomputed at any offset from a key: what senders fill in and receivers
//! compare, so that a lost, moved, repeated or changed byte shows at its exact place.

/// An endless sequence of bytes, given by its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    key: u64,
}

impl Pattern {
    /// The sequence of `seed` for `stream`; different streams have unrelated sequences.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self { key: mix(seed ^ mix(stream)) }
    }

    /// Fills `bytes` with the sequence from `offset` on.
    pub(super) fn fill(self, offset: u64, bytes: &mut [u8]) {
        let (head, word_index) = self.split(offset, bytes.len());
        let (first, rest) = bytes.split_at_mut(head);
        let lead = offset % 8;
        for (byte, from) in first.iter_mut().zip(self.word(offset / 8).into_iter().skip(low(lead)))
        {
            *byte = from;
        }
        let mut index = word_index;
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(index)[..chunk.len()]);
            index = index.wrapping_add(1);
        }
    }

    /// Where `bytes` first differs from the sequence from `offset` on, counted from the start of
    /// `bytes`.
    pub(super) fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<usize> {
        let (head, word_index) = self.split(offset, bytes.len());
        let (first, rest) = bytes.split_at(head);
        let lead = offset % 8;
        let expected = self.word(offset / 8);
        if let Some(at) = first.iter().zip(&expected[low(lead)..]).position(|(a, b)| a != b) {
            return Some(at);
        }
        let mut index = word_index;
        for (number, chunk) in rest.chunks(8).enumerate() {
            let expected = self.word(index);
            if chunk != &expected[..chunk.len()] {
                let at = chunk.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
                return Some(head + number * 8 + at);
            }
            index = index.wrapping_add(1);
        }
        None
    }

    /// Bytes up to the next whole word, and that word's index.
    fn split(self, offset: u64, len: usize) -> (usize, u64) {
        let lead = offset % 8;
        if lead == 0 { (0, offset / 8) } else { (len.min(8 - low(lead)), offset / 8 + 1) }
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
    }
}

/// A number below 8 as an index.
fn low(n: u64) -> usize {
    usize::from(n.to_le_bytes()[0])
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let pattern = Pattern::new(7, 3);
        let mut whole = [0; 100];
        pattern.fill(0, &mut whole);
        for start in 0..40 {
            for len in 0..=(100 - start) {
                let mut part = vec![0; len];
                pattern.fill(start as u64, &mut part);
                assert_eq!(part, whole[start..start + len], "{start}+{len}");
                assert_eq!(pattern.first_difference(start as u64, &part), None);
            }
        }
    }

    #[test]
    fn any_changed_byte_is_found() {
        let pattern = Pattern::new(1, 1);
        let mut bytes = [0; 61];
        pattern.fill(5, &mut bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert_eq!(pattern.first_difference(5, &bytes), Some(at));
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn streams_differ() {
        let (mut one, mut other) = ([0; 64], [0; 64]);
        Pattern::new(1, 0).fill(0, &mut one);
        Pattern::new(1, 1).fill(0, &mut other);
        assert_ne!(one, other);
    }
}
