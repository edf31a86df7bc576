//! Buffered reading that leaves nothing behind: every byte is wiped once it has been used.

use std::io::{self, BufRead, Read};

use zeroize::{Zeroize, Zeroizing};

const BUFFER_LEN: usize = 16 << 10;

/// A [`BufRead`] over `inner`. What is dropped unread is wiped too.
pub(super) struct WipingReader<R> {
    inner: R,
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl<R: Read> WipingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, buffer: Zeroizing::new(vec![0; BUFFER_LEN]), start: 0, end: 0 }
    }
}

impl<R: Read> BufRead for WipingReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = self.inner.read(&mut self.buffer)?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        let used = self.end.min(self.start + len);
        if let Some(used) = self.buffer.get_mut(self.start..used) {
            used.zeroize();
        }
        self.start = used;
    }
}

impl<R: Read> Read for WipingReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let len = from.read(to)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_nothing_stays() {
        let sent: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8 + 1).collect();
        let mut reader = WipingReader::new(sent.as_slice());
        let mut received = vec![0; 33];
        reader.read_exact(&mut received).unwrap();
        assert!(reader.buffer[..33].iter().all(|byte| *byte == 0));
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(received, sent);
        assert!(reader.buffer.iter().all(|byte| *byte == 0));
        assert_eq!(reader.fill_buf().unwrap(), b"");
    }
}
