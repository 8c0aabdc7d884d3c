//! Charts as SVG: no scripts, sizes that scale, and a description in words for those who do not see them.
//!
//! Every value is also written as text beside its mark or in a table below, so colour alone says nothing.

use maud::{Markup, html};

use super::words::{self, shortened};

/// The width of every chart, in its own units; the page scales it.
const WIDTH: i64 = 760;
/// Rows of a chart; the rest is in the table below it.
const ROWS_MAX: usize = 12;
/// Where bars begin, behind their labels.
const LEFT: i64 = 230;
/// Where they end, before their values.
const RIGHT: i64 = 640;
const ROW: i64 = 26;

/// What a chart shows, in words.
pub(super) struct Caption<'a> {
    /// Unique on the page.
    pub id: &'a str,
    pub title: &'a str,
    /// What is to be seen in it.
    pub description: String,
}

/// A row of [`bars`].
pub(super) struct Bar {
    pub label: String,
    pub value: i64,
    /// The value for people.
    pub text: String,
    /// Whether it is above what it should be.
    pub is_high: bool,
}

/// A value at a mark of [`marks`].
pub(super) struct Marks {
    pub label: String,
    pub p50: i64,
    pub p95: i64,
    pub max: i64,
    pub count: u64,
    pub is_high: bool,
}

/// A span of [`timeline`].
pub(super) struct Event {
    pub label: String,
    pub from: i64,
    pub to: i64,
    /// Beside it, such as `overdue`.
    pub text: String,
    pub is_high: bool,
}

/// A line across [`bars`] at a value, such as a threshold.
pub(super) type Line<'a> = Option<(i64, &'a str)>;

/// Bars from left to right, with their values behind them.
pub(super) fn bars(caption: &Caption<'_>, rows: Vec<Bar>, line: Line<'_>) -> Markup {
    let shown = rows.iter().take(ROWS_MAX);
    let most = shown.clone().map(|bar| bar.value).chain(line.map(|(at, _)| at)).max();
    let scale = Scale::linear(0, most.unwrap_or(1), LEFT, RIGHT);
    let top = if line.is_some() { 22 } else { 4 };
    let height = top + ROW * shown.len() as i64 + 4;
    frame(
        caption,
        height,
        html! {
            @for (place, bar) in shown.enumerate() {
                @let y = top + ROW * place as i64;
                (label(&bar.label, y))
                rect.track x=(LEFT) y=(y + 4) width=(RIGHT - LEFT) height="16" rx="3" {}
                rect.mark.high[bar.is_high] x=(LEFT) y=(y + 4) width=(scale.length(bar.value)) height="16" rx="3" {
                    title { (shortened(&bar.label, 200)) ": " (bar.text) }
                }
                text.value x=(RIGHT + 8) y=(y + 16) { (bar.text) @if bar.is_high { " ▲" } }
            }
            @if let Some((at, name)) = line {
                line.limit x1=(scale.at(at)) x2=(scale.at(at)) y1="18" y2=(height) {}
                text.axis x=(scale.at(at)) y="13" text-anchor="middle" { (name) }
            }
        },
        rows.len(),
    )
}

/// Median, 95th percentile and maximum of each row, on a scale on which a second and a day are both to be seen.
pub(super) fn marks(caption: &Caption<'_>, rows: Vec<Marks>, line: Line<'_>) -> Markup {
    let shown = rows.iter().take(ROWS_MAX);
    let most = shown.clone().map(|row| row.max).chain(line.map(|(at, _)| at)).max();
    let scale = Scale::log(most.unwrap_or(1), LEFT, RIGHT);
    let (top, count) = (if line.is_some() { 22 } else { 6 }, shown.len() as i64);
    let floor = top + ROW * count;
    frame(
        caption,
        floor + 24,
        html! {
            @for (seconds, name) in TICKS.iter().filter(|(seconds, _)| *seconds <= most.unwrap_or(1)) {
                line.grid x1=(scale.at(*seconds)) x2=(scale.at(*seconds)) y1=(top) y2=(floor) {}
                text.axis x=(scale.at(*seconds)) y=(floor + 16) text-anchor="middle" { (name) }
            }
            @for (place, row) in shown.enumerate() {
                @let y = top + ROW * place as i64 + 12;
                (label(&row.label, y - 12))
                @let values = format!("median {}, 95th percentile {}, most {} (of {})",
                    words::span(row.p50), words::span(row.p95), words::span(row.max), row.count);
                g.mark.high[row.is_high] {
                    title { (shortened(&row.label, 200)) ": " (values) }
                    rect.range x=(scale.at(row.p50)) y=(y - 2) width=(scale.between(row.p50, row.max)) height="4" {}
                    circle cx=(scale.at(row.p50)) cy=(y) r="6" {}
                    rect x=(scale.at(row.p95) - 4) y=(y - 5) width="8" height="10" {}
                    rect x=(scale.at(row.max) - 1) y=(y - 8) width="3" height="16" {}
                }
                text.value x=(RIGHT + 8) y=(y + 4) { (words::span(row.p50)) " / " (words::span(row.max)) @if row.is_high { " ▲" } }
            }
            @if let Some((at, name)) = line {
                line.limit x1=(scale.at(at)) x2=(scale.at(at)) y1="18" y2=(floor) {}
                text.axis x=(scale.at(at)) y="13" text-anchor="middle" { (name) }
            }
        },
        rows.len(),
    )
}

/// One column for each day.
pub(super) fn columns(caption: &Caption<'_>, days: &[(i64, i64)], write: fn(i64) -> String) -> Markup {
    let (left, right, top, floor) = (70, WIDTH - 10, 10, 150);
    let most = days.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let height = Scale::linear(0, most, 0, floor - top);
    let step = (right - left) as f64 / days.len().max(1) as f64;
    let at = |place: usize| left as f64 + step * place as f64;
    let every = days.len().div_ceil(8).max(1);
    frame(
        caption,
        floor + 26,
        html! {
            @for (value, name) in [(0, write(0)), (most / 2, write(most / 2)), (most, write(most))] {
                @let y = floor - height.length(value);
                line.grid x1=(left) x2=(right) y1=(y) y2=(y) {}
                text.axis x=(left - 8) y=(y + 4) text-anchor="end" { (name) }
            }
            @for (place, (day, value)) in days.iter().enumerate() {
                @let tall = height.length(*value).max(i64::from(*value > 0));
                rect.mark x=(fixed(at(place) + step * 0.1)) y=(floor - tall) width=(fixed((step * 0.8).max(0.5))) height=(tall) {
                    title { (words::day(*day)) ": " (write(*value)) }
                }
                @if place % every == 0 {
                    text.axis x=(fixed(at(place) + step / 2.0)) y=(floor + 18) text-anchor="middle" { (short_day(*day)) }
                }
            }
        },
        0,
    )
}

/// Two steps over time: what may be, as a line, and what is, as an area below it.
pub(super) fn steps(caption: &Caption<'_>, samples: &[(i64, u64, u64)]) -> Markup {
    let (left, right, top, floor) = (50, WIDTH - 10, 10, 150);
    // More than two columns a unit cannot be seen; of those that fall together the most is shown.
    let width = samples.len().div_ceil(((right - left) * 2) as usize).max(1);
    let points: Vec<(i64, u64, u64)> = samples
        .chunks(width)
        .map(|chunk| {
            let (open, live) = (chunk.iter().map(|s| s.1).max(), chunk.iter().map(|s| s.2).max());
            (chunk[0].0, open.unwrap_or(0), live.unwrap_or(0))
        })
        .collect();
    let most = points
        .iter()
        .map(|(_, open, live)| *open.max(live))
        .max()
        .unwrap_or(0)
        .max(1);
    let (first, last) = (points.first().map_or(0, |p| p.0), points.last().map_or(1, |p| p.0));
    let (x, y) = (
        Scale::linear(first, last.max(first.saturating_add(1)), left, right),
        Scale::linear(0, i64::try_from(most).unwrap_or(i64::MAX), 0, floor - top),
    );
    let path = |value: fn(&(i64, u64, u64)) -> u64, is_area: bool| {
        let mut text = String::new();
        let mut before = None;
        for point in &points {
            let (at, tall) = (
                x.at(point.0),
                floor - y.length(i64::try_from(value(point)).unwrap_or(i64::MAX)),
            );
            match before {
                None if is_area => text.push_str(&format!("M{at} {floor}V{tall}")),
                None => text.push_str(&format!("M{at} {tall}")),
                Some(same) if same == tall => continue,
                Some(_) => text.push_str(&format!("H{at}V{tall}")),
            }
            before = Some(tall);
        }
        if !points.is_empty() {
            text.push_str(&format!("H{right}"));
        }
        if is_area && !points.is_empty() {
            text.push_str(&format!("V{floor}Z"));
        }
        text
    };
    let (open, live) = (path(|p| p.1, false), path(|p| p.2, true));
    frame(
        caption,
        floor + 26,
        html! {
            @for value in axis(most) {
                @let y = floor - y.length(i64::try_from(value).unwrap_or(i64::MAX));
                line.grid x1=(left) x2=(right) y1=(y) y2=(y) {}
                text.axis x=(left - 8) y=(y + 4) text-anchor="end" { (value) }
            }
            path.area d=(live) {}
            path.line d=(open) {}
            @for part in 0..5i64 {
                @let when = quarter(first, last, part);
                @let anchor = match part { 0 => "start", 4 => "end", _ => "middle" };
                text.axis x=(x.at(when)) y=(floor + 18) text-anchor=(anchor) { (words::day(when)) }
            }
        },
        0,
    )
}

/// Spans within a period, one below the other.
pub(super) fn timeline(caption: &Caption<'_>, period: (i64, i64), events: Vec<Event>) -> Markup {
    let scale = Scale::linear(period.0, period.1.max(period.0.saturating_add(1)), LEFT, RIGHT);
    let shown = events.iter().take(ROWS_MAX * 2);
    let floor = 6 + ROW * shown.len() as i64;
    frame(
        caption,
        floor + 24,
        html! {
            @for part in 0..5i64 {
                @let when = quarter(period.0, period.1, part);
                line.grid x1=(scale.at(when)) x2=(scale.at(when)) y1="4" y2=(floor) {}
                text.axis x=(scale.at(when)) y=(floor + 16) text-anchor="middle" { (short_day(when)) }
            }
            @for (place, event) in shown.enumerate() {
                @let y = 6 + ROW * place as i64;
                @let from = scale.at(event.from);
                (label(&event.label, y))
                rect.mark.high[event.is_high] x=(from.min(RIGHT - 6)) y=(y + 4) width=(scale.between(event.from, event.to).max(6)) height="16" rx="2" {
                    title { (shortened(&event.label, 200)) ": " (words::moment(event.from)) " to " (words::moment(event.to)) ", " (event.text) }
                }
                text.value x=(RIGHT + 8) y=(y + 16) { (event.text) @if event.is_high { " ▲" } }
            }
        },
        events.len().div_ceil(2),
    )
}

/// Ticks of durations.
const TICKS: [(i64, &str); 7] = [
    (1, "1 s"),
    (10, "10 s"),
    (60, "1 min"),
    (600, "10 min"),
    (3_600, "1 h"),
    (36_000, "10 h"),
    (604_800, "7 d"),
];

fn frame(caption: &Caption<'_>, height: i64, inner: Markup, rows: usize) -> Markup {
    let (title, description) = (format!("{}-t", caption.id), format!("{}-d", caption.id));
    html! {
        figure {
            figcaption { (caption.title) }
            svg.chart id=(caption.id) role="img" aria-labelledby=(format!("{title} {description}"))
                viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height) {
                title id=(title) { (caption.title) }
                desc id=(description) { (caption.description) }
                (inner)
            }
            p.reading { (caption.description) @if rows > ROWS_MAX { " The first " (ROWS_MAX) " are drawn." } }
        }
    }
}

fn label(text: &str, y: i64) -> Markup {
    html! { text.label x=(LEFT - 10) y=(y + 16) text-anchor="end" direction="ltr" { (shortened(text, 32)) } }
}

fn short_day(at: i64) -> String {
    let day = words::day(at);
    day.get(5..).map_or(day.clone(), str::to_owned)
}

/// Three values of an axis, or two if there are no whole ones between.
fn axis(most: u64) -> Vec<u64> {
    match most {
        0 | 1 => vec![0, 1],
        _ => vec![0, most / 2, most],
    }
}

/// The instant after so many quarters of a period.
fn quarter(from: i64, to: i64, part: i64) -> i64 {
    let length = i128::from(to) - i128::from(from);
    i64::try_from(i128::from(from) + length / 4 * i128::from(part)).unwrap_or(to)
}

fn fixed(value: f64) -> String {
    format!("{value:.1}")
}

/// Values to places.
struct Scale {
    low: i64,
    high: i64,
    from: i64,
    to: i64,
    is_log: bool,
}

impl Scale {
    fn linear(low: i64, high: i64, from: i64, to: i64) -> Self {
        let high = high.max(low.saturating_add(1));
        Self {
            low,
            high,
            from,
            to,
            is_log: false,
        }
    }

    fn log(high: i64, from: i64, to: i64) -> Self {
        Self {
            low: 0,
            high: high.max(1),
            from,
            to,
            is_log: true,
        }
    }

    fn at(&self, value: i64) -> i64 {
        self.from + self.length(value)
    }

    fn between(&self, from: i64, to: i64) -> i64 {
        (self.length(to) - self.length(from)).max(0)
    }

    fn length(&self, value: i64) -> i64 {
        let above = |value: i64| value.clamp(self.low, self.high).saturating_sub(self.low) as f64;
        let (part, whole) = match self.is_log {
            true => (above(value).ln_1p(), above(self.high).ln_1p()),
            false => (above(value), above(self.high)),
        };
        (part / whole * (self.to - self.from) as f64).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_drawn_stays_within_the_chart() {
        for scale in [
            Scale::linear(0, 0, 10, 20),
            Scale::log(0, 10, 20),
            Scale::linear(i64::MIN, i64::MAX, 10, 20),
        ] {
            for value in [i64::MIN, -1, 0, 1, i64::MAX] {
                assert!((10..=20).contains(&scale.at(value)));
            }
        }
        assert_eq!(Scale::linear(0, 100, 0, 400).length(25), 100);
    }
}
