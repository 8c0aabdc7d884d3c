use std::collections::BTreeSet;

use super::*;
use crate::{Access, CallFacts, Person, RoleGrant};

fn call(roles: &[&str], access: Access, paths: &[&str]) -> CallFacts {
    CallFacts {
        caller: Person {
            id: "alice".parse().unwrap(),
            groups: ["pay".parse().unwrap()].into(),
            key: None,
        },
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        rpc: "spire.api.server.entry.v1.Entry/BatchCreateEntry".into(),
        access,
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

#[test]
fn roles_open_what_is_theirs_below_their_paths() {
    use Access::{Admin, Approve, Define, Read, Register};
    let set = PolicySet::builtin();
    let registrar = &["registrar:/ns/payments/*"][..];
    let table: &[(&[&str], Access, &[&str], bool)] = &[
        (&[], Read, &[], false),
        (&["viewer"], Read, &[], true),
        (&["viewer"], Read, &["/ns/x"], true),
        (&["viewer"], Register, &["/ns/x"], false),
        (registrar, Register, &["/ns/payments/api"], true),
        (registrar, Register, &["/ns/payments/api", "/ns/payments/web/a"], true),
        (registrar, Register, &["/ns/payments/api", "/ns/web"], false),
        (registrar, Register, &["/ns/payments"], false),
        (registrar, Register, &["/ns/paymentsx/api"], false),
        (registrar, Register, &[], false),
        (registrar, Read, &["/ns/payments/api"], true),
        (registrar, Read, &[], false),
        (registrar, Admin, &["/ns/payments/api"], false),
        (&["author:/task/pay/*"], Define, &["/task/pay/db-migrate"], true),
        (&["author:/task/pay/*"], Define, &["/task/web/deploy"], false),
        (&["author:/task/pay/*"], Approve, &["/task/pay/db-migrate"], false),
        (&["approver"], Approve, &["/task/pay/db-migrate"], true),
        (&["approver"], Define, &["/task/pay/db-migrate"], false),
        (
            &["viewer", "registrar:/a/*", "registrar:/b/*"],
            Register,
            &["/a/x", "/b/x"],
            true,
        ),
        (&["admin"], Admin, &[], true),
        (&["admin"], Register, &["/x"], true),
        (&["admin:/ns/pay/*"], Register, &["/ns/pay/x"], true),
        (&["admin:/ns/pay/*"], Admin, &[], false),
    ];
    for (roles, access, paths, is_allowed) in table {
        let decision = set.authorize_call(&call(roles, *access, paths));
        assert_eq!(
            decision.is_allowed(),
            *is_allowed,
            "{roles:?} {access:?} {paths:?}: {decision:?}"
        );
        assert_eq!(decision.reasons.is_empty(), *is_allowed);
    }
}

#[test]
fn what_is_no_path_is_refused_also_to_the_admin() {
    let set = PolicySet::builtin();
    for path in ["ns/x", "/ns/../x", "/ns//x", "/ns/x/", "/ns/*", "/ns/ x"] {
        let decision = set.authorize_call(&call(&["admin"], Access::Register, &[path]));
        assert_eq!(decision.reason_ids(), ["input-path"], "{path}");
    }
}

#[test]
fn policies_add_and_take() {
    let adds = r#"@id("pay/register") permit (
        principal in Mayfly::Group::"pay", action == Mayfly::Action::"call", resource in Mayfly::Access::"register"
    ) when { context has path && context.path like "/ns/pay/*" };"#;
    assert!(
        set(adds)
            .authorize_call(&call(&[], Access::Register, &["/ns/pay/x"]))
            .is_allowed()
    );
    assert!(
        !set(adds)
            .authorize_call(&call(&[], Access::Register, &["/ns/payroll/x"]))
            .is_allowed()
    );
    assert!(
        !set(adds)
            .authorize_call(&call(&[], Access::Define, &["/ns/pay/x"]))
            .is_allowed()
    );
    let takes = r#"@id("frozen") @reason("no new entries before Monday") forbid (
        principal, action == Mayfly::Action::"call",
        resource == Mayfly::Rpc::"spire.api.server.entry.v1.Entry/BatchCreateEntry"
    );"#;
    let decision = set(takes).authorize_call(&call(&["admin"], Access::Register, &["/ns/pay/x"]));
    assert_eq!(decision.reason_ids(), ["frozen"]);
    assert!(
        decision.reasons[0].text.contains("no new entries before Monday"),
        "{decision:?}"
    );
}

// S18
#[test]
fn policies_about_tasks_open_no_api_and_roles_open_no_window() {
    let tasks = set(r#"@id("all") permit (principal, action in Mayfly::Action::"use", resource);"#);
    assert!(!tasks.authorize_call(&call(&[], Access::Read, &[])).is_allowed());
    let calls = set(r#"@id("all") permit (principal, action == Mayfly::Action::"call", resource);"#);
    assert!(calls.authorize_call(&call(&[], Access::Admin, &[])).is_allowed());
    let mut facts = plain(Phase::Open);
    facts.process.id = "spiffe://example.org/nobody".parse().unwrap();
    assert!(!calls.decide(&facts).is_allowed());
}

#[test]
fn roles_are_read_as_they_are_written() {
    for text in [
        "viewer",
        "registrar:/ns/payments/*",
        "author:/task/pay/*",
        "approver",
        "admin",
    ] {
        let role: RoleGrant = text.parse().unwrap();
        assert_eq!(String::from(role), text);
    }
    for wrong in ["", "root", "viewer:", "viewer:ns", "viewer:/a/*/b", "Viewer", " viewer"] {
        assert!(wrong.parse::<RoleGrant>().is_err(), "{wrong}");
    }
}

#[test]
fn the_schema_knows_the_roles_and_accesses_of_the_code() {
    let text = include_str!("../../builtin/roles.cedar");
    let quoted: BTreeSet<&str> = text.split('"').skip(1).step_by(2).collect();
    for role in crate::Role::ALL {
        assert!(quoted.contains(role.name()), "{role:?}");
    }
    for access in Access::ALL.iter().filter(|access| **access != Access::Admin) {
        assert!(
            text.contains(&format!("Mayfly::Access::\"{}\"", access.name())),
            "{access:?}"
        );
    }
}
