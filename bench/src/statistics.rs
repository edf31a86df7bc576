//! Medians and spreads of a handful of runs.

/// What a column of runs comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// `None` for no values. Values that are not finite are left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

/// The ratios of values measured in the same round; rounds in which one of the two is missing are
/// left out.
pub(crate) fn ratios<R: PartialEq>(values: &[(R, f64)], baseline: &[(R, f64)]) -> Vec<f64> {
    let ratio = |(round, value): &(R, f64)| {
        let (_, base) = baseline.iter().find(|(other, _)| other == round)?;
        (*base > 0.0).then(|| value / base)
    };
    values.iter().filter_map(ratio).collect()
}

/// The median of these.
pub(crate) fn median_ratio<R: PartialEq>(
    values: &[(R, f64)],
    baseline: &[(R, f64)],
) -> Option<Spread> {
    Spread::of(ratios(values, baseline))
}

/// `part / whole`, unless there is no whole.
pub(crate) fn quotient(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_one_and_none() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap(), Spread { median: 7.0, min: 7.0, max: 7.0 });
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, 1.0]).unwrap().median, 1.0);
    }

    #[test]
    fn ratios_pair_rounds_and_not_medians() {
        // The machine is half as fast in round 2: the ratio does not notice.
        let ours = [(0, 8.0), (1, 9.0), (2, 4.0)];
        let base = [(0, 10.0), (1, 10.0), (2, 5.0)];
        let ratio = median_ratio(&ours, &base).unwrap();
        assert!((ratio.median - 0.8).abs() < 1e-9);
        assert!((ratio.max - 0.9).abs() < 1e-9);
    }

    #[test]
    fn rounds_without_a_partner_are_left_out() {
        let ours = [(0, 1.0), (2, 6.0)];
        assert_eq!(median_ratio(&ours, &[(1, 1.0), (2, 3.0)]).unwrap().median, 2.0);
        assert_eq!(median_ratio(&ours, &[]), None);
        assert_eq!(median_ratio(&ours, &[(0, 0.0)]), None);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!((quotient(1.0, 0.0), quotient(1.0, 2.0)), (None, Some(0.5)));
    }
}
