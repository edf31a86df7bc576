//! Where values lie on an axis, and which values it names.

use crate::table::figure;

/// From 0 to a round number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Linear {
    step: f64,
    steps: u32,
}

impl Linear {
    /// Far enough for `max`, with 2 to 5 steps.
    pub(super) fn to(max: f64) -> Self {
        let usable = max.is_finite() && max > 0.0 && max < 1e300;
        let max = if usable { max.max(1e-300) } else { 1.0 };
        let magnitude = 10_f64.powf((max / 5.0).log10().floor());
        let steps = |step: f64| (max / (step * magnitude) - 1e-9).ceil();
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|&it| steps(it) <= 5.0);
        let step = step.unwrap_or(10.0);
        let count = (1..=5).find(|&it| f64::from(it) >= steps(step)).unwrap_or(5);
        Self { step: step * magnitude, steps: count }
    }

    /// In per cent of the axis, never beyond it.
    pub(super) fn percent(&self, value: f64) -> f64 {
        let percent = 100.0 * value / (self.step * f64::from(self.steps));
        if percent.is_nan() { 0.0 } else { percent.clamp(0.0, 100.0) }
    }

    /// Whether the axis ends before it.
    pub(super) fn is_beyond(&self, value: f64) -> bool {
        value > self.step * f64::from(self.steps) * 1.0001
    }

    /// What it names: (per cent, text).
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let tick = |index| {
            let text =
                if index == 0 { "0".to_owned() } else { short(self.step * f64::from(index)) };
            (100.0 * f64::from(index) / f64::from(self.steps), text)
        };
        (0..=self.steps).map(tick).collect()
    }
}

/// Logarithmic, for positive values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Log {
    low: f64,
    high: f64,
}

impl Log {
    /// Around these values; none for none that are positive.
    pub(super) fn around(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let usable = values.into_iter().filter(|it| it.is_finite() && (1e-12..1e12).contains(it));
        let logs: Vec<f64> = usable.map(f64::log10).collect();
        let low = logs.iter().copied().reduce(f64::min)?;
        let high = logs.iter().copied().reduce(f64::max)?;
        let margin = ((high - low) * 0.05).max(0.05);
        Some(Self { low: low - margin, high: high + margin })
    }

    /// In per cent of the axis, never beyond it.
    pub(super) fn percent(&self, value: f64) -> f64 {
        let log = if value > 0.0 { value.log10() } else { self.low };
        (100.0 * (log - self.low) / (self.high - self.low)).clamp(0.0, 100.0)
    }

    /// 1, 2 and 5 of each power of ten, or the powers alone where there are many.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let multiples: &[f64] = if self.high - self.low > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = (-12..=12).map(|power| 10_f64.powi(power));
        let all = powers.flat_map(|power| multiples.iter().map(move |it| it * power));
        all.filter(|it| (self.low..=self.high).contains(&it.log10())).collect()
    }
}

/// A time in the unit that suits it.
pub(super) fn time(us: f64) -> String {
    match us {
        us if us >= 999_500.0 => format!("{} s", short(us / 1e6)),
        us if us >= 999.5 => format!("{} ms", short(us / 1e3)),
        us => format!("{} µs", short(us)),
    }
}

/// Three digits, without zeros at the end.
pub(super) fn short(value: f64) -> String {
    let text = figure(Some(value));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = |max| Linear::to(max).ticks().last().unwrap().1.clone();
        assert_eq!(
            [9.4, 10.0, 10.1, 0.31, 1.0, 21_430.0].map(ends),
            ["10", "10", "12.5", "0.4", "1", "25000"]
        );
        assert_eq!(Linear::to(10.0).percent(2.5), 25.0);
        assert_eq!(Linear::to(10.0).percent(25.0), 100.0);
        assert!(Linear::to(10.0).is_beyond(10.1) && !Linear::to(10.0).is_beyond(10.0));
    }

    #[test]
    fn nothing_breaks_an_axis() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE, 5e-324] {
            let axis = Linear::to(value);
            assert!((2..=6).contains(&axis.ticks().len()), "{value}");
            assert!((0.0..=100.0).contains(&axis.percent(1.0)), "{value}");
            assert!((0.0..=100.0).contains(&axis.percent(f64::NAN)), "{value}");
        }
        assert_eq!(Log::around([0.0, -1.0, f64::NAN]), None);
        let one = Log::around([50.0]).unwrap();
        assert!((one.percent(50.0) - 50.0).abs() < 1e-6);
        assert_eq!(one.percent(-1.0), 0.0);
    }

    #[test]
    fn logarithmic_axes_name_round_numbers() {
        assert_eq!(
            Log::around([30.0, 900.0]).unwrap().ticks(),
            [50.0, 100.0, 200.0, 500.0, 1000.0]
        );
        assert_eq!([50.0, 1000.0, 2_500_000.0].map(time), ["50 µs", "1 ms", "2.5 s"]);
    }
}
