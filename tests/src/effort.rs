//! How much a story does: enough for every change, or all that is promised.

/// `full` where the tests were started by `tests/run --full`, else `short`, which shows the same in minutes.
///
/// A story that uses it prints the count it ran with, so that nobody takes one for the other.
#[must_use]
pub fn effort<T>(short: T, full: T) -> T {
    if std::env::var_os("MAYFLY_FULL").is_some() {
        full
    } else {
        short
    }
}
