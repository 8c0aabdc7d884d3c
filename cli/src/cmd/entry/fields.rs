//! The options that describe an entry, and what they are on the wire.

use mayfly_model::Selector;
use mayfly_proto::spire::types::entry::AdditionalAttributes;
use mayfly_proto::spire::types::{self, Entry, EntryMask, Spiffeid};
use mayfly_svid::{SpiffeId, Timestamp};

use crate::errors::CliError;
use crate::values::{self, When};

/// What an entry says. Each option that is given changes one thing; an empty value takes it away.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Fields {
    /// The identity
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id)]
    spiffe_id: Option<SpiffeId>,
    /// Who may serve it: an agent, a node alias, or the server (`…/spire/server`) for an alias itself
    #[arg(long, value_name = "ID", alias = "parentID", value_parser = values::spiffe_id)]
    parent_id: Option<SpiffeId>,
    /// Make a node alias: the parent is the server, the selectors are those of nodes
    #[arg(long, conflicts_with = "parent_id")]
    node: bool,
    /// What must hold of the process (repeat; all must hold)
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<String>,
    /// Lifetime of X.509-SVIDs: 15m, 1h, seconds, or `default`
    #[arg(long, value_name = "DURATION", alias = "x509SVIDTTL", value_parser = values::ttl)]
    x509_svid_ttl: Option<i32>,
    /// Lifetime of JWT-SVIDs
    #[arg(long, value_name = "DURATION", alias = "jwtSVIDTTL", value_parser = values::ttl)]
    jwt_svid_ttl: Option<i32>,
    /// Foreign trust domain whose bundle its holder gets (repeat)
    #[arg(long, value_name = "TRUST_DOMAIN", alias = "federatesWith")]
    federates_with: Option<Vec<String>>,
    /// DNS name in its X.509-SVIDs (repeat)
    #[arg(long, value_name = "NAME")]
    dns: Option<Vec<String>>,
    /// What the identity is for, told to the workload
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// Its holder may administer the server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true)]
    admin: Option<bool>,
    /// Its holder may act as a downstream server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true)]
    downstream: Option<bool>,
    /// When it ends: 8h from now, 2030-01-31T12:00:00Z, seconds since 1970, or `never`
    #[arg(long, value_name = "WHEN", alias = "entryExpiry", value_parser = values::when)]
    expires: Option<When>,
    /// For agents that write SVIDs into a store
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true,
          alias = "storeSVID")]
    store_svid: Option<bool>,
    /// Make its X.509-SVID before a workload asks
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true,
          conflicts_with = "disable_x509_svid_prefetch")]
    prefetch: Option<bool>,
    /// SPIRE's spelling of --prefetch=false
    #[arg(long, alias = "disableX509SVIDPrefetch", hide = true)]
    disable_x509_svid_prefetch: bool,
    /// Give each JWT-SVID a `jti` of its own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true,
          alias = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: Option<bool>,
}

impl Fields {
    /// The entry, and which of its fields were given. Its ID is the caller's business.
    ///
    /// # Errors
    /// A value that is not what its option wants.
    pub(crate) fn to_wire(&self, now: Timestamp) -> Result<(Entry, EntryMask), CliError> {
        let mut entry = Entry::default();
        let mut mask = EntryMask::default();
        if let Some(id) = &self.spiffe_id {
            (entry.spiffe_id, mask.spiffe_id) = (Some(id_to_wire(id)), true);
        }
        if let Some(id) = &self.parent_id {
            (entry.parent_id, mask.parent_id) = (Some(id_to_wire(id)), true);
        }
        if self.node {
            let id = self.spiffe_id.as_ref().ok_or_else(|| {
                CliError::input(
                    "--node needs --spiffe-id",
                    "the parent is the server of the same trust domain",
                )
            })?;
            (entry.parent_id, mask.parent_id) = (Some(id_to_wire(&id.trust_domain().server_id())), true);
        }
        if !self.selector.is_empty() {
            entry.selectors = self
                .selector
                .iter()
                .map(|text| selector_text_to_wire(text))
                .collect::<Result<_, _>>()?;
            mask.selectors = true;
        }
        if let Some(ttl) = self.x509_svid_ttl {
            (entry.x509_svid_ttl, mask.x509_svid_ttl) = (ttl, true);
        }
        if let Some(ttl) = self.jwt_svid_ttl {
            (entry.jwt_svid_ttl, mask.jwt_svid_ttl) = (ttl, true);
        }
        if let Some(domains) = &self.federates_with {
            entry.federates_with = given(domains).map(trust_domain_text).collect::<Result<_, _>>()?;
            mask.federates_with = true;
        }
        if let Some(names) = &self.dns {
            (entry.dns_names, mask.dns_names) = (given(names).map(ToOwned::to_owned).collect(), true);
        }
        if let Some(hint) = &self.hint {
            (entry.hint, mask.hint) = (hint.clone(), true);
        }
        if let Some(admin) = self.admin {
            (entry.admin, mask.admin) = (admin, true);
        }
        if let Some(downstream) = self.downstream {
            (entry.downstream, mask.downstream) = (downstream, true);
        }
        if let Some(when) = self.expires {
            (entry.expires_at, mask.expires_at) = (when.resolve(now).map_or(0, Timestamp::unix), true);
        }
        if let Some(store) = self.store_svid {
            (entry.store_svid, mask.store_svid) = (store, true);
        }
        if self.changes_attributes() {
            self.merge_attributes(&mut entry, None);
            mask.additional_attributes = true;
        }
        Ok((entry, mask))
    }

    /// Whether one of the options is given that travel as `additional_attributes`.
    pub(crate) fn changes_attributes(&self) -> bool {
        self.prefetch.is_some() || self.disable_x509_svid_prefetch || self.jwt_svid_include_jti.is_some()
    }

    /// Sets `additional_attributes` to `current`, changed by what was given.
    pub(crate) fn merge_attributes(&self, entry: &mut Entry, current: Option<AdditionalAttributes>) {
        // Absent means "no prefetch" to our agents; once present, that has to be said.
        let mut attributes = current.unwrap_or(AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: false,
        });
        if let Some(prefetch) = self.prefetch {
            attributes.disable_x509_svid_prefetch = !prefetch;
        }
        if self.disable_x509_svid_prefetch {
            attributes.disable_x509_svid_prefetch = true;
        }
        if let Some(jti) = self.jwt_svid_include_jti {
            attributes.jwt_svid_include_jti = jti;
        }
        entry.additional_attributes = Some(attributes);
    }

    /// Refuses options that would be lost beside `--file`.
    ///
    /// # Errors
    /// There is one.
    pub(crate) fn refuse_beside_file(&self, other: bool) -> Result<(), CliError> {
        let nothing = self
            .to_wire(Timestamp::default())
            .is_ok_and(|(_, mask)| mask == EntryMask::default());
        if nothing && !self.node && !other {
            return Ok(());
        }
        Err(CliError::input(
            "options of an entry are given beside --file",
            "write them into the file",
        ))
    }

    /// Refuses to create an entry that lacks one of the three parts that each needs.
    ///
    /// # Errors
    /// Names what is missing.
    pub(crate) fn require_for_create(&self) -> Result<(), CliError> {
        let missing: Vec<&str> = [
            ("--spiffe-id", self.spiffe_id.is_none()),
            ("--parent-id", self.parent_id.is_none() && !self.node),
            ("--selector", self.selector.is_empty()),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(CliError::input(
            format!("{} missing", missing.join(", ")),
            "an entry says who it is for: a SPIFFE ID, a parent, at least one selector; `mayfly agent list` shows parents",
        ))
    }
}

/// `type:value` for the wire.
///
/// # Errors
/// It is not a selector.
pub(crate) fn selector_text_to_wire(text: &str) -> Result<types::Selector, CliError> {
    let selector: Selector = text.parse().map_err(|error: mayfly_model::SelectorError| {
        CliError::input(
            error.to_string(),
            "selectors look like unix:uid:1000 or unix:path:/usr/bin/web",
        )
    })?;
    Ok(types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    })
}

/// A SPIFFE ID for the wire.
pub(crate) fn id_to_wire(id: &SpiffeId) -> Spiffeid {
    Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// A SPIFFE ID as the wire has it, whatever it holds, for display.
pub(crate) fn id_text(id: Option<&Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// The name of a trust domain for the wire.
///
/// # Errors
/// It is not one.
pub(crate) fn trust_domain_text(text: &str) -> Result<String, CliError> {
    let parsed = values::trust_domain(text).map_err(|error| CliError::input(error, "write it as example.org"))?;
    Ok(parsed.to_string())
}

/// The values that are not empty: an empty one stands for "none".
fn given(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().map(String::as_str).filter(|value| !value.is_empty())
}
