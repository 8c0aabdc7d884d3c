//! What a person reads: lines while it runs, a table at the end.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::figure::{Figure, Run, number};

/// A figure in one line.
pub fn line(figure: &Figure) -> String {
    let mut line = format!(
        "{} {}: {} {}",
        figure.id,
        figure.name,
        number(figure.value),
        figure.unit
    );
    if let Some(share) = figure.share {
        line += &format!(", {:.0} % of the limit", share * 100.0);
    }
    if let (Some(gate), Some(met)) = (figure.gate, figure.met) {
        line += &format!(" (gate {gate}: {})", verdict(met));
    }
    for (name, value) in &figure.more {
        line += &format!("; {name} {}", number(*value));
    }
    line
}

/// Whether a gate holds, in words.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT met" }
}

/// All of a run.
pub fn table(run: &Run) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["id", "figure", "seen", "", "limit", "reached", "gate", ""]);
    for figure in &run.figures {
        table.add_row([
            figure.id.clone(),
            figure.name.clone(),
            number(figure.value),
            figure.unit.clone(),
            figure.limit.map(number).unwrap_or_default(),
            figure
                .share
                .map(|share| format!("{:.0} %", share * 100.0))
                .unwrap_or_default(),
            figure.gate.map(|gate| gate.to_string()).unwrap_or_default(),
            figure.met.map(|met| verdict(met).to_owned()).unwrap_or_default(),
        ]);
    }
    for column in [2, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}
