//! People at the server's local socket: the server knows them by the user that they are.

use std::collections::BTreeMap;
use std::path::Path;

use mayfly_proto::mayfly::task::definitions_client::DefinitionsClient;
use mayfly_proto::mayfly::task::exceptions_client::ExceptionsClient;
use mayfly_proto::mayfly::task::policy_client::PolicyClient;
use mayfly_proto::mayfly::task::proposals_client::ProposalsClient;
use mayfly_proto::mayfly::task::tasks_client::TasksClient;
use mayfly_proto::mayfly::task::{
    DecideProposalRequest, DecideRequest, DefineRequest, DefineResponse, EndTaskRequest, ExceptionResponse,
    GetTaskRequest, GrantExceptionRequest, Proposal, RevokeRequest, RevokeResponse, SetPolicyRequest,
    SetPolicyResponse, Task, revoke_request,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::Caller;
use crate::caller::channel_over;

/// Somebody who calls as a user of this machine.
#[derive(Debug)]
pub struct Person {
    channel: Channel,
    _process: Caller,
}

impl Person {
    /// The user `uid`, at the server's `socket`.
    pub fn at(socket: &Path, uid: u32) -> Self {
        let mut process = Caller::spawn(uid);
        Self {
            channel: channel_over(process.connect(socket)),
            _process: process,
        }
    }

    /// What there is of one request.
    pub async fn task(&self, id: &str) -> Task {
        let request = GetTaskRequest { id: id.into() };
        let found = self.tasks().get(request).await;
        found.expect("the request is there").into_inner()
    }

    /// Agrees to what `digest` stands for.
    ///
    /// # Errors
    /// The server's.
    pub async fn approve(&self, id: &str, digest: &str) -> Result<Task, Status> {
        let request = DecideRequest {
            request_id: id.into(),
            digest: digest.into(),
            reason: "looked at it".into(),
        };
        Ok(self.tasks().approve(request).await?.into_inner())
    }

    /// Looks at a use of break-glass.
    ///
    /// # Errors
    /// The server's.
    pub async fn review(&self, id: &str) -> Result<Task, Status> {
        let request = EndTaskRequest {
            id: id.into(),
            reason: "looked at it".into(),
        };
        Ok(self.tasks().review(request).await?.into_inner())
    }

    /// Ends authority.
    ///
    /// # Errors
    /// The server's.
    pub async fn revoke(&self, scope: revoke_request::Scope, hard_cut: bool) -> Result<RevokeResponse, Status> {
        let request = RevokeRequest {
            scope: Some(scope),
            reason: "a story".into(),
            hard_cut,
        };
        Ok(self.tasks().revoke(request).await?.into_inner())
    }

    /// Defines a task.
    ///
    /// # Errors
    /// The server's.
    pub async fn define(&self, definition: &str) -> Result<DefineResponse, Status> {
        let request = DefineRequest {
            definition: definition.into(),
        };
        let mut client = DefinitionsClient::new(self.channel.clone());
        Ok(client.define(request).await?.into_inner())
    }

    /// Sets a policy of one file; empty text: none.
    ///
    /// # Errors
    /// The server's.
    pub async fn set_policy(&self, text: &str) -> Result<SetPolicyResponse, Status> {
        let files = if text.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from([("story.cedar".to_owned(), text.to_owned())])
        };
        let request = SetPolicyRequest {
            files,
            replaces: String::new(),
        };
        let mut client = PolicyClient::new(self.channel.clone());
        Ok(client.set(request).await?.into_inner())
    }

    /// Puts a change of somebody else in force.
    ///
    /// # Errors
    /// The server's.
    pub async fn approve_proposal(&self, id: &str) -> Result<Proposal, Status> {
        let request = DecideProposalRequest { id: id.into() };
        let mut client = ProposalsClient::new(self.channel.clone());
        Ok(client.approve(request).await?.into_inner())
    }

    /// Lets an identity have standing power for a time.
    ///
    /// # Errors
    /// The server's.
    pub async fn grant_exception(&self, request: GrantExceptionRequest) -> Result<ExceptionResponse, Status> {
        let mut client = ExceptionsClient::new(self.channel.clone());
        Ok(client.grant(request).await?.into_inner())
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }
}
