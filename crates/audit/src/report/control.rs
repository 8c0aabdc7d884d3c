//! Part 12: controls of published standards, by the names that they have today and those that documents still use.
//!
//! A report shows what happened, not that an organisation has a process: a control that is `held` here was not seen
//! broken in the log. What the log says nothing of is `not_recorded`.

use std::collections::BTreeSet;

use super::build::held;
use super::parts::{Control, Joins, State};
use crate::finding::Finding;

/// What a row rests on.
#[derive(Clone, Copy)]
enum Basis {
    /// The log alone.
    Log,
    /// Tests from outside.
    Probes,
    /// Nothing that is here.
    Nothing,
}

struct Row {
    framework: &'static str,
    id: &'static str,
    title: &'static str,
    older: &'static [&'static str],
    parts: &'static [u8],
    basis: Basis,
    /// Findings that speak against it.
    against: &'static [&'static str],
    note: &'static str,
}

const NHI: &str = "OWASP Non-Human Identities Top 10 (2025)";
const CSF: &str = "NIST CSF 2.0";
const ZERO_TRUST: &str = "NIST SP 800-207";
const SP_800_53: &str = "NIST SP 800-53 Rev. 5";
const AI_RMF: &str = "NIST AI RMF 1.0";

const STANDING: &[&str] = &[
    "standing-authority",
    "privileged-base-identity",
    "base-privileged",
    "disguised-standing-access",
];
const ENDS: &[&str] = &[
    "window-not-ended",
    "unsettled-window",
    "risk-accepted",
    "standing-authority",
];
const PEOPLE: &[&str] = &[
    "rubber-stamping",
    "self-group-approvals",
    "never-refuses",
    "break-glass-unreviewed",
];
const DEBT: &[&str] = &[
    "expired-exception",
    "exception-too-long",
    "definition-overdue",
    "definition-dormant",
];
const VIOLATED: &[&str] = &["invariant-violated"];

const ROWS: &[Row] = &[
    Row {
        framework: NHI,
        id: "NHI1:2025",
        title: "Improper Offboarding",
        older: &[],
        parts: &[5, 8],
        basis: Basis::Log,
        against: &[
            "window-not-ended",
            "unsettled-window",
            "definition-overdue",
            "definition-dormant",
            "expired-exception",
        ],
        note: "authority ends by itself; definitions have a date of review, exceptions a last day",
    },
    Row {
        framework: NHI,
        id: "NHI2:2025",
        title: "Secret Leakage",
        older: &["NHI-02"],
        parts: &[5, 6],
        basis: Basis::Probes,
        against: &["probe-failed"],
        note: "what a leaked credential opens after its window is shown by probes; that none leaks is not",
    },
    Row {
        framework: NHI,
        id: "NHI3:2025",
        title: "Vulnerable Third-Party NHI",
        older: &[],
        parts: &[13],
        basis: Basis::Nothing,
        against: &[],
        note: "identities of other trust domains run no tasks here",
    },
    Row {
        framework: NHI,
        id: "NHI4:2025",
        title: "Insecure Authentication",
        older: &[],
        parts: &[4],
        basis: Basis::Log,
        against: VIOLATED,
        note: "each task SVID is bound to an attested process and a key of its own",
    },
    Row {
        framework: NHI,
        id: "NHI5:2025",
        title: "Overprivileged NHI",
        older: &["NHI-03"],
        parts: &[3, 6, 7, 8],
        basis: Basis::Log,
        against: STANDING,
        note: "no standing privilege at sampled instants; privileged base identities and exceptions are listed",
    },
    Row {
        framework: NHI,
        id: "NHI6:2025",
        title: "Insecure Cloud Deployment Configurations",
        older: &[],
        parts: &[6],
        basis: Basis::Nothing,
        against: &[],
        note: "roles of clouds are not tried",
    },
    Row {
        framework: NHI,
        id: "NHI7:2025",
        title: "Long-Lived Secrets",
        older: &["NHI-02"],
        parts: &[4, 5],
        basis: Basis::Log,
        against: &["invariant-violated", "standing-authority"],
        note: "no SVID outlives its window; residual seconds are measured",
    },
    Row {
        framework: NHI,
        id: "NHI8:2025",
        title: "Environment Isolation",
        older: &[],
        parts: &[11],
        basis: Basis::Log,
        against: VIOLATED,
        note: "environments are compared by a guard at each decision; refusals are counted by reason",
    },
    Row {
        framework: NHI,
        id: "NHI9:2025",
        title: "NHI Reuse",
        older: &[],
        parts: &[4],
        basis: Basis::Log,
        against: VIOLATED,
        note: "no key belongs to two task SVIDs; each request is of one workload",
    },
    Row {
        framework: NHI,
        id: "NHI10:2025",
        title: "Human Use of NHI",
        older: &[],
        parts: &[7, 9],
        basis: Basis::Log,
        against: &["break-glass-unreviewed", "break-glass-frequent"],
        note: "what people run by hand is of a class of its own and measured by person",
    },
    Row {
        framework: CSF,
        id: "PR.AA-01",
        title: "Identities and credentials are managed",
        older: &["PR.AC-1"],
        parts: &[4, 8],
        basis: Basis::Log,
        against: &["invariant-violated", "privileged-base-identity", "expired-exception"],
        note: "every credential is in the log before it is signed",
    },
    Row {
        framework: CSF,
        id: "PR.AA-02",
        title: "Identities are proofed and bound to credentials",
        older: &["PR.AC-6"],
        parts: &[4],
        basis: Basis::Log,
        against: VIOLATED,
        note: "windows are bound to one attested process on a node that the log knows",
    },
    Row {
        framework: CSF,
        id: "PR.AA-03",
        title: "Users, services and hardware are authenticated",
        older: &["PR.AC-7"],
        parts: &[4, 6],
        basis: Basis::Log,
        against: VIOLATED,
        note: "attestation is fresh at each decision, by a guard",
    },
    Row {
        framework: CSF,
        id: "PR.AA-04",
        title: "Identity assertions are protected, conveyed and verified",
        older: &[],
        parts: &[6],
        basis: Basis::Probes,
        against: &["probe-failed", "base-privileged"],
        note: "what consumers verify is shown by probes",
    },
    Row {
        framework: CSF,
        id: "PR.AA-05",
        title: "Permissions follow least privilege and separation of duties, and are reviewed",
        older: &["PR.AC-4", "PR.AC-1"],
        parts: &[3, 7, 8, 10],
        basis: Basis::Log,
        against: &[
            "standing-authority",
            "privileged-base-identity",
            "base-privileged",
            "disguised-standing-access",
            "rubber-stamping",
            "self-group-approvals",
            "expired-exception",
        ],
        note: "standing privilege, its exceptions and the people who agree",
    },
    Row {
        framework: ZERO_TRUST,
        id: "Tenet 3",
        title: "Access is granted per session",
        older: &["PR.AC"],
        parts: &[4, 5],
        basis: Basis::Log,
        against: STANDING,
        note: "one window, one process, one key at a time",
    },
    Row {
        framework: ZERO_TRUST,
        id: "Tenet 4",
        title: "Access is determined by dynamic policy",
        older: &["AC-2"],
        parts: &[4, 11],
        basis: Basis::Log,
        against: VIOLATED,
        note: "every issuance and renewal has a decision with its policy's digest in the same commit",
    },
    Row {
        framework: ZERO_TRUST,
        id: "Tenet 5",
        title: "Integrity and posture of assets are monitored",
        older: &[],
        parts: &[4],
        basis: Basis::Log,
        against: VIOLATED,
        note: "nodes are attested, and banned ones open nothing; posture of software is not in the log",
    },
    Row {
        framework: ZERO_TRUST,
        id: "Tenet 6",
        title: "Authentication and authorization are strictly enforced before access",
        older: &["PR.AC"],
        parts: &[4, 6],
        basis: Basis::Probes,
        against: &["invariant-violated", "probe-failed", "base-privileged"],
        note: "log before mint by replay; refusal at consumers by probes",
    },
    Row {
        framework: ZERO_TRUST,
        id: "Tenet 7",
        title: "Information is collected and used to improve",
        older: &[],
        parts: &[7, 8, 10],
        basis: Basis::Log,
        against: &["unknown-entries"],
        note: "this report",
    },
    Row {
        framework: SP_800_53,
        id: "AC-2",
        title: "Account Management",
        older: &["AC-2 (as a tenet of SP 800-207)"],
        parts: &[5, 8],
        basis: Basis::Log,
        against: DEBT,
        note: "temporary authority ends by itself; what stands is in the register",
    },
    Row {
        framework: SP_800_53,
        id: "AC-2(3)",
        title: "Account Management: Disable Accounts",
        older: &[],
        parts: &[5],
        basis: Basis::Log,
        against: ENDS,
        note: "each end with its cause, and when it was shown",
    },
    Row {
        framework: SP_800_53,
        id: "AC-5",
        title: "Separation of Duties",
        older: &["PR.AC-4"],
        parts: &[10, 11],
        basis: Basis::Log,
        against: PEOPLE,
        note: "nobody approves what they ask for; the matrix of part 10 and the changes of part 11",
    },
    Row {
        framework: SP_800_53,
        id: "AC-6",
        title: "Least Privilege",
        older: &["JIT/JEA"],
        parts: &[3, 7, 8],
        basis: Basis::Log,
        against: STANDING,
        note: "privileged seconds, duty cycles and disguised standing access",
    },
    Row {
        framework: SP_800_53,
        id: "AU-9",
        title: "Protection of Audit Information",
        older: &[],
        parts: &[1, 2],
        basis: Basis::Log,
        against: VIOLATED,
        note: "a Merkle tree with signed checkpoints, cosigned by the witnesses that part 1 names",
    },
    Row {
        framework: SP_800_53,
        id: "AU-10",
        title: "Non-repudiation",
        older: &[],
        parts: &[1, 4],
        basis: Basis::Log,
        against: VIOLATED,
        note: "who asked, who agreed and to what digest; people do not sign by themselves yet",
    },
    Row {
        framework: AI_RMF,
        id: "GOVERN",
        title: "Policies, roles and accountability",
        older: &[],
        parts: &[8, 11],
        basis: Basis::Log,
        against: DEBT,
        note: "every definition and exception has somebody who answers for it",
    },
    Row {
        framework: AI_RMF,
        id: "MAP",
        title: "Context is established",
        older: &[],
        parts: &[11],
        basis: Basis::Log,
        against: &["definition-dormant"],
        note: "the definitions in force are the inventory of what may be done",
    },
    Row {
        framework: AI_RMF,
        id: "MEASURE",
        title: "Risks are measured",
        older: &[],
        parts: &[5, 7, 10],
        basis: Basis::Log,
        against: &[],
        note: "residual seconds, duty cycles, latencies",
    },
    Row {
        framework: AI_RMF,
        id: "MANAGE",
        title: "Risks are acted upon",
        older: &[],
        parts: &[5, 9],
        basis: Basis::Log,
        against: ENDS,
        note: "revocation and its proof, break-glass and its review",
    },
];

pub(super) fn controls(findings: &[Finding], joins: &Joins, standing: State, probes: State) -> Vec<Control> {
    let found: BTreeSet<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
    let is_whole = joins.violations.rows.is_empty();
    let control = |row: &Row| {
        let against: BTreeSet<String> = row
            .against
            .iter()
            .filter(|code| found.contains(*code))
            .map(|code| (*code).to_owned())
            .collect();
        let rests_on_instants = row.against.contains(&"standing-authority");
        let state = match row.basis {
            _ if !against.is_empty() => State::Broken,
            Basis::Nothing => State::NotRecorded,
            Basis::Probes if probes == State::NotTested => State::NotTested,
            _ if rests_on_instants => standing,
            _ => held(is_whole || !row.against.contains(&"invariant-violated")),
        };
        Control {
            framework: row.framework.into(),
            id: row.id.into(),
            title: row.title.into(),
            older_labels: row.older.iter().map(|label| (*label).to_owned()).collect(),
            parts: row.parts.to_vec(),
            state,
            findings: against,
            note: row.note.into(),
        }
    };
    ROWS.iter().map(control).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Code;

    #[test]
    fn controls_name_findings_that_there_are_and_parts_that_there_are() {
        for row in ROWS {
            for code in row.against {
                assert!(Code::find(code).is_some(), "{}: {code}", row.id);
            }
            assert!(row.parts.iter().all(|part| (1..=13).contains(part)), "{}", row.id);
        }
    }
}
