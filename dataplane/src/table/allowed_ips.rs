//! Allowed IPs: the longest prefix that holds an address, as an immutable structure.
//!
//! Prefixes become disjoint ranges in order of their first address, each with the value of the
//! longest prefix that holds it; a lookup is a binary search. With many prefixes an index over the
//! part of the address space that they lie in, 65,536 blocks of it, narrows it to a few steps, so a
//! lookup costs about the same with ten prefixes and with a hundred thousand. Built in O(n log n),
//! rebuilt when anything changes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// No value: no prefix holds the range.
const NONE: u32 = u32::MAX;
/// Ranges from which on the index pays for its 256 KiB.
const INDEX_FROM: usize = 256;
const INDEX_BITS: u32 = 16;
const BLOCKS: usize = 1 << INDEX_BITS;

/// An address range by its first `len` bits; the bits behind them are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IP prefix; for example 10.7.0.0/24, fd00::/64, or a single address")]
pub struct PrefixError(pub String);

impl Prefix {
    /// Clears the bits behind `len`; `None` if `len` exceeds the address.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => {
                IpAddr::from((v4.to_bits() & u32::mask(len)).to_be_bytes())
            }
            IpAddr::V6(v6) if len <= 128 => {
                IpAddr::from((v6.to_bits() & u128::mask(len)).to_be_bytes())
            }
            _ => return None,
        };
        Some(Self { address, len })
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are fixed.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length in bits, not a number of things")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether it holds every address of its family.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.to_owned());
        let (address, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => full,
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => {
                len.parse().map_err(|_| error())?
            }
            Some(_) => return Err(error()),
        };
        Self::new(address, len).ok_or_else(error)
    }
}

/// The structure. Values are small numbers (places of peers).
#[derive(Debug, Default)]
pub struct AllowedIps {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl AllowedIps {
    /// Builds it; of equal prefixes the last one counts.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = (Prefix, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (Prefix { address, len }, value) in prefixes {
            match address {
                IpAddr::V4(address) => v4.push((address.to_bits(), len, value)),
                IpAddr::V6(address) => v6.push((address.to_bits(), len, value)),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(v4) => self.v4.get(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.get(v6.to_bits()),
        }
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }
}

/// An address as a number.
trait Bits: Copy + Ord {
    const WIDTH: u8;
    /// The first `len` bits set.
    fn mask(len: u8) -> Self;
    fn or_not(self, mask: Self) -> Self;
    fn next(self) -> Option<Self>;
    /// Which of the index's blocks it is in: how far behind `base`, in steps of 2^`shift`.
    fn block(self, base: Self, shift: u32) -> usize;
    /// The smallest shift with which everything up to `last` has a block of its own.
    fn shift(base: Self, last: Self) -> u32;
    const ZERO: Self;
}

macro_rules! bits {
    ($type:ty, $width:literal) => {
        impl Bits for $type {
            const WIDTH: u8 = $width;
            const ZERO: Self = 0;
            #[inline]
            fn mask(len: u8) -> Self {
                Self::MAX.checked_shl(u32::from($width - len.min($width))).unwrap_or(0)
            }
            fn or_not(self, mask: Self) -> Self {
                self | !mask
            }
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            #[inline]
            fn block(self, base: Self, shift: u32) -> usize {
                let block = self.saturating_sub(base) >> shift;
                usize::try_from(block).map_or(BLOCKS - 1, |block| block.min(BLOCKS - 1))
            }
            fn shift(base: Self, last: Self) -> u32 {
                let bits = $width - last.saturating_sub(base).leading_zeros();
                bits.saturating_sub(INDEX_BITS)
            }
        }
    };
}

bits!(u32, 32);
bits!(u128, 128);

/// Disjoint ranges that cover all addresses: range `i` goes from `starts[i]` to the next start.
#[derive(Debug, Default)]
struct Ranges<T> {
    starts: Box<[T]>,
    values: Box<[u32]>,
    /// For each block of addresses, the range that holds its first; then the number of ranges.
    /// Empty when there are few.
    index: Box<[u32]>,
    /// Where the blocks begin, and 2^this many addresses are in each.
    base: T,
    shift: u32,
}

impl<T: Bits> Ranges<T> {
    fn new(mut prefixes: Vec<(T, u8, u32)>) -> Self {
        // Stable: of equal prefixes the last stays last, and covers those before it.
        prefixes.sort_by_key(|&(start, len, _)| (start, len));
        let mut ranges: Vec<(T, u32)> = Vec::with_capacity(prefixes.len() * 2 + 1);
        // The prefixes around the one at hand, outermost first: last address and value.
        let mut around: Vec<(T, u32)> = Vec::with_capacity(usize::from(T::WIDTH) + 1);
        if !prefixes.is_empty() {
            push(&mut ranges, T::ZERO, NONE);
        }
        for (start, len, value) in prefixes {
            leave(&mut ranges, &mut around, Some(start));
            push(&mut ranges, start, value);
            around.push((start.or_not(T::mask(len)), value));
        }
        leave(&mut ranges, &mut around, None);
        let (starts, values): (Vec<T>, Vec<u32>) = ranges.into_iter().unzip();
        // Before the first prefix there is one range that begins at zero.
        let base = starts.get(1).copied().unwrap_or(T::ZERO);
        let shift = T::shift(base, starts.last().copied().unwrap_or(T::ZERO));
        let few = starts.len() < INDEX_FROM;
        let index = if few { Box::default() } else { index(&starts, base, shift) };
        Self { starts: starts.into(), values: values.into(), index, base, shift }
    }

    #[inline]
    fn get(&self, address: T) -> Option<u32> {
        let block = address.block(self.base, self.shift);
        let (from, to) = match (self.index.get(block), self.index.get(block + 1)) {
            // The first range of the next block may begin within this one's last address.
            (Some(&from), Some(&to)) => (from as usize, to as usize + 1),
            _ => (0, self.starts.len()),
        };
        let starts = self.starts.get(from..to.min(self.starts.len()))?;
        let place = from + starts.partition_point(|start| *start <= address);
        let value = *self.values.get(place.checked_sub(1)?)?;
        (value != NONE).then_some(value)
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.values) + size_of_val(&*self.index)
    }
}

/// Starts a range; one that would be empty, or of the same value as the one before, is spared.
fn push<T: Bits>(ranges: &mut Vec<(T, u32)>, start: T, value: u32) {
    if ranges.last().is_some_and(|last| last.0 == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.1 != value) {
        ranges.push((start, value));
    }
}

/// Ends the prefixes that end before `until`: what is around them goes on behind them.
fn leave<T: Bits>(ranges: &mut Vec<(T, u32)>, around: &mut Vec<(T, u32)>, until: Option<T>) {
    while let Some(&(last, _)) = around.last()
        && until.is_none_or(|until| last < until)
    {
        around.pop();
        if let Some(next) = last.next() {
            push(ranges, next, around.last().map_or(NONE, |outer| outer.1));
        }
    }
}

fn index<T: Bits>(starts: &[T], base: T, shift: u32) -> Box<[u32]> {
    let mut index = Vec::with_capacity(BLOCKS + 1);
    let mut range = 0;
    for block in 0..BLOCKS {
        // The last range that begins in an earlier block, or with this one.
        while starts.get(range + 1).is_some_and(|start| start.block(base, shift) < block) {
            range += 1;
        }
        index.push(u32::try_from(range).unwrap_or(u32::MAX));
    }
    index.push(u32::try_from(starts.len()).unwrap_or(u32::MAX));
    index.into()
}

#[cfg(test)]
#[path = "allowed_ips_tests.rs"]
mod tests;
