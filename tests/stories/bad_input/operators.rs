//! Callers without a role.

use super::*;

// Promise 7: rule 6 of the design, no anonymous administrator
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_an_operator_changes_nothing() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let agent = attest::join(attest::channel(server.port(), &bundle, None), &admin.token().await)
        .await
        .unwrap();
    let before = fingerprint(&server).await;
    let mut stranger = mayfly_tests::Caller::spawn(41_003);
    let connection: UnixStream = stranger.connect(&server.socket());
    let callers = [
        (
            "another user on the local socket",
            mayfly_tests::caller::channel_over(connection),
            Code::PermissionDenied,
        ),
        (
            "anonymous by TLS",
            attest::channel(server.port(), &bundle, None),
            Code::Unauthenticated,
        ),
        (
            "an agent",
            attest::channel(server.port(), &bundle, Some(&agent)),
            Code::PermissionDenied,
        ),
    ];
    let mut verdicts = Verdicts::default();
    for (who, channel, code) in callers {
        let as_them = Admin::over(channel);
        let outcome = as_them
            .try_create(EntrySpec::new("/w", NODE, &["unix:uid:1"]).to_wire())
            .await;
        verdicts.status(&format!("{who} creates an entry"), outcome.map(drop), code, "");
        verdicts.status(
            &format!("{who} makes a token"),
            as_them.try_token().await.map(drop),
            code,
            "",
        );
        let outcome = as_them.try_ban(agent.svid.spiffe_id().as_str()).await;
        verdicts.status(&format!("{who} bans an agent"), outcome, code, "");
        let (csr, _) = attest::csr_for("spiffe://example.org/w");
        let outcome = SvidClient::new(as_them.channel())
            .mint_x509svid(MintX509svidRequest { csr, ttl: 0 })
            .await;
        verdicts.status(&format!("{who} mints an SVID"), outcome.map(drop), code, "");
    }
    let after = fingerprint(&server).await;
    // The agent's SVID was used for the first time, which is a commit; nothing else is different.
    assert_eq!(
        (after.1, after.2, after.3),
        (before.1, before.2, before.3),
        "something has changed"
    );
    verdicts.end();
}
