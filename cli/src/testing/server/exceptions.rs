//! `mayfly.task.v1.Exceptions` and `mayfly.task.v1.Debt`.

use mayfly_proto::mayfly::task::debt_server::Debt;
use mayfly_proto::mayfly::task::exceptions_server::Exceptions;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::{NOW, Shared};

const DAY: i64 = 86_400;

#[tonic::async_trait]
impl Exceptions for Shared {
    async fn grant(&self, request: Request<GrantExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let mut state = self.enter("grant_exception", &request)?;
        let wanted = request.into_inner();
        if state.two_person {
            return Ok(Response::new(ExceptionResponse {
                exception: None,
                proposal_id: "p1".into(),
            }));
        }
        let exception = Exception {
            id: format!("x{}", state.exceptions.len() + 1),
            identity: wanted.identity,
            allows: wanted.allows,
            scopes: wanted.scopes,
            owner: wanted.owner,
            reason: wanted.reason,
            compensating_control: wanted.compensating_control,
            approved_by: "bob".into(),
            granted_at: NOW,
            approved_at: NOW,
            expires_at: wanted.expires_at,
            state: "in_force".into(),
            ..Exception::default()
        };
        state.exceptions.push(exception.clone());
        Ok(answer(exception))
    }

    async fn list(&self, request: Request<ListExceptionsRequest>) -> Result<Response<ListExceptionsResponse>, Status> {
        let state = self.enter("list_exceptions", &request)?;
        Ok(Response::new(ListExceptionsResponse {
            exceptions: state.exceptions.clone(),
        }))
    }

    async fn renew(&self, request: Request<RenewExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let mut state = self.enter("renew_exception", &request)?;
        let RenewExceptionRequest { id, reason, expires_at } = request.into_inner();
        let mut found = state.exceptions.iter_mut().filter(|exception| exception.id == id);
        let exception = found.next().ok_or_else(|| Status::not_found("exception not found"))?;
        (exception.reason, exception.expires_at) = (reason, expires_at);
        exception.renewals += 1;
        Ok(answer(exception.clone()))
    }

    async fn end(&self, request: Request<EndExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let mut state = self.enter("end_exception", &request)?;
        let EndExceptionRequest { id, power_removed } = request.into_inner();
        let mut found = state.exceptions.iter_mut().filter(|exception| exception.id == id);
        let exception = found.next().ok_or_else(|| Status::not_found("exception not found"))?;
        exception.state = "ended".into();
        exception.ended_at = NOW;
        exception.power_removed = power_removed;
        exception.stops_issuance = !power_removed;
        Ok(answer(exception.clone()))
    }
}

fn answer(exception: Exception) -> Response<ExceptionResponse> {
    Response::new(ExceptionResponse {
        exception: Some(exception),
        proposal_id: String::new(),
    })
}

#[tonic::async_trait]
impl Debt for Shared {
    async fn get(&self, request: Request<GetDebtRequest>) -> Result<Response<DebtResponse>, Status> {
        let state = self.enter("get_debt", &request)?;
        let GetDebtRequest { since, until, scope } = request.into_inner();
        assert_eq!(until, 0, "the server knows what time it is");
        let row = |name: &str, windows, privileged_seconds, duty_permille| PowerRow {
            name: name.into(),
            windows,
            privileged_seconds,
            duty_permille,
            longest_seconds: 900,
            residual_seconds: 12,
        };
        Ok(Response::new(DebtResponse {
            since,
            until: NOW,
            scope,
            entries: 4711,
            findings: vec![Finding {
                code: "disguised-standing-access".into(),
                severity: "high".into(),
                subject: "pay/export spiffe://example.org/ns/pay/export".into(),
                since: NOW - DAY,
                message: "this is standing access in pieces: 48 identical requests".into(),
                remedy: "make the work one longer window or a smaller task".into(),
                evidence: vec![17, 19],
            }],
            total: Some(row("all", 50, 43_700, 16)),
            by_owner: vec![row("carol", 50, 43_700, 16)],
            by_task: vec![row("pay/export", 48, 43_200, 16), row("pay/migrate", 2, 500, 0)],
            by_identity: vec![row("spiffe://example.org/ns/pay/export", 50, 43_700, 16)],
            exceptions: state.exceptions.clone(),
            unsettled: vec![UnsettledWindow {
                id: "w1".into(),
                task: "pay/export".into(),
                workload: "spiffe://example.org/ns/pay/export".into(),
                stage: "revocation_incomplete".into(),
                closed_at: NOW - 7200,
                request_id: "r1".into(),
            }],
            reviews: vec![DueReview {
                kind: "definition".into(),
                subject: "pay/export".into(),
                owner: "carol".into(),
                due: NOW + DAY,
            }],
            privileged: vec![PrivilegedEntry {
                entry_id: "e1".into(),
                identity: "spiffe://example.org/ops".into(),
                rights: vec!["mayfly:admin".into()],
                exception_id: String::new(),
            }],
            checkpoints: vec![CheckpointRow {
                rule: "/svc/db".into(),
                tasks: vec!["pay/export".into()],
                consumers: 2,
                behind: 3,
                agent_gone: false,
            }],
        }))
    }

    async fn lint(&self, request: Request<GetLintsRequest>) -> Result<Response<LintResponse>, Status> {
        let state = self.enter("lint", &request)?;
        Ok(Response::new(LintResponse {
            lints: state.lints.clone(),
            definitions: 2,
            policies: 1,
            entries: 4711,
        }))
    }
}
