//! Power is cut: of what was written last, any part may have reached the disk.
//!
//! Told on copies of the database: its write-ahead log is cut off, or overwritten, from a random place behind what was
//! synced. What was acknowledged before has to be there, and the rest of the log must not make the server guess.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mayfly_tests::evidence::Evidence;
use mayfly_tests::faults::seen;
use mayfly_tests::{EntrySpec, Lane, Server, effort};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How the end of the log is damaged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// It ends there.
    Cut,
    /// Zeros from there on, as of blocks that were given out and not written.
    Zeros,
    /// Other bytes from there on.
    Garbage,
}

fn damage(wal: &Path, from: u64, how: Damage, rng: &mut StdRng) {
    let file = OpenOptions::new().write(true).open(wal).unwrap();
    let length = file.metadata().unwrap().len();
    let rest = usize::try_from(length - from).unwrap();
    let mut bytes = vec![0; rest];
    match how {
        Damage::Cut => return file.set_len(from).unwrap(),
        Damage::Zeros => {}
        Damage::Garbage => rng.fill(bytes.as_mut_slice()),
    }
    file.write_all_at(&bytes, from).unwrap();
}

// Attack 25
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_torn_by_a_power_cut_loses_nothing_that_was_synced() {
    let _lane = Lane::shared();
    let cuts: usize = effort(12, 200);
    let seed: u64 = 0x746f_726e;
    println!("{cuts} cuts, seed {seed:#x}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let admin = server.admin();
    let database = server.dir().join("server/server.db");
    let wal = server.dir().join("server/server.db-wal");
    // How long the log was when each entry was acknowledged: all before that was synced.
    let mut synced: Vec<(u64, i64, String)> = vec![];
    for nth in 0..40 {
        let spec = EntrySpec::new(&format!("/w/{nth}"), "spiffe://example.org/node", &["unix:uid:41009"]);
        let id = admin.create(&spec).await;
        let length = std::fs::metadata(&wal).unwrap().len();
        synced.push((length, Evidence::of(server.dir()).revision(), id));
    }
    // Killed, so that nothing is written back into the database.
    server.daemon.kill();
    let length = std::fs::metadata(&wal).unwrap().len();
    let (pristine, pristine_wal) = (std::fs::read(&database).unwrap(), std::fs::read(&wal).unwrap());
    assert_eq!(pristine_wal.len() as u64, length);

    let (mut lost, mut opened) = (0, 0);
    for cut in 0..cuts {
        let from = rng.random_range(0..length);
        let how = [Damage::Cut, Damage::Zeros, Damage::Garbage][cut % 3];
        File::create(&database).unwrap().write_all_at(&pristine, 0).unwrap();
        File::create(&wal).unwrap().write_all_at(&pristine_wal, 0).unwrap();
        // It is made from the log.
        let _ = std::fs::remove_file(wal.with_extension("db-shm"));
        damage(&wal, from, how, &mut rng);
        // It is signed over what is synced by then, so at the cut it was another one.
        let _ = std::fs::remove_file(server.dir().join("server/log/checkpoint"));
        server.daemon.start();
        server.wait_ready().await;
        opened += 1;
        let held: Vec<String> = admin.list().await.into_iter().map(|entry| entry.id).collect();
        for (end, _, id) in &synced {
            let kept = held.contains(id);
            assert!(
                kept || *end > from,
                "{how:?} at {from}: an entry that was synced at {end} is lost"
            );
            lost += usize::from(!kept);
        }
        // What is left is a whole beginning: no entry without those before it, no record without its change.
        let count = held.len();
        assert!(
            synced[..count].iter().all(|(_, _, id)| held.contains(id)),
            "{how:?} at {from}: a gap"
        );
        let evidence = Evidence::of(server.dir());
        evidence.check_order();
        assert_eq!(evidence.count("entry.created"), count);
        server.daemon.kill();
    }
    seen(
        &format!("{cuts} power cuts: the log cut, zeroed or overwritten from a random place on"),
        &format!(
            "the server starts {opened} times; nothing is lost that was synced before that place; {lost} entries behind it \
             are gone, always the last ones, each with its record"
        ),
    );
}
