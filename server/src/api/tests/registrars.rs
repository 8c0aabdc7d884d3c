//! Who writes entries of some paths only.

use mayfly_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
};

use super::*;

const REGISTRAR: u32 = 3001;
const EVERYWHERE: u32 = 3002;

async fn server() -> Server {
    let operators = |uid: u32, role: &str| Operators {
        roles: [role.parse().unwrap()].into(),
        uids: [uid].into(),
        ..Operators::default()
    };
    Server::with(Setup {
        operators: vec![
            operators(REGISTRAR, "registrar:/ns/pay/*"),
            operators(EVERYWHERE, "registrar"),
        ],
        ..Setup::default()
    })
    .await
}

impl Connected {
    async fn create(&self, entries: Vec<types::Entry>) -> Vec<(Code, String)> {
        let request = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let answer = self.entry().batch_create_entry(request).await.unwrap().into_inner();
        let each = |status: Option<types::Status>| Code::from(status.unwrap().code);
        let id = |entry: Option<types::Entry>| entry.map(|entry| entry.id).unwrap_or_default();
        answer
            .results
            .into_iter()
            .map(|result| (each(result.status), id(result.entry)))
            .collect()
    }

    async fn update(&self, entries: Vec<types::Entry>, input_mask: types::EntryMask) -> Vec<Code> {
        let request = BatchUpdateEntryRequest {
            entries,
            input_mask: Some(input_mask),
            output_mask: None,
        };
        let answer = self.entry().batch_update_entry(request).await.unwrap().into_inner();
        answer
            .results
            .into_iter()
            .map(|result| Code::from(result.status.unwrap().code))
            .collect()
    }

    async fn delete(&self, ids: &[&str]) -> Vec<Code> {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let answer = self.entry().batch_delete_entry(BatchDeleteEntryRequest { ids }).await;
        let results = answer.unwrap().into_inner().results;
        results
            .into_iter()
            .map(|result| Code::from(result.status.unwrap().code))
            .collect()
    }
}

#[tokio::test]
async fn a_registrar_of_some_paths_writes_entries_of_these_and_each_item_is_asked_about() {
    let server = server().await;
    let parent = id("/spire/agent/t/a");
    let (registrar, admin) = (server.local(REGISTRAR), server.admin());
    let entry = |path: &str| wire_entry(path, &parent);
    let made = registrar
        .create(vec![
            entry("/ns/pay/a"),
            entry("/ns/payroll/a"),
            entry("/ns/pay"),
            entry("/ns/pay/b/c"),
            entry("/x"),
        ])
        .await;
    let codes: Vec<Code> = made.iter().map(|(code, _)| *code).collect();
    let (yes, no) = (Code::Ok, Code::PermissionDenied);
    assert_eq!(codes, [yes, no, no, yes, no]);
    assert_eq!(server.world.committer.snapshot().entry_count(), 2);

    let own = made[0].1.clone();
    let foreign = admin.create(vec![entry("/ns/web/a")]).await.remove(0).1;
    let hinted = |id: &str| types::Entry {
        id: id.into(),
        hint: "h".into(),
        ..types::Entry::default()
    };
    let only = |change: fn(&mut types::EntryMask)| {
        let mut mask = types::EntryMask::default();
        change(&mut mask);
        mask
    };
    let unknown = mayfly_model::EntryId::random().to_string();
    let codes = registrar
        .update(
            vec![hinted(&own), hinted(&foreign), hinted(&unknown)],
            only(|mask| mask.hint = true),
        )
        .await;
    assert_eq!(codes, [yes, no, Code::NotFound]);
    // Neither away from its paths nor into them.
    let moved = |id: &str, path: &str| types::Entry {
        id: id.into(),
        ..entry(path)
    };
    let codes = registrar
        .update(
            vec![
                moved(&own, "/ns/web/b"),
                moved(&foreign, "/ns/pay/d"),
                moved(&own, "/ns/pay/e"),
            ],
            only(|mask| mask.spiffe_id = true),
        )
        .await;
    assert_eq!(codes, [no, no, yes]);
    assert_eq!(
        registrar.delete(&[&foreign, &own, &unknown]).await,
        [no, yes, Code::NotFound]
    );
    let count = registrar.entry().count_entries(CountEntriesRequest::default()).await;
    assert_eq!(code(count), no, "reading is the role viewer");
}

// Attack: an entry with the flag `admin` makes an operator of who has it.
#[tokio::test]
async fn a_registrar_makes_no_operators_and_touches_none() {
    let server = server().await;
    let parent = id("/spire/agent/t/a");
    let admin_entry = |path: &str| types::Entry {
        admin: true,
        ..wire_entry(path, &parent)
    };
    let powerful = server
        .admin()
        .create(vec![admin_entry("/ns/pay/ops")])
        .await
        .remove(0)
        .1;
    for uid in [REGISTRAR, EVERYWHERE] {
        let registrar = server.local(uid);
        let downstream = types::Entry {
            downstream: true,
            ..wire_entry("/ns/pay/sub", &parent)
        };
        let named = types::Entry {
            dns_names: vec!["pay.example.org".into()],
            ..wire_entry("/ns/pay/named", &parent)
        };
        let refused = registrar
            .create(vec![admin_entry("/ns/pay/x"), downstream, named])
            .await;
        assert!(
            refused.iter().all(|(code, _)| *code == Code::PermissionDenied),
            "{refused:?}"
        );
        // Its selectors would say which process the operator is.
        let taken = types::Entry {
            id: powerful.clone(),
            selectors: vec![selector("unix:uid:666")],
            ..types::Entry::default()
        };
        let mask = types::EntryMask {
            selectors: true,
            ..types::EntryMask::default()
        };
        assert_eq!(registrar.update(vec![taken], mask).await, [Code::PermissionDenied]);
        let mask = types::EntryMask {
            admin: true,
            ..types::EntryMask::default()
        };
        let plain = registrar
            .create(vec![wire_entry(&format!("/ns/pay/{uid}"), &parent)])
            .await
            .remove(0);
        assert_eq!(plain.0, Code::Ok);
        let raised = types::Entry {
            id: plain.1,
            admin: true,
            ..types::Entry::default()
        };
        assert_eq!(registrar.update(vec![raised], mask).await, [Code::PermissionDenied]);
        assert_eq!(registrar.delete(&[&powerful]).await, [Code::PermissionDenied]);
    }
}
