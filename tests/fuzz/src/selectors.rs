//! Selectors: what is read is written the same, and its parts make it again.

use mayfly_model::Selector;

/// One text.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text);
        assert_eq!(Selector::new(selector.kind(), selector.value()), Ok(selector.clone()));
        assert!(!selector.kind().is_empty() && !selector.kind().contains(':') && !selector.value().is_empty());
    }
}
