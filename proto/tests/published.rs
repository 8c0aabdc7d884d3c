//! Our descriptors say what the published ones say: same packages, names, numbers, types, streams.
//!
//! The tables in `testdata/` were written from the published files, at the commit that each names in its first line. A
//! difference is a change of behaviour towards everyone who speaks these interfaces.

mod facts;

use mayfly_proto::{FILE_DESCRIPTOR_SET, WORKLOAD_DESCRIPTOR_SET};
use prost::Message;
use prost_types::FileDescriptorSet;

fn decode(bytes: &[u8]) -> FileDescriptorSet {
    FileDescriptorSet::decode(bytes).expect("an embedded set of descriptors decodes")
}

/// Panics with every line that only one side has.
fn assert_same(ours: &[String], table: &str) {
    let published: Vec<&str> = table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert!(!published.is_empty());
    let mut differences = String::new();
    for line in ours.iter().filter(|line| !published.contains(&line.as_str())) {
        differences += &format!("only ours:      {line}\n");
    }
    for line in published.iter().filter(|line| !ours.iter().any(|our| our == *line)) {
        differences += &format!("only published: {line}\n");
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert_eq!(ours.len(), published.len(), "a line stands twice");
}

// WAPI-04, WAPI-05, WEP-31: nothing is added to the Workload API, and it has no package.
#[test]
fn the_workload_api_is_the_published_one() {
    let set = decode(WORKLOAD_DESCRIPTOR_SET);
    assert_same(&facts::facts(&set), include_str!("../testdata/workload-api.txt"));
}

// WEP-32: what an agent's reflection shows as the Workload API is that one service alone.
#[test]
fn the_workload_descriptors_hold_one_service_and_all_they_import() {
    let set = decode(WORKLOAD_DESCRIPTOR_SET);
    let services: Vec<&str> = set
        .file
        .iter()
        .flat_map(|file| &file.service)
        .map(|service| service.name())
        .collect();
    assert_eq!(services, ["SpiffeWorkloadAPI"]);
    assert_complete(&set);
}

// WAPI-05
#[test]
fn workload_api_paths_have_no_package() {
    use mayfly_proto::spiffe::workload::spiffe_workload_api_server::SERVICE_NAME;
    assert_eq!(SERVICE_NAME, "SpiffeWorkloadAPI");
}

#[test]
fn the_spire_interfaces_are_the_published_ones() {
    let mut set = decode(FILE_DESCRIPTOR_SET);
    set.file.retain(|file| file.package().starts_with("spire."));
    assert_same(&facts::facts(&set), include_str!("../testdata/spire-api.txt"));
}

// No table from outside: this one is ours to change, with `mayfly.agent.v2` once agents are out.
#[test]
fn our_own_interfaces_change_only_on_purpose() {
    let mut set = decode(FILE_DESCRIPTOR_SET);
    set.file.retain(|file| file.package().starts_with("mayfly."));
    assert_same(&facts::facts(&set), include_str!("../testdata/mayfly-api.txt"));
}

#[test]
fn every_descriptor_set_brings_its_imports_and_no_comments() {
    for bytes in [FILE_DESCRIPTOR_SET, WORKLOAD_DESCRIPTOR_SET] {
        let set = decode(bytes);
        assert_complete(&set);
        assert!(set.file.iter().all(|file| file.source_code_info.is_none()));
    }
}

/// A reflection client cannot resolve a type whose file is missing.
fn assert_complete(set: &FileDescriptorSet) {
    for import in set.file.iter().flat_map(|file| &file.dependency) {
        assert!(set.file.iter().any(|file| file.name() == import), "{import} is missing");
    }
}
