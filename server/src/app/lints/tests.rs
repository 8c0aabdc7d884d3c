use mayfly_audit::Severity;

use super::*;

// S5 S19 S42 S85
#[test]
fn policies_people_and_windows_are_judged_by_who_knows_them() {
    let finding = |code: &str| Finding {
        code: code.into(),
        severity: Severity::Medium,
        subject: "x".into(),
        since: 0,
        message: "seen".into(),
        evidence: vec![1],
    };
    let text = r#"@id("all") permit (principal in Mayfly::Group::"leads", action in Mayfly::Action::"use", resource);"#;
    let policies = PolicySet::load(&[("x.cedar".to_owned(), text.to_owned())].into()).unwrap();
    let codes = [
        "rubber-stamping",
        "disguised-standing-access",
        "unsettled-window",
        "task-over-standing-power",
    ];
    let lints = lint(&policies, &codes.map(finding));
    let codes: Vec<(&str, &str)> = lints
        .iter()
        .map(|lint| (lint.requirement, lint.code.as_str()))
        .collect();
    assert_eq!(
        codes,
        [
            ("S19", "principals-only"),
            ("S42", "rubber-stamping"),
            ("S5", "no-window-bound"),
            ("S5", "task-over-standing-power"),
            ("S85", "disguised-standing-access")
        ]
    );
    assert_eq!(lints[0].file, "x.cedar");
    assert_eq!(lints[3].remedy, remedy("task-over-standing-power"));
}
