//! The grammar: help of every command under snapshot, completion, and clap's own checks.

use clap::Command;

use super::{COMMANDS, command};
use crate::testing::mayfly;

/// Help of a command and of all below it, as in a terminal of 100 columns.
fn help(command: &mut Command, path: &str, all: &mut String) {
    let path = format!("{path} {}", command.get_name());
    all.push_str(&format!("$ {} --help\n{}\n", path.trim(), command.render_help()));
    for verb in command.get_subcommands_mut() {
        help(verb, &path, all);
    }
}

#[test]
fn the_grammar_is_sound() {
    command().debug_assert();
}

#[test]
fn help_of_the_whole() {
    insta::assert_snapshot!(command().term_width(100).render_help());
}

#[test]
fn examples_can_be_copied_from_a_terminal_of_80_columns() {
    fn check(command: &Command) {
        let texts = [command.get_after_help(), command.get_after_long_help()];
        for text in texts.into_iter().flatten() {
            for line in text.to_string().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
        command.get_subcommands().for_each(check);
    }
    check(&command());
}

#[test]
fn help_of_each_noun() {
    for noun in COMMANDS {
        // The common options are in the help of the whole; here they would hide what differs.
        let mut command = (noun.command)().term_width(100).disable_help_flag(true);
        let mut all = String::new();
        help(&mut command, "mayfly", &mut all);
        insta::assert_snapshot!(format!("help_{}", noun.name), all);
    }
}

#[tokio::test]
async fn completion_knows_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = mayfly(["completion".into(), shell.into()], Default::default(), dir.path()).await;
        assert_eq!(ran.code, 0);
        for noun in COMMANDS {
            assert!(ran.out.contains(noun.name), "{shell} does not know {}", noun.name);
        }
    }
}

#[tokio::test]
async fn a_wrong_word_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["entries"][..],
        &["entry", "create", "--sellector", "x"],
        &["svid", "watch", "--updates", "0"],
    ] {
        let ran = mayfly(args.iter().map(Into::into), Default::default(), dir.path()).await;
        assert_eq!(ran.code, 2, "{args:?}");
    }
}
