//! `mayfly.task.v1.Definitions`: what tasks there are.

use std::sync::Arc;

use mayfly_model::task::{DefinitionVersion, ProposedChange, TaskName};
use mayfly_proto::mayfly::task::definitions_server::Definitions as DefinitionsApi;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::page::Wanted;
use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::changes::{Became, By};
use crate::app::definitions;

pub(super) struct DefinitionsService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl DefinitionsApi for DefinitionsService {
    async fn define(&self, request: Request<DefineRequest>) -> Result<Response<DefineResponse>, Status> {
        let call = Call::of(&request)?;
        let text = request.into_inner().definition;
        let people = self.0.authorizer.people();
        let read = definitions::read(&text, people, &call.snapshot).await;
        let definition = read.map_err(|refused| to_status(&crate::app::changes::ChangeError::from(refused)))?;
        let (name, hash) = (definition.name.to_string(), definition.hash().to_string());
        let definition = Box::new(definition);
        self.change(&call, ProposedChange::Definition { definition }, name, hash)
            .await
    }

    /// In the order of names, retired ones too.
    async fn list(
        &self,
        request: Request<ListDefinitionsRequest>,
    ) -> Result<Response<ListDefinitionsResponse>, Status> {
        let call = Call::of(&request)?;
        let ListDefinitionsRequest { page_size, page_token } = request.into_inner();
        let wanted = Wanted::parse("definitions", &[], page_size, &page_token)?;
        let after = wanted.after::<TaskName>()?;
        let page = wanted
            .collect(
                call.snapshot.definitions_after(after.as_ref()),
                |_| true,
                |version| version.definition.name.to_string(),
                |version| shown(version),
            )
            .await;
        Ok(Response::new(ListDefinitionsResponse {
            definitions: page.items,
            next_page_token: page.next_token,
        }))
    }

    async fn get(&self, request: Request<GetDefinitionRequest>) -> Result<Response<Definition>, Status> {
        let call = Call::of(&request)?;
        let GetDefinitionRequest { name, hash } = request.into_inner();
        let found = definitions::find(&call.snapshot, self.0.evidence.archive(), &read_name(&name)?, &hash).await;
        let version = found.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(shown(&version)))
    }

    async fn retire(&self, request: Request<RetireRequest>) -> Result<Response<DefineResponse>, Status> {
        let call = Call::of(&request)?;
        let name = read_name(&request.into_inner().name)?;
        let present = call.snapshot.definition(&name);
        let hash = present.map(|present| present.hash.to_string()).unwrap_or_default();
        let shown = name.to_string();
        self.change(&call, ProposedChange::Retirement { name }, shown, hash)
            .await
    }
}

impl DefinitionsService {
    async fn change(
        &self,
        call: &Call,
        change: ProposedChange,
        name: String,
        hash: String,
    ) -> Result<Response<DefineResponse>, Status> {
        let became = self.0.changes.submit(call.by()?, change).await;
        let became = became.map_err(|refused| to_status(&refused))?;
        let unchanged = became == Became::Unchanged;
        let (in_force, proposal_id) = match became {
            Became::InForce | Became::Unchanged => (true, String::new()),
            Became::Proposed { id } => (false, id),
        };
        Ok(Response::new(DefineResponse {
            name,
            hash,
            in_force,
            proposal_id,
            unchanged,
        }))
    }
}

impl Call {
    /// Who calls, for changes of what gives authority.
    ///
    /// # Errors
    /// It is no operator, which the table of methods does not allow where this is asked.
    pub(super) fn by(&self) -> Result<By<'_>, Status> {
        Ok(By {
            standing: self.standing()?,
            actor: &self.actor,
            now: self.now,
            snapshot: &self.snapshot,
        })
    }
}

pub(super) fn shown(version: &DefinitionVersion) -> Definition {
    Definition {
        name: version.definition.name.to_string(),
        hash: version.hash.to_string(),
        version: version.version,
        text: version.definition.to_toml(),
        retired: version.retired,
        author: version.author.clone(),
        defined_at: version.defined_at.unix(),
    }
}

fn read_name(text: &str) -> Result<TaskName, Status> {
    text.parse().map_err(|error| invalid(format!("name: {error}")))
}
