use std::collections::BTreeMap;
use std::fmt::Write;

use mayfly_model::Change;
use mayfly_model::EntrySpec;
use mayfly_model::task::PolicyFiles;

use super::*;
use crate::app::people::PersonRecord;
use crate::app::registrar;
use crate::app::testing::{World, id};

/// A server with callers of all kinds, by letter.
struct Stage {
    world: World,
    authorizer: Authorizer,
    callers: Vec<(char, Caller)>,
}

fn operators(roles: &[&str], uid: Option<u32>, group: Option<&str>) -> Operators {
    Operators {
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        uids: uid.into_iter().collect(),
        spiffe_ids: BTreeSet::new(),
        groups: group.into_iter().map(|group| group.parse().unwrap()).collect(),
    }
}

fn person(name: &str, uid: u32, group: Option<&str>) -> PersonRecord {
    PersonRecord {
        id: name.parse().unwrap(),
        uids: [uid].into(),
        spiffe_ids: [id(&format!("/people/{name}"))].into(),
        groups: group.into_iter().map(|group| group.parse().unwrap()).collect(),
    }
}

impl Stage {
    async fn new() -> Self {
        let world = World::new().await;
        let agent = world.agent("a").await;
        world.entry("by-entry", &agent.id, |spec| spec.admin = true).await;
        world.entry("below", &agent.id, |spec| spec.downstream = true).await;
        let members: BTreeMap<GroupId, BTreeSet<GroupId>> = [
            ("pay".parse().unwrap(), ["pay/leads".parse().unwrap()].into()),
            ("pay/leads".parse().unwrap(), BTreeSet::new()),
        ]
        .into();
        let people = [person("alice", 20, Some("pay/leads")), person("bob", 21, None)];
        let people = People::new("td".parse().unwrap(), people, &members, []);
        let roles = RoleMap {
            admin_uids: [0].into(),
            admin_gids: [100].into(),
            viewer_uids: [1].into(),
            viewer_ids: [id("/auditor")].into(),
            operators: vec![
                operators(&["viewer", "registrar:/ns/pay/*"], Some(10), None),
                operators(&["registrar"], Some(11), None),
                operators(&["author:/task/pay/*"], Some(12), None),
                operators(&["author"], Some(13), None),
                operators(&["approver"], Some(14), None),
                operators(&["approver:/task/web/*"], Some(15), None),
                operators(&["admin"], Some(16), None),
                operators(&["registrar:/ns/pay/*", "approver:/task/pay/*"], None, Some("pay")),
            ],
            ..RoleMap::default()
        };
        let local = |uid, gid| Caller::Local { uid, gid, pid: 1 };
        let callers = vec![
            ('A', local(0, 0)),
            ('g', local(9, 100)),
            ('X', local(16, 9)),
            ('E', Caller::Workload(id("/by-entry"))),
            ('V', local(1, 1)),
            ('v', Caller::Workload(id("/auditor"))),
            ('r', local(10, 9)),
            ('R', local(11, 9)),
            ('d', local(12, 9)),
            ('D', local(13, 9)),
            ('P', local(14, 9)),
            ('p', local(15, 9)),
            ('a', local(20, 9)),
            ('c', Caller::Workload(id("/people/alice"))),
            ('b', local(21, 9)),
            ('u', local(9, 9)),
            ('w', Caller::Workload(id("/ns/pay/x"))),
            ('f', Caller::Workload("spiffe://other/people/alice".parse().unwrap())),
            ('S', Caller::Workload(id("/below"))),
            ('G', Caller::Agent(agent)),
            ('n', Caller::Anonymous),
        ];
        let policy = Arc::new(PolicyHolder::new(world.committer.clone(), world.archive()));
        Self {
            authorizer: Authorizer::new(roles, Arc::new(people), policy),
            callers,
            world,
        }
    }

    fn standing(&self, caller: &Caller, access: Access) -> Result<Option<Arc<Standing>>, CallerError> {
        let snapshot = self.world.committer.snapshot();
        let now = self.world.now();
        self.authorizer
            .authorize(caller, access, ("some.v1.Service", "Method"), &snapshot, now)
    }

    /// The callers that are let to the method, and there to `path`.
    fn admitted(&self, access: Access, path: Option<&str>) -> String {
        let is_admitted = |(_, caller): &&(char, Caller)| match (self.standing(caller, access), path) {
            (Err(_), _) => false,
            (Ok(_), None) => true,
            (Ok(standing), Some("everywhere")) => standing.unwrap().may_everywhere().is_ok(),
            (Ok(standing), Some(path)) => standing.unwrap().may(path).is_ok(),
        };
        self.callers
            .iter()
            .filter(is_admitted)
            .map(|(letter, _)| *letter)
            .collect()
    }

    async fn policy(&self, text: &str) {
        let files = [("own.cedar".to_owned(), text.to_owned())].into();
        let policy = Box::new(PolicyFiles {
            files,
            author: "alice".into(),
            set_at: self.world.now(),
        });
        self.world
            .commit(Change::PolicySet { policy, replaces: None })
            .await
            .unwrap();
    }

    fn caller(&self, letter: char) -> &Caller {
        &self.callers.iter().find(|(other, _)| *other == letter).unwrap().1
    }
}

// A difference to the table is a change of behaviour.
#[tokio::test]
async fn who_may_what_on_which_path_is_what_the_table_says() {
    let stage = Stage::new().await;
    let viewer = Role::Viewer;
    let mut table = String::new();
    for (name, access) in [
        ("Anyone", Access::Anyone),
        ("Agent", Access::Agent),
        ("AgentOr(viewer)", Access::AgentOr(viewer)),
        ("Downstream", Access::Downstream),
        ("Operator(viewer)", Access::Operator(viewer)),
        ("Operator(admin)", Access::Operator(Role::Admin)),
        ("Local(viewer)", Access::Local(viewer)),
        ("Person", Access::Person),
        ("End", Access::End),
    ] {
        writeln!(table, "{name}: {}", stage.admitted(access, None)).unwrap();
    }
    let paths = [
        "/ns/pay/x",
        "/ns/pay/x/y",
        "/ns/pay",
        "/ns/payroll/x",
        "/task/pay/x",
        "/task/web/x",
        "/x",
    ];
    for (name, access) in [
        ("Register", Access::Register),
        ("Define", Access::Define),
        ("Confirm", Access::Confirm),
    ] {
        writeln!(table, "{name}: {}", stage.admitted(access, None)).unwrap();
        for path in paths.iter().chain(&["everywhere"]) {
            writeln!(table, "{name} {path}: {}", stage.admitted(access, Some(path))).unwrap();
        }
    }
    assert_eq!(table, include_str!("table.txt"), "\n{table}");
}

// Else a registrar of some paths would make an operator, a server, or a name of somebody else.
#[tokio::test]
async fn what_reaches_beyond_a_path_takes_the_role_admin() {
    let stage = Stage::new().await;
    let may = |letter: char, change: fn(&mut EntrySpec)| {
        let standing = stage.standing(stage.caller(letter), Access::Register).unwrap().unwrap();
        let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
        let mut spec = EntrySpec::new(id("/ns/pay/x"), id("/spire/agent/t/a"), selectors);
        change(&mut spec);
        registrar::may_create(&standing, &spec).is_ok()
    };
    for letter in ['r', 'R', 'a'] {
        assert!(may(letter, |_| {}), "{letter}");
        assert!(!may(letter, |spec| spec.admin = true), "{letter}");
        assert!(!may(letter, |spec| spec.downstream = true), "{letter}");
        assert!(
            !may(letter, |spec| spec.dns_names = vec!["pay.example.org".into()]),
            "{letter}"
        );
    }
    for letter in ['A', 'E', 'X'] {
        assert!(
            may(letter, |spec| (spec.admin, spec.downstream) = (true, true)),
            "{letter}"
        );
    }
}

#[tokio::test]
async fn policies_of_operators_add_to_roles_and_take_from_them_on_their_paths() {
    let stage = Stage::new().await;
    stage
        .policy(
            r#"
            @id("bob-web")
            permit (principal == Mayfly::Human::"bob", action == Mayfly::Action::"call", resource in Mayfly::Access::"register")
            when { context has path && context.path like "/ns/web/*" };
            @id("frozen")
            @reason("the payments namespace is frozen until the audit ends")
            forbid (principal, action == Mayfly::Action::"call", resource in Mayfly::Access::"register")
            when { context has path && context.path like "/ns/pay/*" };
            "#,
        )
        .await;
    assert_eq!(stage.admitted(Access::Register, Some("/ns/web/x")), "AgXERb");
    // Administrators too: a forbid wins over every permit.
    assert_eq!(stage.admitted(Access::Register, Some("/ns/pay/x")), "");
    let standing = stage.standing(stage.caller('A'), Access::Register).unwrap().unwrap();
    let refused = standing.may("/ns/pay/x").unwrap_err().to_string();
    assert!(
        refused.contains("uid:0") && refused.contains("frozen until the audit"),
        "{refused}"
    );
    // The policy of the next state is asked in the next call.
    stage.policy("").await;
    assert!(stage.admitted(Access::Register, Some("/ns/pay/x")).starts_with('A'));
    assert_eq!(stage.admitted(Access::Register, Some("/ns/web/x")), "AgXER");
}

#[tokio::test]
async fn a_forbid_of_a_whole_method_is_told_with_its_reason() {
    let stage = Stage::new().await;
    stage
        .policy(
            r#"
            @id("quiet")
            @reason("nobody lists at night")
            forbid (principal, action == Mayfly::Action::"call", resource in Mayfly::Access::"read")
            unless { principal == Mayfly::Human::"alice" };
            "#,
        )
        .await;
    assert_eq!(stage.admitted(Access::Operator(Role::Viewer), None), "");
    let refused = stage
        .standing(stage.caller('V'), Access::Operator(Role::Viewer))
        .unwrap_err();
    assert!(refused.to_string().contains("nobody lists at night"), "{refused}");
    assert_eq!(refused.kind(), mayfly_model::ErrorKind::PermissionDenied);
    // I12: ending is never refused.
    assert_eq!(stage.admitted(Access::End, None), "AgXEVvrRdDPpacb");
    // Agents are not operators: what they may no policy of operators takes away.
    assert_eq!(stage.admitted(Access::Agent, None), "G");
    assert_eq!(stage.admitted(Access::AgentOr(Role::Viewer), None), "G");
}

// What cannot be read may have been a forbid.
#[tokio::test]
async fn under_policies_that_cannot_be_read_only_administrators_act_and_no_task_is_permitted() {
    let stage = Stage::new().await;
    stage.policy("permit (principal, action, nonsense);").await;
    for access in [
        Access::Operator(Role::Viewer),
        Access::Operator(Role::Admin),
        Access::Register,
        Access::Define,
    ] {
        let path = matches!(access, Access::Register | Access::Define).then_some("/ns/pay/x");
        assert_eq!(stage.admitted(access, path), "AgXE", "{access:?}");
    }
    let definition = crate::app::testing::tasks::migrate();
    let facts = mayfly_policy::Facts::sample(mayfly_policy::Phase::Open, definition);
    let set = stage.authorizer.policy.current();
    assert_eq!(set.decide(&facts).reason_ids(), ["policies-unusable"]);
    stage.policy("").await;
    assert!(stage.authorizer.policy.current().decide(&facts).is_allowed());
}

#[tokio::test]
async fn who_has_no_role_reads_where_one_is_given() {
    let stage = Stage::new().await;
    let refused = |letter| {
        stage
            .standing(stage.caller(letter), Access::Operator(Role::Admin))
            .unwrap_err()
    };
    assert!(matches!(refused('u'), CallerError::UidWithoutRole { uid: 9 }));
    assert!(matches!(refused('w'), CallerError::IdWithoutRole { .. }));
    assert!(matches!(refused('G'), CallerError::AgentWithoutRole { .. }));
    assert!(matches!(refused('n'), CallerError::NoCertificate));
    assert!(matches!(refused('V'), CallerError::AdminOnly { .. }));
    assert!(refused('r').to_string().contains("admin"), "{}", refused('r'));
    let registrar = stage.standing(stage.caller('r'), Access::Register).unwrap().unwrap();
    let text = registrar.may("/ns/web/x").unwrap_err().to_string();
    assert!(text.contains("/ns/web/x") && text.contains("registrar"), "{text}");
    let bob = stage.standing(stage.caller('b'), Access::Person).unwrap().unwrap();
    assert_eq!((bob.author().as_str(), bob.is_admin()), ("bob", false));
    let root = stage.standing(stage.caller('A'), Access::Person).unwrap().unwrap();
    assert_eq!((root.author().as_str(), root.is_admin()), ("uid:0", true));
    assert!(matches!(root.require_person(), Err(CallerError::NotAPerson { .. })));
}
