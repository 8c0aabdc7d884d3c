//! `mayfly.task.v1.Debt`: what stands, and what is likely a mistake.

use std::sync::Arc;

use mayfly_audit::Severity;
use mayfly_audit::finding::remedy;
use mayfly_audit::meter::{Listed, MeterRow};
use mayfly_proto::mayfly::task::debt_server::Debt;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::exceptions::{shown, within_answer};
use super::status::to_status;
use super::{Api, Call};
use crate::app::debt::{self, DebtError, Measured, Standing};
use crate::app::evidence::readers::Reading;
use crate::app::lints;

pub(super) struct DebtService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Debt for DebtService {
    async fn get(&self, request: Request<GetDebtRequest>) -> Result<Response<DebtResponse>, Status> {
        let call = Call::of(&request)?;
        let GetDebtRequest { since, until, scope } = request.into_inner();
        let measured = self.measure(since, until, &scope, &call).await?;
        let Measured {
            view,
            findings,
            meter,
            entries,
            ..
        } = measured;
        let checkpoints = &self.0.feeds.checkpoints;
        let now = Standing::of(&call.snapshot, checkpoints, call.now);
        let exceptions = now.exceptions.iter();
        let exceptions = exceptions.map(|exception| shown(exception, &call.snapshot, call.now));
        Ok(Response::new(DebtResponse {
            since: view.from,
            until: view.to,
            scope: view.scope.to_string(),
            entries,
            findings: findings.into_iter().take(FINDINGS_MAX).map(finding).collect(),
            total: Some(row(meter.total)),
            by_owner: rows(meter.by_owner),
            by_task: rows(meter.by_task),
            by_identity: rows(meter.by_workload),
            exceptions: within_answer(exceptions),
            unsettled: now
                .unsettled
                .iter()
                .map(|(task, window)| UnsettledWindow {
                    id: window.id.to_string(),
                    task: task.request.task.to_string(),
                    workload: task.request.workload.to_string(),
                    stage: window.stage.word().into(),
                    closed_at: window.closed_at.map_or(0, |at| at.unix()),
                    request_id: task.id.to_string(),
                })
                .collect(),
            reviews: now
                .reviews
                .into_iter()
                .map(|review| DueReview {
                    kind: review.kind.into(),
                    subject: review.subject,
                    owner: review.owner,
                    due: review.due.unix(),
                })
                .collect(),
            privileged: now
                .privileged
                .iter()
                .map(|(entry, covered)| PrivilegedEntry {
                    entry_id: entry.id.to_string(),
                    identity: entry.spec.spiffe_id.to_string(),
                    rights: debt::rights_of(entry),
                    exception_id: covered
                        .as_ref()
                        .map(|exception| exception.id.clone())
                        .unwrap_or_default(),
                })
                .collect(),
            checkpoints: now
                .checkpoints
                .into_iter()
                .map(|row| CheckpointRow {
                    rule: row.rule,
                    tasks: row.tasks.into_iter().collect(),
                    consumers: row.enforced.consumers,
                    behind: row.enforced.behind,
                    agent_gone: row.enforced.is_agent_gone,
                })
                .collect(),
        }))
    }

    async fn lint(&self, request: Request<GetLintsRequest>) -> Result<Response<LintResponse>, Status> {
        let call = Call::of(&request)?;
        let GetLintsRequest { since, until } = request.into_inner();
        let measured = self.measure(since, until, "", &call).await?;
        let Measured { findings, entries, .. } = measured;
        let in_force = self.0.policy.of(&call.snapshot);
        let found = lints::lint(in_force.set(), &findings);
        let definitions = call.snapshot.definitions_after(None).filter(|version| !version.retired);
        Ok(Response::new(LintResponse {
            lints: found
                .into_iter()
                .take(FINDINGS_MAX)
                .map(|lint| Lint {
                    code: lint.code,
                    requirement: lint.requirement.into(),
                    subject: lint.subject,
                    file: lint.file,
                    message: lint.message,
                    remedy: lint.remedy.into(),
                })
                .collect(),
            definitions: definitions.count() as u64,
            policies: in_force.set().len() as u64,
            entries,
        }))
    }
}

/// The most findings of an answer; the worst ones.
const FINDINGS_MAX: usize = 1_000;
/// The most rows of a table.
const ROWS_MAX: usize = 500;

impl DebtService {
    async fn measure(&self, since: i64, until: i64, scope: &str, call: &Call) -> Result<Measured, Status> {
        let view = debt::period(since, until, scope, call.now).map_err(|refused| to_status(&refused))?;
        // People are shown by their names, which the log only commits to.
        let recorded = self.0.evidence.record_reading(call.actor.clone(), &Reading::Debt).await;
        recorded.map_err(|failure| to_status(&failure))?;
        let measured = self.0.measuring.measure(view).await;
        measured.map_err(|failure| to_status(&DebtError::from(failure)))
    }
}

fn rows(listed: Listed<MeterRow>) -> Vec<PowerRow> {
    listed.rows.into_iter().take(ROWS_MAX).map(row).collect()
}

fn row(row: MeterRow) -> PowerRow {
    PowerRow {
        name: row.name,
        windows: row.windows,
        privileged_seconds: row.privileged_seconds,
        duty_permille: row.duty_permille,
        longest_seconds: row.longest,
        residual_seconds: row.residual_seconds,
    }
}

fn finding(finding: mayfly_audit::Finding) -> Finding {
    let severity = match finding.severity {
        Severity::Critical => "critical",
        Severity::High => "high",
        Severity::Medium => "medium",
        Severity::Low => "low",
    };
    Finding {
        remedy: remedy(&finding.code).into(),
        code: finding.code,
        severity: severity.into(),
        subject: finding.subject,
        since: finding.since,
        message: finding.message,
        evidence: finding.evidence,
    }
}
