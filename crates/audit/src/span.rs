//! Spans of time.

/// A span of time in Unix seconds: from the first that is in it to the first that is not.
pub type Span = (i64, i64);

/// The same instants in as few spans as possible, in order.
pub fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|(from, to)| from < to);
    spans.sort_unstable();
    let mut result: Vec<Span> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match result.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => result.push((from, to)),
        }
    }
    result
}

/// What of `spans` is within `frame`.
pub fn within(spans: &[Span], frame: Span) -> Vec<Span> {
    let cut = spans
        .iter()
        .map(|(from, to)| ((*from).max(frame.0), (*to).min(frame.1)));
    cut.filter(|(from, to)| from < to).collect()
}

/// What of `spans` is in none of `others`; both merged.
pub fn without(spans: &[Span], others: &[Span]) -> Vec<Span> {
    let mut rest = vec![];
    for (from, to) in spans {
        let (begins, mut from) = (*from, *from);
        for (begin, end) in others.iter().filter(|(begin, end)| *begin < *to && *end > begins) {
            if *begin > from {
                rest.push((from, *begin));
            }
            from = from.max(*end);
        }
        if from < *to {
            rest.push((from, *to));
        }
    }
    rest
}

/// Seconds in `spans`, each one counted as often as it is in one.
pub fn seconds(spans: &[Span]) -> i64 {
    let each = spans.iter().map(|(from, to)| to.saturating_sub(*from).max(0));
    each.fold(0, i64::saturating_add)
}

/// `part` of `whole` in thousandths, rounded down; 0 of nothing.
pub fn permille(part: i64, whole: i64) -> u64 {
    if whole <= 0 {
        return 0;
    }
    u64::try_from(i128::from(part.max(0)) * 1000 / i128::from(whole)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_are_one() {
        assert_eq!(merged(vec![(5, 9), (1, 3), (3, 4), (6, 7), (8, 8)]), [(1, 4), (5, 9)]);
    }

    #[test]
    fn what_is_cut_out_is_gone() {
        assert_eq!(
            without(&[(0, 10), (20, 30)], &[(2, 4), (8, 22)]),
            [(0, 2), (4, 8), (22, 30)]
        );
        assert_eq!(without(&[(0, 10)], &[(0, 10)]), []);
        assert_eq!(within(&[(0, 10), (20, 30)], (5, 25)), [(5, 10), (20, 25)]);
    }

    #[test]
    fn shares_are_whole_thousandths() {
        assert_eq!(permille(1, 3), 333);
        assert_eq!(permille(i64::MAX, i64::MAX), 1000);
        assert_eq!(permille(5, 0), 0);
    }
}
