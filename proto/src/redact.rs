//! `Debug` for messages that hold a secret: what is secret shows as its length. `build.rs` lists them.

use std::fmt;

use crate::spiffe::workload;
use crate::spire::server::agent;
use crate::spire::types;

/// Stands in for a secret of so many bytes.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<hidden, {} bytes>", self.0)
    }
}

/// Writes `Debug` for messages. Every field is named, so that a new one stops the build until someone has decided
/// whether it is secret.
macro_rules! redact {
    ($($message:ty { show: [$($shown:ident),*], hide: [$($hidden:ident),*] })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($shown,)* $($hidden,)* } = self;
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), $shown))*
                    $(.field(stringify!($hidden), &Hidden($hidden.len())))*
                    .finish()
            }
        }
    )*};
}

redact! {
    workload::X509svid { show: [spiffe_id, x509_svid, bundle, hint], hide: [x509_svid_key] }
    workload::Jwtsvid { show: [spiffe_id, hint], hide: [svid] }
    workload::Witsvid { show: [spiffe_id, hint], hide: [wit_svid, wit_svid_key] }
    workload::ValidateJwtsvidRequest { show: [audience], hide: [svid] }
    types::AttestationData { show: [r#type], hide: [payload] }
    types::JoinToken { show: [expires_at], hide: [value] }
    types::Jwtsvid { show: [id, expires_at, issued_at, hint], hide: [token] }
    types::Witsvid { show: [id, expires_at, issued_at, hint], hide: [token] }
    agent::AttestAgentRequest { show: [step], hide: [] }
    agent::attest_agent_request::Params { show: [data, params], hide: [] }
    agent::CreateJoinTokenRequest { show: [ttl, agent_id], hide: [token] }
}

impl fmt::Debug for agent::attest_agent_request::Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Params(params) => f.debug_tuple("Params").field(params).finish(),
            Self::ChallengeResponse(answer) => f.debug_tuple("ChallengeResponse").field(&Hidden(answer.len())).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "squeamish-ossifrage";

    fn assert_hidden(message: &dyn fmt::Debug) {
        let text = format!("{message:?} {message:#?}");
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains(&format!("{:?}", SECRET.as_bytes())), "{text}");
        assert!(text.contains("<hidden, 19 bytes>"), "{text}");
    }

    #[test]
    fn no_secret_shows_in_debug_however_deep_it_lies() {
        let svid = workload::X509svid {
            x509_svid_key: SECRET.into(),
            ..Default::default()
        };
        assert_hidden(&workload::X509svidResponse {
            svids: vec![svid],
            ..Default::default()
        });
        let svid = workload::Jwtsvid {
            svid: SECRET.into(),
            ..Default::default()
        };
        assert_hidden(&workload::JwtsvidResponse { svids: vec![svid] });
        let svid = workload::Witsvid {
            wit_svid: SECRET.into(),
            wit_svid_key: SECRET.into(),
            ..Default::default()
        };
        assert_hidden(&workload::WitsvidResponse { svids: vec![svid] });
        assert_hidden(&workload::ValidateJwtsvidRequest {
            svid: SECRET.into(),
            ..Default::default()
        });
        assert_hidden(&types::JoinToken {
            value: SECRET.into(),
            ..Default::default()
        });
        assert_hidden(&types::Jwtsvid {
            token: SECRET.into(),
            ..Default::default()
        });
        assert_hidden(&types::Witsvid {
            token: SECRET.into(),
            ..Default::default()
        });
        assert_hidden(&agent::CreateJoinTokenRequest {
            token: SECRET.into(),
            ..Default::default()
        });

        let data = types::AttestationData {
            r#type: "join_token".into(),
            payload: SECRET.into(),
        };
        let params = agent::attest_agent_request::Params {
            data: Some(data),
            params: None,
        };
        for step in [
            agent::attest_agent_request::Step::Params(params),
            agent::attest_agent_request::Step::ChallengeResponse(SECRET.into()),
        ] {
            assert_hidden(&agent::AttestAgentRequest { step: Some(step) });
        }
    }
}
