//! What a handful of rounds allows to say: medians with intervals that are exact whatever the noise
//! looks like, because they count ranks only.
//!
//! - Pairs (both measured in the same round): the sign test's interval, between two of the sorted
//!   ratios. It needs 6 rounds before it can say anything.
//! - Two samples (measured in different runs): the interval of Mann and Whitney's test, between two
//!   of all ratios of one to the other (Hodges and Lehmann). It needs 4 rounds of each.
//!
//! An interval holds the true median in at least 95 of 100 cases. One that does not hold 1 is what
//! the test calls a difference at 5 %.

use crate::statistics::Spread;

/// The part of all cases in which an interval may miss.
const MISS_MAX: f64 = 0.05;
/// Above this many ratios, ranks follow the normal distribution closely enough.
const EXACT_MAX: usize = 40_000;
/// Of longer samples, the last so many values are used.
const SAMPLE_MAX: usize = 1_000;
/// Quantile of the normal distribution for [`MISS_MAX`].
const NORMAL: f64 = 1.959_964;

/// How many times as much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// The median, the smallest and the largest ratio.
    pub(crate) ratios: Spread,
    /// Where the true median is; none if there are too few values to say.
    pub(crate) interval: Option<(f64, f64)>,
    /// How many values there are: pairs, or those of the smaller sample.
    pub(crate) count: usize,
}

impl Estimate {
    /// From the ratios of pairs.
    pub(crate) fn of_pairs(ratios: &[f64]) -> Option<Self> {
        let sorted = sorted(ratios);
        let interval = between(&sorted, sign_rank(sorted.len()));
        Some(Self { ratios: Spread::of(sorted.iter().copied())?, interval, count: sorted.len() })
    }

    /// From two samples, `b` in relation to `a`; values that are not positive are left out.
    pub(crate) fn of_samples(a: &[f64], b: &[f64]) -> Option<Self> {
        let usable = |values: &[f64]| -> Vec<f64> {
            let positive = values.iter().copied().filter(|it| it.is_finite() && *it > 0.0);
            let values: Vec<f64> = positive.collect();
            values[values.len().saturating_sub(SAMPLE_MAX)..].to_vec()
        };
        let (a, b) = (usable(a), usable(b));
        let ratios: Vec<f64> = b.iter().flat_map(|b| a.iter().map(move |a| b / a)).collect();
        let sorted = sorted(&ratios);
        let interval = between(&sorted, rank_sum_rank(a.len(), b.len()));
        let count = a.len().min(b.len());
        Some(Self { ratios: Spread::of(sorted.iter().copied())?, interval, count })
    }

    /// Whether the values are all that differ from 1 in the one direction that the interval names.
    pub(crate) fn differs(&self) -> bool {
        self.interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }
}

/// The fewest rounds of which the sign test can say anything.
pub(crate) fn pairs_needed() -> usize {
    (1..).find(|&count| sign_rank(count).is_some()).unwrap_or(usize::MAX)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The `rank`th (from 1) and the `rank`th from the end.
fn between(sorted: &[f64], rank: Option<usize>) -> Option<(f64, f64)> {
    let rank = rank?;
    Some((*sorted.get(rank.checked_sub(1)?)?, *sorted.get(sorted.len().checked_sub(rank)?)?))
}

/// The largest rank k for which fewer than k of `count` fair coins show heads in at most 2.5 of
/// 100 cases.
fn sign_rank(count: usize) -> Option<usize> {
    let (mut log_probability, mut sum) = (-(count as f64) * f64::ln(2.0), 0.0);
    for heads in 0..count {
        sum += log_probability.exp();
        if 2.0 * sum > MISS_MAX {
            return (heads > 0).then_some(heads);
        }
        log_probability += ((count - heads) as f64).ln() - ((heads + 1) as f64).ln();
    }
    None
}

/// The same for the number of pairs in which a value of one sample is below one of the other, if
/// both come from the same distribution.
fn rank_sum_rank(a: usize, b: usize) -> Option<usize> {
    let pairs = a * b;
    if pairs > EXACT_MAX {
        let deviation = (pairs as f64 * (a + b + 1) as f64 / 12.0).sqrt();
        let rank = (pairs as f64 / 2.0 - NORMAL * deviation).floor();
        return (1..=pairs / 2).rev().find(|&it| it as f64 <= rank);
    }
    let ways = rank_sum_ways(a, b);
    let all: f64 = ways.iter().sum();
    let mut sum = 0.0;
    for (rank, count) in ways.iter().enumerate() {
        sum += count;
        if 2.0 * sum > MISS_MAX * all {
            return (rank > 0).then_some(rank);
        }
    }
    None
}

/// In how many orders of both samples exactly so many pairs are that way round: the coefficients
/// of Π (1 − q^(b+i)) / (1 − q^i) for i = 1 … a.
fn rank_sum_ways(a: usize, b: usize) -> Vec<f64> {
    let mut ways = vec![0.0; a * b + 1];
    ways[0] = 1.0;
    for i in 1..=a {
        for at in (b + i..ways.len()).rev() {
            ways[at] -= ways[at - b - i];
        }
        for at in i..ways.len() {
            ways[at] += ways[at - i];
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_the_sign_test_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics: intervals for the median at 95 %.
        let known = [
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (10, Some(2)),
            (15, Some(4)),
            (20, Some(6)),
            (25, Some(8)),
            (100, Some(40)),
        ];
        for (count, rank) in known {
            assert_eq!(sign_rank(count), rank, "{count} pairs");
        }
        assert_eq!((sign_rank(0), sign_rank(1), pairs_needed()), (None, None, 6));
        assert!(sign_rank(100_000).is_some_and(|rank| rank > 49_000));
    }

    #[test]
    fn ranks_of_the_rank_sum_test_are_those_of_the_tables() {
        // Critical values of U at 5 %, two-sided; the rank is one more.
        let known = [
            ((3, 3), None),
            ((3, 5), Some(0)),
            ((4, 4), Some(0)),
            ((4, 6), Some(2)),
            ((5, 5), Some(2)),
            ((6, 6), Some(5)),
            ((8, 8), Some(13)),
            ((10, 10), Some(23)),
            ((20, 20), Some(127)),
        ];
        for ((a, b), critical) in known {
            assert_eq!(rank_sum_rank(a, b), critical.map(|it| it + 1), "{a} and {b}");
            assert_eq!(rank_sum_rank(b, a), critical.map(|it| it + 1), "{b} and {a}");
        }
        let (exact, normal) = (rank_sum_rank(200, 200).unwrap(), rank_sum_rank(200, 201).unwrap());
        assert!(normal.abs_diff(exact) < 200, "{exact} {normal}");
        assert_eq!((rank_sum_rank(0, 5), rank_sum_rank(1, 1)), (None, None));
    }

    #[test]
    fn ways_add_up_to_all_orders() {
        assert_eq!(rank_sum_ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(rank_sum_ways(10, 10).iter().sum::<f64>(), 184_756.0);
    }

    #[test]
    fn pairs_say_no_more_than_they_can() {
        let five = Estimate::of_pairs(&[1.5, 1.6, 1.7, 1.8, 1.9]).unwrap();
        assert_eq!((five.ratios.median, five.interval, five.differs()), (1.7, None, false));
        let six = Estimate::of_pairs(&[1.2, 1.1, 1.3, 1.4, 1.5, 1.6]).unwrap();
        assert_eq!((six.interval, six.differs()), (Some((1.1, 1.6)), true));
        let mixed = Estimate::of_pairs(&[1.2, 0.9, 1.3, 1.4, 1.5, 1.6]).unwrap();
        assert_eq!((mixed.interval, mixed.differs()), (Some((0.9, 1.6)), false));
        let equal = Estimate::of_pairs(&[1.0; 20]).unwrap();
        assert!(!equal.differs());
        assert_eq!(Estimate::of_pairs(&[]), None);
        assert_eq!(Estimate::of_pairs(&[f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn samples_say_no_more_than_they_can() {
        let slow = [1.0, 1.1, 0.9, 1.05];
        let fast: Vec<f64> = slow.iter().map(|it| 2.0 * it).collect();
        let four = Estimate::of_samples(&slow, &fast).unwrap();
        assert_eq!(four.count, 4);
        assert!(four.differs() && four.ratios.median > 1.8 && four.ratios.median < 2.2);
        assert!(!Estimate::of_samples(&slow[..3], &fast[..3]).unwrap().differs());
        assert!(!Estimate::of_samples(&slow, &slow).unwrap().differs());
        assert_eq!(Estimate::of_samples(&[], &fast), None);
        assert_eq!(Estimate::of_samples(&[0.0, -1.0], &fast), None);
    }

    /// Of samples of one distribution, at most about 5 of 100 are called different.
    #[test]
    fn equals_are_rarely_called_different() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut pairs, mut samples) = (0, 0);
        for _ in 0..2_000 {
            let mut draw = || (0..12).map(|_| 0.5 + random()).collect::<Vec<f64>>();
            let (a, b) = (draw(), draw());
            let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b / a).collect();
            pairs += usize::from(Estimate::of_pairs(&ratios).unwrap().differs());
            samples += usize::from(Estimate::of_samples(&a, &b).unwrap().differs());
        }
        assert!(pairs <= 110 && samples <= 110, "{pairs} and {samples} of 2000");
    }
}
