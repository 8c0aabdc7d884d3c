//! Selectors: what is read is written the same, and its parts make it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mayfly_model::Selector;

fuzz_target!(|text: &str| {
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text);
        assert_eq!(Selector::new(selector.kind(), selector.value()), Ok(selector.clone()));
    }
});
