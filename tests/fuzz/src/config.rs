//! The config files of server and agent: a file is refused with lines that exist, or gives the same settings each time.

use std::path::Path;

use arbitrary::Unstructured;
use mayfly_agent::config::{self as agent, Overrides};
use mayfly_server::config::Settings as Server;

use crate::input::{byte, rest};

const SERVER: &str = "trust_domain = 'td'\ndata_dir = '/d'\n";
const AGENT: &str = "trust_domain = 'td'\nserver_address = 'h:1'\ninsecure_bootstrap = true\n";
const TOKEN: &str = "[attestor.join_token]\ntoken_file = 't'\n";

/// A file; for the server or the agent, whole or with the least that it needs before or around it.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mode = byte(&mut input) % 4;
    let Ok(text) = std::str::from_utf8(rest(&mut input)) else {
        return;
    };
    let least = [SERVER, AGENT][usize::from(mode & 1)];
    let text = match mode {
        0 | 1 => text.to_owned(),
        2 => format!("{least}{text}"),
        _ => format!("{least}{text}\n{TOKEN}"),
    };
    let path = Path::new("/etc/mayfly/a.toml");
    let read = || {
        if mode & 1 == 0 {
            Server::parse(path, &text).map(|loaded| loaded.effective)
        } else {
            agent::parse(path, &text, &Overrides::default()).map(|settings| settings.effective)
        }
    };
    match read() {
        Ok(effective) => {
            assert!(
                effective
                    .iter()
                    .any(|(key, value)| key == "trust_domain" && !value.is_empty())
            );
            assert_eq!(read().ok(), Some(effective));
        }
        Err(problems) => {
            assert!(problems.len() > 0, "refused without a reason");
            let shown = problems.to_string();
            assert!(!shown.is_empty());
            // Reading and showing once more takes as long again, and most inputs come here: an eighth of them will do.
            if text.len() % 8 == 0 {
                assert_eq!(read().err().map(|again| again.to_string()), Some(shown));
            }
        }
    }
}
