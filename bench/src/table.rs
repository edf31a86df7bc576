//! Aligned tables, for terminals and (the same text) for Markdown.

use crate::statistics::Spread;

/// Rows of cells under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts with the names of the columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row; cells it does not have stay empty.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, which is valid Markdown: the first column to the left, all others to the right.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let len = |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
            self.rows.iter().map(len).max().unwrap_or(0).max(2)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                text.push_str(if column == 0 { "| " } else { " | " });
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if column == 0 { ("", &*pad) } else { (&*pad, "") };
                text.extend([before, cell, after]);
            }
            text.push_str(" |\n");
            if number == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width + 1);
                    let rule =
                        if column == 0 { format!("|:{dashes}") } else { format!("|{dashes}:") };
                    text.push_str(&rule);
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// Three significant digits, or a dash.
pub(crate) fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 99.95 => format!("{value:.0}"),
        Some(value) if value.abs() >= 9.995 => format!("{value:.1}"),
        Some(value) if value.abs() >= 0.0995 || value == 0.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

/// A whole number.
pub(crate) fn count(value: f64) -> String {
    // The sum of nothing is -0.
    format!("{:.0}", value + 0.0)
}

/// `9.41 [9.02–9.77]`.
pub(crate) fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |Spread { median, min, max }| {
            let [median, min, max] = [median, min, max].map(|value| figure(Some(value)));
            format!("{median} [{min}–{max}]")
        },
    )
}

/// How many of all runs were disturbed; nothing for none.
pub(crate) fn disturbed(count: usize, all: usize) -> String {
    if count > 0 { format!("~{count}/{all}") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_characters() {
        let mut table = Table::new(&["tunnel", "p50 µs"]);
        table.push(vec!["veth".into(), "10.5".into()]);
        table.push(vec!["a longer one".into()]);
        let expected = "\
            | tunnel       | p50 µs |\n\
            |:-------------|-------:|\n\
            | veth         |   10.5 |\n\
            | a longer one |        |\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn nothing_is_zero() {
        assert_eq!([count([].iter().sum()), count(2.6)], ["0", "3"]);
    }

    #[test]
    fn figures_have_three_digits() {
        let values = [None, Some(0.0), Some(0.01234), Some(1.234), Some(12.34), Some(123.4)];
        assert_eq!(values.map(figure), ["–", "0.00", "0.0123", "1.23", "12.3", "123"]);
    }
}
