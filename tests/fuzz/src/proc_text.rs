//! Text of `/proc`: what is read is what stands there, and no process name moves the fields behind it.

use mayfly_agent::attest::proc_text::{stat, status};

/// One text, as each of the files.
///
/// # Panics
/// The property does not hold.
pub fn run(text: &[u8]) {
    let _ = stat(text);
    let fields = b" S 1 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 1000 10";
    let named = [b"1 (".as_slice(), text, b")", fields].concat();
    let found = stat(&named).expect("the fields are whole");
    assert_eq!((found.state, found.start_time), (b'S', 4711));

    if let Ok(found) = status(text) {
        // Each field on the one line that begins with its name, and nowhere else.
        let ids = |field: &str| -> Vec<u32> {
            let mut lines = text
                .split(|byte| *byte == b'\n')
                .filter_map(|line| line.strip_prefix(field.as_bytes()));
            let line = lines.next().expect("the field is there");
            assert!(lines.next().is_none(), "{field} is there twice");
            let line = std::str::from_utf8(line).expect("numbers are ASCII");
            let words = line.split_ascii_whitespace();
            words.map(|word| word.parse().expect("a number")).collect()
        };
        assert_eq!(ids("Uid:"), found.uids);
        assert_eq!(ids("Gid:"), found.gids);
        assert_eq!(ids("Groups:"), found.groups);
    }

    // The kernel writes a name's line feeds as `\n` in `status`: no other byte begins a field.
    let name: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\n').collect();
    let rest = b"\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 \n";
    let named = [b"Name:\t".as_slice(), &name, rest].concat();
    let found = status(&named).expect("the fields are whole");
    assert_eq!(
        (found.uids, found.gids, found.groups),
        ([1, 2, 3, 4], [5, 6, 7, 8], vec![9])
    );
}
