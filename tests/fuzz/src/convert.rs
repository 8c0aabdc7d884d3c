//! Messages of operators and servers into the model: what is accepted is written back as it was read.

use arbitrary::Unstructured;
use mayfly_model::{Entry, EntrySpec, entries_digest};
use mayfly_proto::convert;
use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, BatchUpdateEntryRequest, ListEntriesRequest};
use mayfly_proto::spire::types;
use prost::Message;

use crate::input::{byte, edited, rest};
use crate::material::trust_domain;

/// Bytes on the wire, or edits to a genuine entry; the first byte says of which message.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    match byte(&mut input) % 5 {
        0 => decoded(rest(&mut input), entry),
        1 => decoded(&edited(genuine().encode_to_vec(), &mut input), entry),
        2 => decoded(rest(&mut input), |request: &BatchCreateEntryRequest| {
            request.entries.iter().for_each(entry);
        }),
        3 => decoded(rest(&mut input), update),
        _ => decoded(rest(&mut input), filter),
    }
}

fn decoded<M: Message + Default>(bytes: &[u8], check: impl Fn(&M)) {
    if let Ok(message) = M::decode(bytes) {
        check(&message);
    }
}

fn entry(wire: &types::Entry) {
    let spec = EntrySpec::try_from(wire);
    let read = Entry::try_from(wire);
    assert!(read.is_err() || spec.is_ok());
    let Ok(read) = read else { return };
    assert_eq!(spec.as_ref(), Ok(&read.spec));

    let written = types::Entry::from(&read);
    let again = Entry::try_from(&written).expect("what we write can be read");
    // A life longer than the wire can say is cut; no check lets it get that far.
    assert_eq!(again, read);
    assert_eq!(entries_digest([&again]), entries_digest([&read]));
    assert_eq!(types::Entry::from(&again), written);
    if read.spec.check(&trust_domain()).is_ok() {
        assert!(!read.spec.selectors.is_empty() && !read.spec.spiffe_id.path().is_empty());
        assert!(read.spec.spiffe_id.is_member_of(&trust_domain()));
        assert!(!read.spec.hint.chars().any(char::is_control));
    }
}

fn update(request: &BatchUpdateEntryRequest) {
    for wire in &request.entries {
        let mask = request.input_mask.as_ref();
        let Ok(patch) = convert::entry_patch(wire, mask) else {
            continue;
        };
        // A patch with everything in it is the entry.
        if mask.is_none() {
            let spec = EntrySpec::try_from(wire).expect("each of its fields was read");
            assert_eq!(patch.spiffe_id.as_ref(), Some(&spec.spiffe_id));
            assert_eq!(patch.parent_id.as_ref(), Some(&spec.parent_id));
            assert_eq!(patch.selectors.as_ref(), Some(&spec.selectors));
        }
        if let Some(mask) = mask {
            let shown = mask.project(wire.clone());
            assert_eq!(mask.project(shown.clone()), shown, "a mask hides once and for all");
        }
    }
}

fn filter(request: &ListEntriesRequest) {
    let Some(filter) = &request.filter else { return };
    if let Some(by) = &filter.by_spiffe_id {
        let read = convert::spiffe_id("filter.by_spiffe_id", Some(by));
        if let Ok(id) = read {
            assert_eq!(convert::spiffe_id("", Some(&(&id).into())), Ok(id));
        }
    }
    if let Some(by) = &filter.by_selectors
        && let Ok((selectors, _)) = convert::selector_match("filter.by_selectors", by)
    {
        assert!(!selectors.is_empty(), "nothing to compare with would match everything");
    }
    if let Some(by) = &filter.by_federates_with
        && let Ok((names, _)) = convert::federates_with_match("filter.by_federates_with", by)
    {
        assert!(!names.is_empty(), "nothing to compare with would match everything");
    }
}

pub(crate) fn genuine() -> types::Entry {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: "td".to_owned(),
            path: path.to_owned(),
        })
    };
    types::Entry {
        id: "a".to_owned(),
        spiffe_id: id("/web"),
        parent_id: id("/spire/agent/x509pop/a"),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: "uid:1".to_owned(),
        }],
        x509_svid_ttl: 60,
        federates_with: vec!["b.example".to_owned()],
        expires_at: 2_000_000_000,
        dns_names: vec!["a.example".to_owned()],
        revision_number: 1,
        hint: "h".to_owned(),
        created_at: 1_800_000_000,
        additional_attributes: Some(types::entry::AdditionalAttributes::default()),
        ..types::Entry::default()
    }
}
