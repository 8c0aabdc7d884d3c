//! Text of `/proc`: nothing panics, and no process name moves the fields behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mayfly_agent::attest::proc_text::{stat, status};

fuzz_target!(|text: &[u8]| {
    let _ = status(text);
    let _ = stat(text);
    let fields = b" S 1 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 1000 10";
    let named = [b"1 (".as_slice(), text, b")", fields].concat();
    let found = stat(&named).expect("the fields are whole");
    assert_eq!((found.state, found.start_time), (b'S', 4711));
});
