//! Figures as people read them: three digits and a unit, aligned by the caller; and colour.

use std::io::IsTerminal;

/// Colours, or their absence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    /// Colours for a terminal, unless NO_COLOR is set (<https://no-color.org>).
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: stream.is_terminal() && !refused }
    }

    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { colour: false };

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn curve(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// Three significant digits.
fn three(x: f64) -> String {
    match x {
        x if x >= 99.95 => format!("{x:.0}"),
        x if x >= 9.995 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

fn scaled(x: f64, units: [&str; 4]) -> String {
    let mut x = x.max(0.0);
    let mut unit = units[0];
    for next in &units[1..] {
        if x < 999.5 {
            break;
        }
        x /= 1e3;
        unit = next;
    }
    if x == 0.0 { format!("0 {unit}") } else { format!("{} {unit}", three(x)) }
}

/// `9.42 Gb/s`.
pub(super) fn bits(per_second: f64) -> String {
    scaled(per_second, ["b/s", "kb/s", "Mb/s", "Gb/s"])
}

/// `812 kpkt/s`.
pub(super) fn packets(per_second: f64) -> String {
    scaled(per_second, ["pkt/s", "kpkt/s", "Mpkt/s", "Gpkt/s"])
}

/// `82.4 µs`.
pub(super) fn micros(us: f64) -> String {
    scaled(us * 1e3, ["ns", "µs", "ms", "s"])
}

/// `416 KiB`.
pub(super) fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 { format!("{kib:.0} KiB") } else { format!("{} MiB", three(kib / 1024.0)) }
}

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `44.8`, or a dash where nothing was counted.
pub(super) fn ratio(x: Option<f64>) -> String {
    x.map_or_else(|| "–".to_owned(), |x| if x >= 9.995 { format!("{x:.1}") } else { three(x) })
}

/// The last `width` values as blocks, the largest of them full height.
pub(super) fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let block = |value: f64| {
        // The first threshold that the value does not pass.
        let level =
            BLOCKS.iter().zip(1_u8..).find(|(_, step)| value * 8.0 <= highest * f64::from(*step));
        level.map_or('█', |(block, _)| *block)
    };
    shown.iter().map(|&value| if highest > 0.0 { block(value) } else { '▁' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(bits(9_421_000_000.0), "9.42 Gb/s");
        assert_eq!(bits(999_600.0), "1.00 Mb/s");
        assert_eq!(bits(0.0), "0 b/s");
        assert_eq!(bits(123_456_000_000.0), "123 Gb/s");
        assert_eq!(packets(812_345.0), "812 kpkt/s");
        assert_eq!(micros(82.44), "82.4 µs");
        assert_eq!(micros(1_234.0), "1.23 ms");
        assert_eq!((size(425_984), size(4 << 20)), ("416 KiB".into(), "4.00 MiB".into()));
        assert_eq!((count(0), count(1_234_567)), ("0".into(), "1,234,567".into()));
        assert_eq!((ratio(None), ratio(Some(44.83))), ("–".into(), "44.8".into()));
    }

    #[test]
    fn sparklines_scale_to_their_highest() {
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0], 4), "▁▁▄█");
        assert_eq!(sparkline(&[9.0, 0.0, 0.0], 2), "▁▁");
        assert_eq!(sparkline(&[], 5), "");
    }
}
