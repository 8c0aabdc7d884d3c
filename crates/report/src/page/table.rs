//! Tables that a screen reader can walk, and that never are as long as the log.

use maud::{Markup, html};

use super::words::{count, many};

/// The most rows on the page; the JSON has the others.
const ROWS_MAX: usize = 100;

/// A column.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// Of text.
    T(&'static str),
    /// Of numbers, which stand at the right.
    N(&'static str),
}

/// A table of `rows`, each with as many cells as there are columns; the first names the row. `left_out` rows are not here.
pub(super) fn table(caption: &str, columns: &[Column], rows: Vec<Vec<Markup>>, left_out: u64) -> Markup {
    if rows.is_empty() {
        return html! { p.empty { (caption) ": none." } };
    }
    let hidden = rows.len().saturating_sub(ROWS_MAX) as u64;
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr {
                    @for column in columns {
                        @match column {
                            Column::T(name) => th scope="col" { (name) },
                            Column::N(name) => th.number scope="col" { (name) },
                        }
                    }
                } }
                tbody {
                    @for row in rows.iter().take(ROWS_MAX) {
                        tr {
                            @for (cell, column) in row.iter().zip(columns).take(1) {
                                th.number[is_number(column)] scope="row" { (cell) }
                            }
                            @for (cell, column) in row.iter().zip(columns).skip(1) {
                                td.number[is_number(column)] { (cell) }
                            }
                        }
                    }
                }
            }
        }
        @if hidden > 0 { p.more { (many(hidden, "further row")) " in " code { "report.json" } "." } }
        @if left_out > 0 { p.more { (count(left_out)) " more in the log; the table of the report was full." } }
    }
}

/// Pairs of a name and a value.
pub(super) fn facts(pairs: Vec<(&str, Markup)>) -> Markup {
    html! {
        dl.facts { @for (name, value) in pairs { div { dt { (name) } dd { (value) } } } }
    }
}

fn is_number(column: &Column) -> bool {
    matches!(column, Column::N(_))
}
