//! Whole command lines against the fake server.

use mayfly_svid::Timestamp;

use super::before_text;
use crate::testing::{AGENT, Fake, NOW, agent};

async fn with_three() -> Fake {
    let fake = Fake::start().await;
    let mut gone = agent("spiffe://example.org/spire/agent/x509pop/gone", "x509pop", &[]);
    gone.x509svid_expires_at = NOW - 40 * 86_400;
    let mut banned = agent(
        "spiffe://example.org/spire/agent/join_token/t1",
        "join_token",
        &["join_token:t1"],
    );
    banned.banned = true;
    fake.state().agents.extend([gone, banned]);
    fake
}

#[tokio::test]
async fn agents_are_listed_counted_and_shown() {
    let fake = with_three().await;
    insta::assert_snapshot!("listed", fake.mayfly(&["agent", "list"]).await.text());
    insta::assert_snapshot!("shown", fake.mayfly(&["agent", "show", AGENT]).await.text());
    insta::assert_snapshot!(
        "shown_json",
        fake.mayfly(&["agent", "show", "-spiffeID", AGENT, "--output=json"])
            .await
            .text()
    );
    assert_eq!(fake.mayfly(&["agent", "count"]).await.out, "3\n");
    assert_eq!(fake.mayfly(&["agent", "count", "--banned"]).await.out, "1\n");
    assert_eq!(fake.mayfly(&["agent", "count", "--banned=false"]).await.out, "2\n");
}

#[tokio::test]
async fn a_ban_and_an_eviction_are_done_with_their_reason() {
    let fake = with_three().await;
    let banned = fake.mayfly(&["agent", "ban", AGENT, "--reason", "stolen"]).await;
    assert_eq!((banned.code, banned.out), (0, format!("banned  {AGENT}\n")));
    assert!(fake.state().agents[0].banned);
    assert_eq!(fake.last_reason().as_deref(), Some("stolen"));
    let evicted = fake.mayfly(&["agent", "evict", AGENT]).await;
    assert_eq!((evicted.code, fake.state().agents.len()), (0, 2));
    let again = fake.mayfly(&["agent", "evict", AGENT]).await;
    insta::assert_snapshot!(again.text());
}

#[tokio::test]
async fn a_purge_forgets_only_agents_that_are_long_gone_and_not_banned() {
    let fake = with_three().await;
    let dry = fake.mayfly(&["agent", "purge", "--dry-run", "--output", "json"]).await;
    assert_eq!(dry.json()["agents"].as_array().unwrap().len(), 1);
    assert_eq!(fake.state().agents.len(), 3);
    let purged = fake.mayfly(&["agent", "purge"]).await;
    assert_eq!(purged.out, "evicted  spiffe://example.org/spire/agent/x509pop/gone\n");
    assert_eq!(fake.state().agents.len(), 2);
    assert_eq!(fake.mayfly(&["agent", "purge"]).await.code, 0);
}

#[test]
fn an_instant_is_written_as_spires_filter_reads_it() {
    assert_eq!(
        before_text(Timestamp::from_unix(NOW + 61)),
        "2026-01-01 00:01:01 +0000 +00"
    );
}
