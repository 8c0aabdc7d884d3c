//! The server's API as an operator on its machine uses it: over the Unix socket, known by user.

use std::path::Path;

use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::agent::{
    BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
};
use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest,
};
use mayfly_proto::spire::types::{self, Agent, Entry, EntryMask, Spiffeid};
use mayfly_runtime::client::unix_channel;
use mayfly_svid::{Bundle, TrustDomain, X509Authority};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::TRUST_DOMAIN;

/// A registration as a story writes it.
#[derive(Debug, Clone, Default)]
pub struct EntrySpec {
    /// Empty: the server chooses.
    pub id: String,
    /// Path of the SPIFFE ID.
    pub path: String,
    /// Whole SPIFFE ID of the parent.
    pub parent: String,
    /// `type:value` each.
    pub selectors: Vec<String>,
    /// Seconds; 0 is the server's default.
    pub x509_svid_ttl: i32,
    /// Unix seconds; 0 is never.
    pub expires_at: i64,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// For the workload.
    pub hint: String,
}

/// An operator.
#[derive(Debug, Clone)]
pub struct Admin {
    channel: Channel,
}

/// `type:value` as the wire has it.
pub fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').expect("type:value");
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

/// A SPIFFE ID as the wire has it.
pub fn id_to_wire(id: &str) -> Spiffeid {
    let rest = id.strip_prefix("spiffe://").expect("a SPIFFE ID");
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Spiffeid {
        trust_domain: trust_domain.into(),
        path: path.into(),
    }
}

/// A SPIFFE ID of the wire as text.
pub fn id_text(id: Option<&Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

fn one(status: Option<types::Status>) -> Result<(), Status> {
    let status = status.expect("each item has a status");
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, status.message)),
    }
}

// === impl EntrySpec ===

impl EntrySpec {
    /// An entry for the path below `parent`.
    pub fn new(path: &str, parent: &str, selectors: &[&str]) -> Self {
        Self {
            path: path.into(),
            parent: parent.into(),
            selectors: selectors.iter().map(|&text| text.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// With another lifetime of its SVIDs.
    #[must_use]
    pub fn ttl(mut self, seconds: i32) -> Self {
        self.x509_svid_ttl = seconds;
        self
    }

    /// As the wire has it.
    pub fn to_wire(&self) -> Entry {
        Entry {
            id: self.id.clone(),
            spiffe_id: Some(Spiffeid {
                trust_domain: TRUST_DOMAIN.into(),
                path: self.path.clone(),
            }),
            parent_id: Some(id_to_wire(&self.parent)),
            selectors: self.selectors.iter().map(|text| selector(text)).collect(),
            x509_svid_ttl: self.x509_svid_ttl,
            expires_at: self.expires_at,
            dns_names: self.dns_names.clone(),
            hint: self.hint.clone(),
            ..Entry::default()
        }
    }
}

// === impl Admin ===

impl Admin {
    /// Over the server's Unix socket. Connects when first used.
    pub fn new(socket: &Path) -> Self {
        Self {
            channel: unix_channel(socket),
        }
    }

    /// Over another channel.
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// The connection, for calls that have no method here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The entry API.
    pub fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// The agent API.
    pub fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    /// Creates one entry; gives it as the server keeps it.
    ///
    /// # Errors
    /// The server's, of the call or of the item.
    pub async fn try_create(&self, entry: Entry) -> Result<Entry, Status> {
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let answer = self.entries().batch_create_entry(request).await?.into_inner();
        let result = answer.results.into_iter().next().expect("one result for one entry");
        one(result.status)?;
        Ok(result.entry.expect("an entry that was created"))
    }

    /// Creates one entry; gives its ID.
    pub async fn create(&self, spec: &EntrySpec) -> String {
        self.try_create(spec.to_wire())
            .await
            .unwrap_or_else(|status| panic!("{spec:?}: {status}"))
            .id
    }

    /// Changes what `mask` names.
    ///
    /// # Errors
    /// The server's, of the call or of the item.
    pub async fn try_update(&self, entry: Entry, mask: EntryMask) -> Result<Entry, Status> {
        let request = BatchUpdateEntryRequest {
            entries: vec![entry],
            input_mask: Some(mask),
            output_mask: None,
        };
        let answer = self.entries().batch_update_entry(request).await?.into_inner();
        let result = answer.results.into_iter().next().expect("one result for one entry");
        one(result.status)?;
        Ok(result.entry.expect("an entry that was changed"))
    }

    /// Deletes one entry.
    ///
    /// # Errors
    /// The server's, of the call or of the item.
    pub async fn try_delete(&self, id: &str) -> Result<(), Status> {
        let answer = self
            .entries()
            .batch_delete_entry(BatchDeleteEntryRequest { ids: vec![id.into()] })
            .await?
            .into_inner();
        one(answer.results.into_iter().next().expect("one result for one ID").status)
    }

    /// Deletes one entry that is there.
    pub async fn delete(&self, id: &str) {
        self.try_delete(id).await.unwrap();
    }

    /// One entry.
    ///
    /// # Errors
    /// The server's.
    pub async fn get(&self, id: &str) -> Result<Entry, Status> {
        Ok(self
            .entries()
            .get_entry(GetEntryRequest {
                id: id.into(),
                output_mask: None,
            })
            .await?
            .into_inner())
    }

    /// How many entries there are.
    pub async fn count(&self) -> i32 {
        self.entries()
            .count_entries(CountEntriesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .count
    }

    /// All entries.
    pub async fn list(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListEntriesRequest {
                page_size: 500,
                page_token,
                ..Default::default()
            };
            let answer = self.entries().list_entries(request).await.unwrap().into_inner();
            entries.extend(answer.entries);
            if answer.next_page_token.is_empty() {
                return entries;
            }
            page_token = answer.next_page_token;
        }
    }

    /// A join token that is good for ten minutes.
    ///
    /// # Errors
    /// The server's.
    pub async fn try_token(&self) -> Result<String, Status> {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        Ok(self.agents().create_join_token(request).await?.into_inner().value)
    }

    /// A join token that is good for ten minutes.
    pub async fn token(&self) -> String {
        self.try_token().await.unwrap()
    }

    /// All agents.
    pub async fn list_agents(&self) -> Vec<Agent> {
        let mut agents = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListAgentsRequest {
                page_size: 500,
                page_token,
                ..Default::default()
            };
            let answer = self.agents().list_agents(request).await.unwrap().into_inner();
            agents.extend(answer.agents);
            if answer.next_page_token.is_empty() {
                return agents;
            }
            page_token = answer.next_page_token;
        }
    }

    /// One agent.
    ///
    /// # Errors
    /// The server's.
    pub async fn get_agent(&self, id: &str) -> Result<Agent, Status> {
        let request = GetAgentRequest {
            id: Some(id_to_wire(id)),
            output_mask: None,
        };
        Ok(self.agents().get_agent(request).await?.into_inner())
    }

    /// Bans an agent.
    ///
    /// # Errors
    /// The server's.
    pub async fn try_ban(&self, id: &str) -> Result<(), Status> {
        self.agents()
            .ban_agent(BanAgentRequest {
                id: Some(id_to_wire(id)),
            })
            .await
            .map(|_| ())
    }

    /// Evicts an agent.
    ///
    /// # Errors
    /// The server's.
    pub async fn try_evict(&self, id: &str) -> Result<(), Status> {
        self.agents()
            .delete_agent(DeleteAgentRequest {
                id: Some(id_to_wire(id)),
            })
            .await
            .map(|_| ())
    }

    /// The trust bundle.
    pub async fn bundle(&self) -> Bundle {
        let mut client = BundleClient::new(self.channel.clone());
        let wire = client
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .unwrap()
            .into_inner();
        let mut bundle = Bundle::empty(TRUST_DOMAIN.parse::<TrustDomain>().expect("a trust domain"));
        bundle.x509_authorities = wire
            .x509_authorities
            .into_iter()
            .map(|authority| X509Authority {
                cert_der: authority.asn1.into(),
                tainted: authority.tainted,
            })
            .collect();
        bundle
    }

    /// The trust bundle as PEM.
    pub async fn bundle_pem(&self) -> String {
        self.bundle().await.x509_to_pem()
    }
}
