use std::collections::BTreeSet;

use mayfly_keys::MemoryKeys;
use mayfly_tlog::leaf_hash;
use mayfly_tlog::merkle::{verify_consistency, verify_inclusion};
use mayfly_tlog::tile::{TILE_WIDTH, TileKind};
use serde_json::Value;

use super::*;
use crate::app::testing::World;

pub(super) async fn note(world: &World, count: usize) {
    let steps = (0..count).map(|number| Step {
        actor: Actor::server(),
        time: world.now(),
        change: Change::Note {
            kind: "test.note",
            subject: number.to_string(),
            body: json!({}),
        },
    });
    for result in world.committer.commit_all(steps.collect()).await {
        result.unwrap();
    }
}

pub(super) fn entries(world: &World) -> Vec<String> {
    world.archive().reader().unwrap().entries(0, 100_000).unwrap()
}

async fn opened(world: &World) -> Result<Arc<Evidence>, EvidenceError> {
    Evidence::open(world.evidence_parts()).await
}

#[tokio::test]
async fn a_log_begins_with_its_key_and_its_checkpoints_follow_what_is_committed() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let first: Value = serde_json::from_str(&entries(&world)[0]).unwrap();
    let key = evidence.verifier_keys().remove(0);
    assert_eq!(
        (first["kind"].as_str(), first["body"]["vkey"].as_str()),
        (Some("log.started"), Some(&*key.to_string()))
    );
    assert_eq!(evidence.published().checkpoint.size(), 1);
    note(&world, 1_000).await;
    evidence.pass().await.unwrap();
    let published = evidence.published();
    let kept = std::fs::read(world.evidence_parts().dir.join("checkpoint")).unwrap();
    assert_eq!(SignedCheckpoint::open(&kept, &[key]).unwrap(), published.checkpoint);
    let entries = entries(&world);
    assert_eq!(published.checkpoint.size(), entries.len() as u64);
    let mut tree = Tree::new();
    tree.append(
        &entries
            .iter()
            .map(|entry| leaf_hash(entry.as_bytes()))
            .collect::<Vec<_>>(),
    )
    .unwrap();
    assert_eq!(published.checkpoint.root(), tree.root());
}

#[tokio::test]
async fn entries_and_earlier_trees_are_proved_from_files_and_from_memory() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    note(&world, 300).await;
    evidence.pass().await.unwrap();
    let earlier = evidence.published();
    note(&world, 700).await;
    evidence.pass().await.unwrap();
    let now = evidence.published();
    let (size, root) = (now.checkpoint.size(), now.checkpoint.root());
    for index in [0, 255, 256, 300, 767, 768, size - 1] {
        let (entry, hashes) = evidence.prove(index, now.clone()).await.unwrap();
        verify_inclusion(leaf_hash(entry.as_bytes()), index, size, root, &hashes).unwrap();
    }
    assert!(matches!(
        evidence.prove(size, now.clone()).await,
        Err(EvidenceError::NoSuchEntry { .. })
    ));
    let (from, from_root) = (earlier.checkpoint.size(), earlier.checkpoint.root());
    let hashes = now.tree.prove_consistency(from, size, &evidence.files).unwrap();
    verify_consistency(from, from_root, size, root, &hashes).unwrap();
    // What an earlier reader asks for is still there, and nothing behind the end.
    let partial = TilePath::new(TileKind::Hashes(0), 1, 45).unwrap();
    let full = TilePath::full(0, 1).unwrap();
    let (partial, full) = (
        evidence.tile(partial).await.unwrap(),
        evidence.tile(full).await.unwrap(),
    );
    assert_eq!(partial.unwrap(), full.unwrap()[..45 * Hash::LEN]);
    for path in [
        "tile/0/004",
        "tile/entries/004",
        "tile/1/000",
        "tile/9/000",
        "tile/entries/x999/999",
    ] {
        assert_eq!(evidence.tile(path.parse().unwrap()).await.unwrap(), None, "{path}");
    }
    for path in TilePath::all(size) {
        assert!(evidence.tile(path).await.unwrap().is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_tile_that_many_want_at_once_is_always_whole() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let path = TilePath::full(0, 0).unwrap();
    let file = world.evidence_parts().dir.join(path.to_string());
    let bytes = vec![7; usize::from(TILE_WIDTH) * Hash::LEN];
    let tiles = [(path, bytes.clone())];
    evidence.files.write(&tiles).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    evidence.files.write(&tiles).unwrap();
                    assert_eq!(std::fs::read(&file).unwrap(), bytes);
                }
            });
        }
    });
    let left = std::fs::read_dir(file.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "what is written beside it is gone");
}

#[tokio::test]
async fn what_is_shown_is_counted_from_the_start() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    note(&world, 10).await;
    evidence.pass().await.unwrap();
    drop(evidence);
    let evidence = opened(&world).await.unwrap();
    let mut registry = Registry::default();
    evidence.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let size = entries(&world).len();
    for metric in ["log_entries", "log_checkpoint_entries"] {
        assert!(text.contains(&format!("\n{metric} {size}\n")), "{metric}: {text}");
    }
}

#[tokio::test]
async fn many_values_are_forgotten_in_several_entries_that_all_say_which() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let count = 1_500;
    let steps = (0..count).map(|number| Step {
        actor: Actor::server(),
        time: world.now(),
        change: Change::Note {
            kind: "test.note",
            subject: String::new(),
            body: json!({ "parameters": { "name": "ann", "number": number } }),
        },
    });
    for result in world.committer.commit_all(steps.collect()).await {
        result.unwrap();
    }
    let erased = evidence
        .erase(erase::Forgotten::Value("ann".into()), Actor::server())
        .await;
    assert_eq!(erased.unwrap(), count);
    let of_kind = |kind: &str| {
        let all = entries(&world)
            .into_iter()
            .map(|entry| serde_json::from_str::<Value>(&entry).unwrap());
        all.filter(|entry| entry["kind"] == kind).collect::<Vec<_>>()
    };
    let told = of_kind("private.erased");
    let named = told
        .iter()
        .flat_map(|entry| entry["body"]["commitments"].as_array().unwrap());
    let named: BTreeSet<_> = named.map(|hash| hash.as_str().unwrap().to_owned()).collect();
    let hidden = of_kind("test.note");
    let hidden = hidden
        .iter()
        .map(|entry| entry["body"]["parameters"]["commitment"].as_str().unwrap().to_owned());
    assert_eq!(named, hidden.collect());
    assert_eq!(told.len(), 3);
    assert_eq!(world.archive().reader().unwrap().privates().count(), 0);
    // Who reads the log takes each of them for what it is.
    let mut replay = mayfly_audit::Replay::new(mayfly_audit::Details::default());
    for (index, entry) in (0..).zip(entries(&world)) {
        replay.take(&mayfly_audit::Entry::parse(index, entry.as_bytes()).unwrap());
    }
    replay.finish();
    assert_eq!(replay.violations(), []);
    let again = evidence
        .erase(erase::Forgotten::Value("ann".into()), Actor::server())
        .await;
    assert!(matches!(again, Err(EvidenceError::Commit(_))), "{again:?}");
}

#[tokio::test]
async fn tiles_that_are_gone_or_damaged_are_made_anew_from_the_entries() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    note(&world, 600).await;
    evidence.pass().await.unwrap();
    let shown = evidence.published();
    let tile = world.evidence_parts().dir.join("tile/0/000");
    let whole = std::fs::read(&tile).unwrap();
    for damage in [None, Some(whole[..100].to_vec()), Some(vec![0; whole.len()])] {
        match &damage {
            None => std::fs::remove_file(&tile).unwrap(),
            Some(bytes) => std::fs::write(&tile, bytes).unwrap(),
        }
        let again = opened(&world).await.unwrap();
        assert_eq!(again.published().checkpoint.root(), shown.checkpoint.root());
        assert_eq!(again.tile("tile/0/000".parse().unwrap()).await.unwrap().unwrap(), whole);
    }
}

#[tokio::test]
async fn a_tile_that_is_damaged_while_the_log_is_shown_costs_no_proof() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    note(&world, 1_000).await;
    evidence.pass().await.unwrap();
    let now = evidence.published();
    let (size, root) = (now.checkpoint.size(), now.checkpoint.root());
    let tile = world.evidence_parts().dir.join("tile/0/001");
    let whole = std::fs::read(&tile).unwrap();
    // As long as it has to be, and wrong.
    std::fs::write(&tile, vec![7; whole.len()]).unwrap();
    let (entry, hashes) = evidence.prove(300, now.clone()).await.unwrap();
    verify_inclusion(leaf_hash(entry.as_bytes()), 300, size, root, &hashes).unwrap();
    assert_eq!(std::fs::read(&tile).unwrap(), whole);
}

#[tokio::test]
async fn an_older_database_than_what_was_shown_is_refused_with_the_reason() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    note(&world, 10).await;
    evidence.pass().await.unwrap();
    let backup = world.backup();
    note(&world, 10).await;
    evidence.pass().await.unwrap();
    drop(evidence);
    let restored = world.restored(&backup);
    let refused = opened(&restored).await.err().unwrap();
    assert!(
        matches!(
            refused,
            EvidenceError::Shorter {
                found: 11,
                shown: 21,
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("This is a backup that was restored"),
        "{refused}"
    );
    // It is no better once it has grown past it.
    note(&restored, 3).await;
    note(&restored, 30).await;
    assert!(matches!(
        opened(&restored).await,
        Err(EvidenceError::Rewritten { shown: 21, .. })
    ));
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_refused() {
    let world = World::unborn(|_| {});
    drop(opened(&world).await.unwrap());
    let other = World::unborn(|_| {});
    drop(opened(&other).await.unwrap());
    std::fs::copy(
        other.evidence_parts().dir.join("checkpoint"),
        world.evidence_parts().dir.join("checkpoint"),
    )
    .unwrap();
    assert!(matches!(opened(&world).await, Err(EvidenceError::Checkpoint { .. })));
}

#[tokio::test]
async fn a_new_key_is_named_by_the_log_and_signs_beside_the_old_one() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let old = evidence.verifier_keys().remove(0);
    let new = evidence.rotate_key(Actor::server()).await.unwrap();
    assert_ne!(old, new);
    let checkpoint = evidence.published().checkpoint.to_bytes();
    for key in [&old, &new] {
        SignedCheckpoint::open(&checkpoint, std::slice::from_ref(key)).unwrap();
    }
    let last: Value = serde_json::from_str(entries(&world).last().unwrap()).unwrap();
    assert_eq!(last["kind"], "log.key_rotated");
    // And after a restart, too.
    let again = opened(&world).await.unwrap();
    assert_eq!(again.verifier_keys(), [new.clone(), old.clone()]);
    // Who was away for more than one of them is still spoken to.
    let third = again.rotate_key(Actor::server()).await.unwrap();
    let checkpoint = again.published().checkpoint.clone();
    for key in [third, new, old] {
        assert!(
            checkpoint
                .note()
                .signatures()
                .iter()
                .any(|signature| signature.is_by(&key)),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_after_its_event_costs_nobody_their_trust() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let first = evidence.verifier_keys().remove(0);
    // As when whoever asked went away between the commit and the rest.
    let lost = LogKeys::generate(evidence.origin(), world.keys.as_ref()).await.unwrap();
    let body = json!({ "vkey": lost.verifier_key().to_string(), "previous": first.to_string() });
    let change = Change::Note {
        kind: key::ROTATED,
        subject: evidence.origin().to_owned(),
        body,
    };
    world.commit(change).await.unwrap();
    let third = evidence.rotate_key(Actor::server()).await.unwrap();
    let again = opened(&world).await.unwrap();
    assert_eq!(again.verifier_keys(), [third, lost.verifier_key(), first.clone()]);
    let checkpoint = again.published().checkpoint.to_bytes();
    SignedCheckpoint::open(&checkpoint, &[first]).unwrap();
}

#[tokio::test]
async fn a_log_whose_key_is_lost_goes_on_with_another_and_says_so() {
    let world = World::unborn(|_| {});
    let evidence = opened(&world).await.unwrap();
    let old = evidence.verifier_keys();
    drop(evidence);
    let parts = EvidenceParts {
        keys: Arc::new(MemoryKeys::new()),
        ..world.evidence_parts()
    };
    let evidence = Evidence::open(parts).await.unwrap();
    assert_eq!(evidence.verifier_keys()[1..], old);
    let last: Value = serde_json::from_str(entries(&world).last().unwrap()).unwrap();
    assert_eq!(
        (&last["kind"], &last["body"]["lost"]),
        (&json!("log.key_rotated"), &json!(true))
    );
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_follows_within_a_second_of_what_is_committed() {
    let world = World::new().await;
    let evidence = world.evidence().await;
    let stop = CancellationToken::new();
    let running = evidence.clone().run(stop.clone());
    let watching = async {
        let mut shown = evidence.subscribe();
        for _ in 0..5 {
            note(&world, 3).await;
            let size = entries(&world).len() as u64;
            let begun = tokio::time::Instant::now();
            shown.wait_for(|shown| shown.checkpoint.size() >= size).await.unwrap();
            assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
        }
        stop.cancel();
    };
    tokio::join!(running, watching);
}
