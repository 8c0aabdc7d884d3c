//! `join_token`: the node knows a secret that an operator made for it. The payload is the token's bytes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use mayfly_model::TokenHash;
use mayfly_runtime::files::read_private;
use mayfly_svid::{Timestamp, TrustDomain};
use zeroize::Zeroizing;

use crate::{
    AgentError, AgentHalf, AttestError, Attested, BuildError, Builtin, Challenger, ServerHalf, agent_id,
    check_payload_size,
};

const NAME: &str = "join_token";

/// SPIRE's tokens are UUIDs; operators may choose their own.
const MAX_TOKEN_BYTES: usize = 256;

pub(crate) const BUILTIN: Builtin = Builtin {
    name: NAME,
    server: |section, deps| {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {}
        let Section {} = section
            .try_into()
            .map_err(|source| BuildError::Config { name: NAME, source })?;
        Ok(Box::new(Server {
            trust_domain: deps.trust_domain.clone(),
        }))
    },
    agent: |section, deps| {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {
            token_file: PathBuf,
        }
        let Section { token_file } = section
            .try_into()
            .map_err(|source| BuildError::Config { name: NAME, source })?;
        Ok(Box::new(Agent {
            token_file: deps.base_dir.join(token_file),
        }))
    },
};

#[derive(Debug)]
struct Server {
    trust_domain: TrustDomain,
}

#[async_trait]
impl ServerHalf for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The ID holds the token itself, as in SPIRE. Whether the token exists is the commit's to find out.
    async fn attest(&self, payload: &[u8], _: &mut dyn Challenger, _: Timestamp) -> Result<Attested, AttestError> {
        check_payload_size(payload)?;
        let token = std::str::from_utf8(payload).ok().filter(|token| is_token(token));
        let token = token.ok_or(AttestError::Malformed {
            problem: "not a join token",
        })?;
        Ok(Attested {
            agent_id: agent_id(&self.trust_domain, NAME, token)?,
            selectors: BTreeSet::new(),
            reattestable: false,
            one_time: Some(TokenHash::of(token)),
        })
    }
}

/// A token becomes one segment of a path (SPIFFE-ID §2.2).
fn is_token(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    token.len() <= MAX_TOKEN_BYTES && token.bytes().all(plain)
}

#[derive(Debug)]
struct Agent {
    token_file: PathBuf,
}

impl AgentHalf for Agent {
    fn name(&self) -> &'static str {
        NAME
    }

    fn payload(&self) -> Result<Zeroizing<Vec<u8>>, AgentError> {
        let text = read_private(&self.token_file, 2 * MAX_TOKEN_BYTES as u64)
            .map_err(|source| AgentError::File { name: NAME, source })?;
        let token = text.trim_ascii();
        if token.is_empty() || !std::str::from_utf8(token).is_ok_and(is_token) {
            let problem = "not a join token: letters, digits, `.`, `_` and `-` only";
            return Err(AgentError::Content {
                name: NAME,
                path: self.token_file.clone(),
                problem,
            });
        }
        Ok(Zeroizing::new(token.to_vec()))
    }

    fn answer(&self, _challenge: &[u8]) -> Result<Vec<u8>, AgentError> {
        Err(AgentError::Challenge { name: NAME })
    }
}

#[cfg(test)]
mod tests {
    use mayfly_runtime::files::{PRIVATE, write_atomic};

    use super::*;
    use crate::Deps;
    use crate::conformance::{Direct, check};

    const TOKEN: &str = "4f3ab2e6-8a4e-4d2b-9f35-2a1d1b2c3d4e";

    fn halves(token: &str) -> (tempfile::TempDir, Box<dyn AgentHalf>, Box<dyn ServerHalf>) {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join("token"), token.as_bytes(), PRIVATE).unwrap();
        let deps = Deps {
            trust_domain: "td.example".parse().unwrap(),
            base_dir: dir.path().to_owned(),
        };
        let agent = (BUILTIN.agent)(toml::from_str("token_file = \"token\"").unwrap(), &deps).unwrap();
        let server = (BUILTIN.server)(toml::Table::new(), &deps).unwrap();
        (dir, agent, server)
    }

    #[tokio::test]
    async fn conforms_and_names_the_agent_as_spire_does() {
        let (_dir, agent, server) = halves(&format!("{TOKEN}\n"));
        let now = Timestamp::from_unix(0);
        check(&*agent, &*server, &"td.example".parse().unwrap(), now).await;
        let attested = crate::conformance::attest(&*agent, &*server, now).await.unwrap();
        assert_eq!(
            attested.agent_id.as_str(),
            format!("spiffe://td.example/spire/agent/join_token/{TOKEN}")
        );
        assert_eq!(attested.one_time, Some(TokenHash::of(TOKEN)));
        assert!(!attested.reattestable && attested.selectors.is_empty());
    }

    #[tokio::test]
    async fn nothing_but_a_path_segment_is_a_token() {
        let (_dir, agent, server) = halves(TOKEN);
        for bad in [
            "",
            "a/b",
            "../x",
            "..",
            ".",
            "a b",
            "a\n",
            "a%2fb",
            "é",
            "a\0",
            &"a".repeat(257),
        ] {
            let result = server
                .attest(bad.as_bytes(), &mut Direct(&*agent), Timestamp::from_unix(0))
                .await;
            let error = result.expect_err(bad);
            assert_eq!(error.kind(), mayfly_model::ErrorKind::InvalidArgument);
            assert!(bad.len() < 3 || !error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn a_token_file_that_others_can_read_or_without_token_is_refused() {
        let (dir, agent, _) = halves("two words");
        assert!(matches!(agent.payload(), Err(AgentError::Content { .. })));
        write_atomic(&dir.path().join("token"), b" \n", PRIVATE).unwrap();
        assert!(matches!(agent.payload(), Err(AgentError::Content { .. })));
        write_atomic(&dir.path().join("token"), TOKEN.as_bytes(), 0o644).unwrap();
        assert!(matches!(agent.payload(), Err(AgentError::File { .. })));
        assert!(matches!(agent.answer(b"{}"), Err(AgentError::Challenge { .. })));
    }
}
