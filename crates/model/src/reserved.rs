//! Paths that name parts of the system and can never be registered.

use mayfly_svid::SpiffeId;

/// A path that entries, federation and minting may not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedPath {
    /// `/spire` and below: servers and agents.
    Spire,
    /// `/task` and below: minted from windows only.
    Task,
    /// `/breakglass` and below: minted from break-glass windows only.
    Breakglass,
}

impl ReservedPath {
    /// What the path is for, for error messages.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Spire => "/spire names servers and agents",
            Self::Task => "/task is minted from task windows only",
            Self::Breakglass => "/breakglass is minted from break-glass windows only",
        }
    }
}

/// Which reserved space `id` lies in, compared segment by segment: `/taskforce` is free, `/task` and `/task/x` are not.
pub fn reserved_path(id: &SpiffeId) -> Option<ReservedPath> {
    match id.segments().next()? {
        "spire" => Some(ReservedPath::Spire),
        "task" => Some(ReservedPath::Task),
        "breakglass" => Some(ReservedPath::Breakglass),
        _ => None,
    }
}

/// Whether `id` names an agent: `/spire/agent/…`.
pub fn is_agent_id(id: &SpiffeId) -> bool {
    let mut segments = id.segments();
    segments.next() == Some("spire") && segments.next() == Some("agent") && segments.next().is_some()
}

/// The path of an agent that `attestor` vouches for: `/spire/agent/<attestor>/<suffix>`.
pub fn agent_path(attestor: &str, suffix: &str) -> String {
    format!("/spire/agent/{attestor}/{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_spaces_are_compared_by_segment() {
        let of = |text: &str| reserved_path(&text.parse().unwrap());
        assert_eq!(of("spiffe://td/task"), Some(ReservedPath::Task));
        assert_eq!(of("spiffe://td/task/a/b"), Some(ReservedPath::Task));
        assert_eq!(of("spiffe://td/breakglass/a"), Some(ReservedPath::Breakglass));
        assert_eq!(of("spiffe://td/spire/agent/x"), Some(ReservedPath::Spire));
        assert_eq!(of("spiffe://td/taskforce"), None);
        assert_eq!(of("spiffe://td/a/task"), None);
        assert_eq!(of("spiffe://td"), None);
    }

    #[test]
    fn agents_live_below_spire_agent() {
        assert!(is_agent_id(&"spiffe://td/spire/agent/x509pop/abc".parse().unwrap()));
        assert!(!is_agent_id(&"spiffe://td/spire/agent".parse().unwrap()));
        assert!(!is_agent_id(&"spiffe://td/spire/server".parse().unwrap()));
    }
}
