//! A journal as Markdown, for READMEs: where and with what it was measured, and a table a workload.

use crate::columns::Grid;
use crate::journal::Recorded;
use crate::journal::groups::{Panel, title};

/// The newest of each workload.
pub(crate) fn text(recorded: &Recorded, baseline: Option<&str>) -> String {
    let mut text = String::new();
    for panel in Panel::newest(recorded) {
        let rows: Vec<_> = panel.rows.iter().collect();
        let grid = Grid::of(&panel, &rows, baseline);
        let (workload, title) = (one_line(panel.workload), title(panel.workload, panel.forward));
        text.push_str(&format!("**{workload}**: {}\n\n{}\n", one_line(&title), grid.text()));
        for row in &panel.rows {
            let name = one_line(row.name);
            if let Some(why) = row.absent {
                text.push_str(&format!("- {name} was not measured: {}\n", one_line(why)));
            }
            if let Some((count, why)) = row.failures() {
                let all = row.runs.len();
                text.push_str(&format!(
                    "- {name}: {count} of {all} runs failed: {}\n",
                    one_line(&why)
                ));
            }
        }
        text.push_str(&format!("\n{}\n\n", origin(&panel)));
    }
    text.push_str(
        "Median [min–max] of all rounds; ×: median of the ratios within a round. Gb/s and kpps are \
         payload at the receiver. ~n/m: in n of m runs others took more than 5 % of the CPU \
         time.\n",
    );
    text
}

/// Where a panel is from, in one line.
pub(crate) fn origin(panel: &Panel<'_>) -> String {
    let rounds = panel.rows.iter().map(|row| row.runs.len()).max().unwrap_or_default();
    let (first, last) = panel.dates;
    let dates = if first == last { first.to_owned() } else { format!("{first} to {last}") };
    let machine = &panel.setting.machine;
    one_line(&format!(
        "{rounds} round(s), commit {}, {dates}, kernel {}, {}",
        panel.setting.commit, machine.kernel, machine.cpu
    ))
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
