//! `memory`: keys that end with the process. A restart means a new authority.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use crate::local::{LocalKey, generate_pkcs8};
use crate::{BuildError, Builtin, KeyError, KeyManager, KeyType, Signer, blocking, check_key_id};

pub(crate) const BUILTIN: Builtin = Builtin {
    name: "memory",
    build: |section, _| {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {}
        let Section {} = section
            .try_into()
            .map_err(|source| BuildError::Config { name: "memory", source })?;
        Ok(Arc::new(MemoryKeys::new()))
    },
};

/// Keys in memory, by name.
#[derive(Debug, Default)]
pub struct MemoryKeys {
    keys: KeyMap,
}

/// The keys of this process. The lock is held for a look-up or an insertion only.
#[derive(Debug, Default)]
pub(crate) struct KeyMap(RwLock<BTreeMap<String, Arc<LocalKey>>>);

impl KeyMap {
    pub(crate) fn insert(&self, key_id: String, key: Arc<LocalKey>) {
        // A map of finished keys has no half-done state that a panic elsewhere could leave behind.
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key_id, key);
    }

    pub(crate) fn find(&self, key_id: &str) -> Option<Arc<LocalKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key_id)
            .cloned()
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    pub(crate) fn remove(&self, key_id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key_id);
    }
}

impl MemoryKeys {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl KeyManager for MemoryKeys {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn generate(&self, key_id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyError> {
        check_key_id(key_id)?;
        let made = blocking(move || {
            let pkcs8 = generate_pkcs8(key_type)?;
            LocalKey::from_pkcs8(&pkcs8).ok_or(KeyError::Generate { key_type })
        });
        let key = Arc::new(made.await?);
        self.keys.insert(key_id.to_owned(), key.clone());
        Ok(key)
    }

    async fn find(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        Ok(self.keys.find(key_id).map(|key| key as Arc<dyn Signer>))
    }

    async fn list(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.keys.list())
    }

    async fn delete(&self, key_id: &str) -> Result<(), KeyError> {
        self.keys.remove(key_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        crate::conformance::check(&MemoryKeys::new()).await;
    }

    #[test]
    fn has_no_settings() {
        let deps = crate::Deps {
            data_dir: "/nowhere".into(),
        };
        assert!((BUILTIN.build)(toml::Table::new(), &deps).is_ok());
        let error = (BUILTIN.build)(toml::from_str("dir = \"x\"").unwrap(), &deps).unwrap_err();
        assert!(matches!(error, BuildError::Config { name: "memory", .. }));
    }
}
