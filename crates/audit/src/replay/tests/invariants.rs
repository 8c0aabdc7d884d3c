//! Each invariant: what breaks it is found, and named.

use super::*;

#[test]
fn i1_a_task_svid_belongs_to_an_open_window() {
    // An SVID that no window has recorded.
    let of_no_window = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.renewed");
        let (revision, index) = (entries.last().unwrap().revision + 1, entries.len() as u64);
        let mut intent = entries[at..]
            .iter()
            .find(|entry| entry.kind == "svid.intended")
            .unwrap()
            .clone();
        (intent.revision, intent.index) = (revision, index);
        intent.body["serial"] = json!("77");
        intent.body["public_key_sha256"] = json!("77");
        entries.push(intent);
    };
    assert_eq!(broken(of_no_window), [Invariant::I1]);
    assert_eq!(
        change_of("window.opened", |entry| entry.body["window"]["issuances"] = json!([])),
        [Invariant::I1]
    );
    let elsewhere =
        |entry: &mut Entry| entry.body["window"]["instance"]["agent_id"] = json!("spiffe://td/spire/agent/x");
    assert_eq!(change_of("window.opened", elsewhere), [Invariant::I1]);
    assert_eq!(
        change_of("svid.intended", |entry| entry.subject =
            "spiffe://td/task/pay/db-migrate/ns/x".into()),
        [Invariant::I1, Invariant::I7]
    );
    assert_eq!(
        change_of("window.renewed", |entry| entry.body["window"] = json!("ff")),
        [Invariant::I1]
    );
    let late = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.renewed");
        let revision = entries[at].revision;
        entries
            .iter_mut()
            .filter(|entry| entry.revision == revision)
            .for_each(|entry| entry.time += 10_000);
    };
    assert_eq!(broken(late), [Invariant::I1]);
}

#[test]
fn i1_a_task_svid_names_the_window_that_has_it() {
    let of_a_window = |change: fn(&mut Entry)| {
        let mut entries = honest().entries();
        let at = place(&entries, "window.renewed");
        let is_intent = |entry: &Entry| entry.kind == "svid.intended";
        let at = at + entries[at..].iter().position(is_intent).unwrap();
        let own = entries[at].body["window_id"].clone();
        change(&mut entries[at]);
        let replay = replay(&entries);
        let found: Vec<_> = replay.violations().iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("I1 at entry {at}: the task SVID ")),
            "{found:?}"
        );
        assert!(
            found[0].ends_with(&format!("the window {} has it", own.as_str().unwrap())),
            "{found:?}"
        );
        // Nor does it count as power that a window gave.
        assert_eq!(replay.strays().len(), 1);
        found[0].clone()
    };
    let named = of_a_window(|entry| entry.body["window_id"] = json!("ee".repeat(16)));
    assert!(named.contains(" names the window eeee"), "{named}");
    let unnamed = of_a_window(|entry| drop(entry.body.as_object_mut().unwrap().remove("window_id")));
    assert!(unnamed.contains(" names no window, and "), "{unnamed}");
    // The first intent is that of a base SVID, which no window gives.
    let of_base = |entry: &mut Entry| entry.body["window_id"] = json!("ee".repeat(16));
    assert_eq!(change_of("svid.intended", of_base), [Invariant::I7]);
}

#[test]
fn i2_no_svid_outlives_its_window() {
    let longer = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.opened");
        let closes_at = entries[at].body["window"]["closes_at"].clone();
        entries[at].body["window"]["issuances"][0]["not_after"] = closes_at.clone();
        let at = at
            + entries[at..]
                .iter()
                .position(|entry| entry.kind == "svid.intended")
                .unwrap();
        entries[at].body["not_after"] = closes_at;
    };
    assert_eq!(broken(longer), [Invariant::I2]);
    let never = |entry: &mut Entry| entry.body["window"]["closes_at"] = json!(crate::testing::START + 9_000_000);
    assert_eq!(change_of("window.opened", never), [Invariant::I2]);
}

#[test]
fn i3_the_log_has_it_before_it_is_signed() {
    assert_eq!(
        change_of("svid.outcome", |entry| entry.body["signed"] = json!(["4711"])),
        [Invariant::I3]
    );
    // The intent of a base SVID: its outcome follows.
    assert_eq!(without("svid.intended"), [Invariant::I3, Invariant::I14]);
}

#[test]
fn i4_people_agree_who_may_and_not_who_ask() {
    let by_who_asks = |entries: &mut Vec<Entry>| {
        let person = entries
            .iter()
            .rev()
            .find(|entry| entry.kind == "task.requested")
            .unwrap()
            .body["request"]["person"]
            .clone();
        let at = place(entries, "task.approved");
        entries[at].body["approval"]["person"] = person;
    };
    assert_eq!(broken(by_who_asks), [Invariant::I4]);
    assert_eq!(
        change_of("task.approved", |entry| entry.body["digest"] = json!("00")),
        [Invariant::I4]
    );
    let stranger = |entry: &mut Entry| entry.body["approval"]["groups"] = json!(["others"]);
    assert_eq!(change_of("task.approved", stranger), [Invariant::I1, Invariant::I4]);
    let old = |entry: &mut Entry| entry.body["approval"]["valid_until"] = json!(entry.time);
    assert_eq!(change_of("task.approved", old), [Invariant::I4]);
    // Nobody is asked although the definition wants people.
    let unasked = |entries: &mut Vec<Entry>| {
        let at = entries
            .iter()
            .position(|entry| entry.kind == "task.requested" && entry.body["stage"] != "armed")
            .unwrap();
        entries[at].body["needs"]["approvals"] = json!([]);
    };
    assert!(broken(unasked).contains(&Invariant::I4));
}

#[test]
fn i5_a_renewal_moves_no_end() {
    assert_eq!(
        change_of("window.renewed", |entry| entry.body["closes_at"] = json!(1)),
        [Invariant::I5]
    );
    let mut world = honest();
    let id = world.request("pay/db-migrate", WORKLOAD, None, "again");
    let window = world.open(&id);
    let too_long = json!({ "step": "extend", "window": window, "closes_at": world.now + 100_000, "decision": {} });
    world.raw("window.extended", id.as_str(), too_long);
    let found = violations(&world.entries());
    assert!(
        found.iter().any(|violation| violation.invariant == Invariant::I5),
        "{found:?}"
    );
}

#[test]
fn i6_what_is_derived_is_a_part() {
    let wider = |entry: &mut Entry| entry.body["request"]["scopes"] = json!(["everything"]);
    assert_eq!(change_of("task.requested", wider), [Invariant::I6]);
    let orphan = |entry: &mut Entry| entry.body["request"]["parent"] = json!("nobody");
    assert_eq!(change_of("task.requested", orphan), [Invariant::I6]);
}

#[test]
fn i7_reserved_paths_come_from_windows() {
    let reserved = |entry: &mut Entry| entry.body["spec"]["spiffe_id"] = json!("spiffe://td/task/pay/x");
    assert_eq!(change_of("entry.created", reserved), [Invariant::I7]);
    let class = |entry: &mut Entry| entry.body["authority_id"] = json!("authority-task");
    assert_eq!(change_of("svid.intended", class), [Invariant::I7]);
    let other = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.opened");
        entries[at].body["window"]["spiffe_id"] = json!("spiffe://td/task/pay/export/ns/pay/migrator");
    };
    assert!(broken(other).contains(&Invariant::I7));
}

#[test]
fn i8_nothing_happens_without_a_decision_that_allows_it() {
    let denied = |entry: &mut Entry| entry.body["decision"]["verdict"] = json!("deny");
    assert_eq!(change_of("policy.decided", denied), [Invariant::I8]);
    let inputs = |entry: &mut Entry| entry.body["decision"]["inputs_digest"] = json!("00");
    assert_eq!(change_of("policy.decided", inputs), [Invariant::I8]);
    let phase = |entry: &mut Entry| entry.body["facts"]["phase"] = json!("renew");
    assert_eq!(change_of("policy.decided", phase), [Invariant::I8]);
    let error = |entry: &mut Entry| entry.body["decision"]["reasons"] = json!([{ "id": "engine-error", "text": "" }]);
    assert_eq!(change_of("policy.decided", error), [Invariant::I8]);
    assert_eq!(without("policy.decided"), [Invariant::I8]);
}

#[test]
fn i9_a_grant_opens_as_often_as_it_may() {
    let twice = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.opened");
        let revision = entries[at].revision;
        let mut again: Vec<Entry> = entries
            .iter()
            .filter(|entry| entry.revision == revision)
            .cloned()
            .collect();
        let (index, last) = (entries.len() as u64, entries.last().unwrap().revision);
        for (place, entry) in (0..).zip(&mut again) {
            (entry.index, entry.revision) = (index + place, last + 1);
            if entry.kind == "window.opened" {
                entry.body["window"]["id"] = json!("ee".repeat(16));
                entry.body["window"]["issuances"][0]["serial"] = json!("99");
                entry.body["window"]["issuances"][0]["public_key_sha256"] = json!("99");
            } else if entry.kind == "svid.intended" {
                entry.body["serial"] = json!("99");
                entry.body["public_key_sha256"] = json!("99");
                entry.body["window_id"] = json!("ee".repeat(16));
            }
        }
        // While the first one is open: right behind its own commit.
        let end = at + again.len();
        entries.splice(end..end, again);
        (0..)
            .zip(entries.iter_mut())
            .for_each(|(index, entry)| entry.index = index);
        let mut revision = revision;
        let mut before = None;
        for entry in &mut entries[at..] {
            let own = entry.revision;
            if before.is_some_and(|before| before != own) {
                revision += 1;
            }
            before = Some(own);
            entry.revision = revision;
        }
    };
    assert_eq!(broken(twice), [Invariant::I9]);
}

#[test]
fn i10_a_key_is_in_one_svid() {
    let reused = |entries: &mut Vec<Entry>| {
        let at = place(entries, "window.opened");
        let key = entries[at].body["window"]["issuances"][0]["public_key_sha256"].clone();
        let at = place(entries, "window.renewed");
        entries[at].body["issuance"]["public_key_sha256"] = key.clone();
        let at = at
            + entries[at..]
                .iter()
                .position(|entry| entry.kind == "svid.intended")
                .unwrap();
        entries[at].body["public_key_sha256"] = key;
    };
    assert_eq!(broken(reused), [Invariant::I10]);
}

#[test]
fn i11_what_has_ended_stays_so() {
    let mut world = honest();
    let id = world.request("pay/db-migrate", WORKLOAD, None, "again");
    let window = world.open(&id);
    world.close(&id, window, CloseCause::Revoked);
    let end = |world: &mut World, kind: &str| {
        world.raw(
            kind,
            id.as_str(),
            json!({ "window": window, "epoch": 900, "cause": "revoked" }),
        );
        violations(&world.entries())
            .into_iter()
            .map(|violation| violation.invariant)
            .collect::<Vec<_>>()
    };
    let mut again = world.clone();
    assert_eq!(end(&mut again, "window.closing"), [Invariant::I11]);
    let mut resumed = world.clone();
    assert_eq!(end(&mut resumed, "window.heartbeat"), [Invariant::I11]);
    // Settled before its holder had nothing any more.
    assert_eq!(end(&mut world, "window.settled"), [Invariant::I11]);
    let epoch = |entries: &mut Vec<Entry>| {
        let at = entries
            .iter()
            .rposition(|entry| entry.kind == "window.closing")
            .unwrap();
        entries[at].body["epoch"] = json!(1);
    };
    assert_eq!(broken(epoch), [Invariant::I11]);
}

#[test]
fn i12_an_end_needs_nobody() {
    assert_eq!(
        change_of("window.closing", |entry| entry.body["approval"] =
            json!({ "person": "ann" })),
        [Invariant::I12]
    );
}

#[test]
fn i14_the_log_has_no_gap_and_goes_one_way() {
    assert_eq!(without("agent.attested").first(), Some(&Invariant::I1));
    assert_eq!(
        broken(|entries| drop(entries.remove(3))),
        [Invariant::I14, Invariant::Completeness]
    );
    let swapped = |entries: &mut Vec<Entry>| {
        let (a, b) = (place(entries, "task.approved"), place(entries, "task.refused"));
        entries.swap(a, b);
    };
    assert!(broken(swapped).contains(&Invariant::Completeness));
    let back = |entries: &mut Vec<Entry>| entries.last_mut().unwrap().revision = 1;
    assert_eq!(broken(back), [Invariant::I14]);
}
