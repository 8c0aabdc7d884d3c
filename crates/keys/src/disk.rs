//! `disk`: one file per key, `<key name>.pk8`, PKCS#8 DER, mode 0600, in a folder of mode 0700.
//!
//! `openssl pkey -inform DER -in <file> -pubout` shows the public half.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mayfly_runtime::files::{PRIVATE, read_private, write_atomic};

use crate::local::{LocalKey, generate_pkcs8};
use crate::memory::KeyMap;
use crate::{BuildError, Builtin, KeyError, KeyManager, KeyType, Signer, blocking, check_key_id};

pub(crate) const BUILTIN: Builtin = Builtin {
    name: "disk",
    build: |section, deps| {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {
            dir: Option<PathBuf>,
        }
        let Section { dir } = section
            .try_into()
            .map_err(|source| BuildError::Config { name: "disk", source })?;
        let dir = dir.map_or_else(|| deps.data_dir.join("keys"), |dir| deps.data_dir.join(dir));
        let keys = DiskKeys::open(&dir).map_err(|source| BuildError::Open { name: "disk", source })?;
        Ok(Arc::new(keys))
    },
};

/// An RSA key of 4096 bits has 2.4 kB.
const MAX_KEY_BYTES: u64 = 16 * 1024;
const SUFFIX: &str = ".pk8";

/// Keys in files. All are read at the start; the folder belongs to one process.
#[derive(Debug)]
pub struct DiskKeys {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    keys: KeyMap,
    /// Held while a file and the map change together, so that both tell of the same key. Only on blocking threads.
    changing: Mutex<()>,
}

impl DiskKeys {
    /// Opens the folder `dir`, made with mode 0700 if it is not there, and reads its keys. Blocks.
    ///
    /// # Errors
    /// The folder or a file in it can be used by others, or a file is no key.
    pub fn open(dir: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Folder {
            path: dir.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        let mode = fs::metadata(dir).map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::FolderMode {
                path: dir.to_owned(),
                mode,
            });
        }
        let keys = KeyMap::default();
        for file in fs::read_dir(dir).map_err(failed)? {
            let file = file.map_err(failed)?;
            let name = file.file_name();
            // Whatever else lies there (a half-written neighbour of a crash, say) is not ours to judge.
            let Some(key_id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else {
                continue;
            };
            if check_key_id(key_id).is_err() {
                continue;
            }
            let path = file.path();
            let key = LocalKey::from_pkcs8(&read_private(&path, MAX_KEY_BYTES)?);
            keys.insert(key_id.to_owned(), Arc::new(key.ok_or(KeyError::NotAKey { path })?));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                keys,
                changing: Mutex::new(()),
            }),
        })
    }
}

impl Inner {
    fn path(&self, key_id: &str) -> PathBuf {
        self.dir.join(format!("{key_id}{SUFFIX}"))
    }

    fn generate(&self, key_id: String, key_type: KeyType) -> Result<Arc<LocalKey>, KeyError> {
        let pkcs8 = generate_pkcs8(key_type)?;
        let key = Arc::new(LocalKey::from_pkcs8(&pkcs8).ok_or(KeyError::Generate { key_type })?);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        write_atomic(&self.path(&key_id), &pkcs8, PRIVATE)?;
        self.keys.insert(key_id, key.clone());
        Ok(key)
    }

    fn delete(&self, key_id: &str) -> Result<(), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| KeyError::Folder {
            path: self.dir.clone(),
            source,
        };
        match fs::remove_file(self.path(key_id)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
            _ => {}
        }
        self.keys.remove(key_id);
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

#[async_trait]
impl KeyManager for DiskKeys {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn generate(&self, key_id: &str, key_type: KeyType) -> Result<Arc<dyn Signer>, KeyError> {
        check_key_id(key_id)?;
        let (inner, key_id) = (self.inner.clone(), key_id.to_owned());
        let key = blocking(move || inner.generate(key_id, key_type)).await?;
        Ok(key)
    }

    async fn find(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        Ok(self.inner.keys.find(key_id).map(|key| key as Arc<dyn Signer>))
    }

    async fn list(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.inner.keys.list())
    }

    async fn delete(&self, key_id: &str) -> Result<(), KeyError> {
        check_key_id(key_id)?;
        let (inner, key_id) = (self.inner.clone(), key_id.to_owned());
        blocking(move || inner.delete(&key_id)).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("keys");
        (temp, dir)
    }

    #[tokio::test]
    async fn conforms() {
        let (_temp, dir) = folder();
        crate::conformance::check(&DiskKeys::open(&dir).unwrap()).await;
        let (_temp, dir) = folder();
        crate::conformance::check_restart(|| DiskKeys::open(&dir).unwrap()).await;
    }

    #[tokio::test]
    async fn files_are_for_their_owner_and_what_others_can_read_is_refused() {
        let (_temp, dir) = folder();
        let keys = DiskKeys::open(&dir).unwrap();
        keys.generate("authority", KeyType::EcP256).await.unwrap();
        let path = dir.join("authority.pk8");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = DiskKeys::open(&dir).unwrap_err();
        assert!(matches!(
            error,
            KeyError::File(mayfly_runtime::files::FileError::Mode { mode: 0o640, .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            DiskKeys::open(&dir).unwrap_err(),
            KeyError::FolderMode { mode: 0o770, .. }
        ));
    }

    #[test]
    fn a_damaged_file_is_named_and_foreign_files_are_left_alone() {
        let (_temp, dir) = folder();
        DiskKeys::open(&dir).unwrap();
        write_atomic(&dir.join("notes.txt"), b"x", 0o644).unwrap();
        write_atomic(&dir.join(".a.pk8.12345678.tmp"), b"x", 0o644).unwrap();
        DiskKeys::open(&dir).unwrap();
        write_atomic(&dir.join("a.pk8"), b"0", PRIVATE).unwrap();
        let error = DiskKeys::open(&dir).unwrap_err();
        assert!(error.to_string().contains("a.pk8"), "{error}");
    }

    #[test]
    fn the_folder_is_a_setting_relative_to_the_data_folder() {
        let temp = tempfile::tempdir().unwrap();
        let deps = crate::Deps {
            data_dir: temp.path().to_owned(),
        };
        (BUILTIN.build)(toml::Table::new(), &deps).unwrap();
        (BUILTIN.build)(toml::from_str("dir = \"other\"").unwrap(), &deps).unwrap();
        assert!(temp.path().join("keys").is_dir() && temp.path().join("other").is_dir());
        let error = (BUILTIN.build)(toml::from_str("folder = \"x\"").unwrap(), &deps).unwrap_err();
        assert!(matches!(error, BuildError::Config { name: "disk", .. }));
    }
}
