//! The targets without libFuzzer: the kept corpora, and mutations of them that are the same in every run.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mayfly_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const SEED: u64 = 0x6d61_7966_6c79;

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new("corpus").join(target.name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a folder can be listed").path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("a file can be read"));
    files.into_iter().map(read).collect()
}

/// Some edits, and at times a part of another input.
fn mutated(mut input: Vec<u8>, other: &[u8], random: &mut StdRng) -> Vec<u8> {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=input.len());
        match (random.random_range(0..6), input.get_mut(at)) {
            (0, Some(byte)) => *byte = random.random(),
            (1, Some(byte)) => *byte ^= 1 << random.random_range(0..8),
            (2, Some(_)) => drop(input.remove(at)),
            (3, Some(_)) => {
                let end = random.random_range(at..=input.len());
                input.drain(at..end);
            }
            (4, _) if !other.is_empty() => {
                let from = random.random_range(0..other.len());
                let to = random.random_range(from..=other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => input.insert(at, random.random()),
        }
    }
    input
}

fn holds(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {} does not hold for {what}, which is (hex) {hex}", target.name);
    }
}

#[test]
fn every_target_holds_for_its_corpus_and_for_mutations_of_it() {
    let started = Instant::now();
    println!("seed {SEED:#x}");
    for target in TARGETS {
        let began = Instant::now();
        let corpus = corpus(target);
        assert!(corpus.len() >= 2, "{}: nothing to begin with", target.name);
        for (path, input) in &corpus {
            holds(target, input, &path.display().to_string());
        }
        let mut random = StdRng::seed_from_u64(SEED);
        for number in 0..target.mutations {
            let mut pick = || &corpus[random.random_range(0..corpus.len())].1;
            let (input, other) = (pick().clone(), pick().clone());
            let input = mutated(input, &other, &mut random);
            holds(target, &input, &format!("mutation {number} of seed {SEED:#x}"));
        }
        println!(
            "{:17} {:4} files, {:6} mutations, {:5} ms",
            target.name,
            corpus.len(),
            target.mutations,
            began.elapsed().as_millis()
        );
    }
    println!(
        "{} targets hold, after {} s",
        TARGETS.len(),
        started.elapsed().as_secs()
    );
}

#[test]
fn every_target_has_its_program_and_its_corpus_and_all_corpora_are_small() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let entries = |folder: &str| -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(entries("libfuzzer/fuzz_targets"), names);
    assert_eq!(entries("corpus"), names);
    let size = |target: &Target| corpus(target).iter().map(|(_, input)| input.len()).sum::<usize>();
    assert!(TARGETS.iter().map(size).sum::<usize>() <= 300 * 1024);
}
