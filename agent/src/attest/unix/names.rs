//! Names of users and groups, kept for a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, User};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::attest::AttestError;

/// How long a name is believed. A look-up may ask another machine (LDAP), so not each attestation makes one; and a
/// name that was taken away must not live on.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long it is gone on with where nothing can be found out: a directory that is away for a moment must not take
/// identities away.
const REMEMBERED: Duration = Duration::from_secs(600);
/// More are not kept.
const CAPACITY: usize = 4096;
/// Look-ups at a time. One that hangs keeps its thread, and so many threads are what that may cost.
const THREADS: usize = 4;
/// How long to wait for names before going on without.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Id {
    User(u32),
    Group(u32),
}

type Known = HashMap<Id, (Instant, Option<String>)>;

/// What some IDs are called. An ID without a name is not in it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) user: Option<String>,
    pub(super) groups: HashMap<u32, String>,
}

/// The system's tables of users and groups.
#[derive(Debug)]
pub(super) struct Names {
    known: Arc<Mutex<Known>>,
    threads: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
        }
    }
}

impl Names {
    /// Names of the user and the groups. What cannot be found out in time has none.
    ///
    /// # Errors
    /// The thread that looks them up panicked.
    pub(super) async fn of(&self, uid: u32, gids: Vec<u32>) -> Result<Found, AttestError> {
        let ids: Vec<Id> = std::iter::once(Id::User(uid))
            .chain(gids.into_iter().map(Id::Group))
            .collect();
        let now = Instant::now();
        let mut found = Found::default();
        let (mut unknown, mut remembered) = (Vec::new(), Vec::new());
        {
            let known = locked(&self.known);
            for id in ids {
                match known.get(&id) {
                    Some((since, name)) if now.duration_since(*since) < BELIEVED => found.add(id, name.clone()),
                    known => {
                        unknown.push(id);
                        let usable = known.filter(|(since, _)| now.duration_since(*since) < REMEMBERED);
                        remembered.extend(usable.map(|(_, name)| (id, name.clone())));
                    }
                }
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let (known, threads) = (Arc::clone(&self.known), Arc::clone(&self.threads));
        let look_up = async move {
            let permit = threads.acquire_owned().await.map_err(|_| AttestError::Thread)?;
            let look_up = spawn_blocking(move || {
                let _permit = permit;
                let names: Vec<_> = unknown.into_iter().filter_map(|id| Some((id, look_up(id)?))).collect();
                let mut known = locked(&known);
                if known.len() + names.len() > CAPACITY {
                    known.clear();
                }
                known.extend(names.iter().map(|(id, name)| (*id, (now, name.clone()))));
                names
            });
            look_up.await.map_err(|_| AttestError::Thread)
        };
        let names = timeout(PATIENCE, look_up).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        // In this order, so that what was found out now replaces what is remembered.
        for (id, name) in remembered.into_iter().chain(names) {
            found.add(id, name);
        }
        Ok(found)
    }
}

impl Found {
    fn add(&mut self, id: Id, name: Option<String>) {
        match (id, name) {
            (Id::User(_), name) => self.user = name,
            (Id::Group(gid), Some(name)) => drop(self.groups.insert(gid, name)),
            (Id::Group(gid), None) => drop(self.groups.remove(&gid)),
        }
    }
}

/// The name, `Some(None)` if there is none, `None` if that could not be found out.
fn look_up(id: Id) -> Option<Option<String>> {
    let name = match id {
        Id::User(uid) => User::from_uid(Uid::from_raw(uid)).ok()?.map(|user| user.name),
        Id::Group(gid) => Group::from_gid(Gid::from_raw(gid)).ok()?.map(|group| group.name),
    };
    Some(name.filter(|name| !name.is_empty()))
}

fn locked(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // Each entry is whole at any time, so a panic elsewhere leaves nothing half done.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_believed_for_a_minute() {
        let names = Names::default();
        let found = names.of(0, vec![0, 4_000_000_001]).await.unwrap();
        assert_eq!(found.user.as_deref(), Some("root"));
        assert_eq!(found.groups, HashMap::from([(0, "root".to_owned())]));
        for entry in locked(&names.known).values_mut() {
            entry.1 = Some("other".to_owned());
        }
        assert_eq!(names.of(0, vec![]).await.unwrap().user.as_deref(), Some("other"));
        tokio::time::advance(BELIEVED).await;
        assert_eq!(names.of(0, vec![]).await.unwrap().user.as_deref(), Some("root"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_takes_no_name_away_for_ten_minutes() {
        let names = Names::default();
        names.of(0, vec![0]).await.unwrap();
        let _hanging = names.threads.acquire_many(THREADS as u32).await.unwrap();
        tokio::time::advance(BELIEVED).await;
        let found = names.of(0, vec![0, 1]).await.unwrap();
        assert_eq!(found.user.as_deref(), Some("root"));
        assert_eq!(found.groups, HashMap::from([(0, "root".to_owned())]));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(names.of(0, vec![]).await.unwrap().user, None);
    }

    #[tokio::test]
    async fn the_table_of_names_does_not_grow_for_ever() {
        let names = Names::default();
        for start in 0..6_u32 {
            names
                .of(
                    0,
                    (start * 1000..start * 1000 + 1000)
                        .map(|gid| gid + 3_000_000_000)
                        .collect(),
                )
                .await
                .unwrap();
        }
        assert!(locked(&names.known).len() <= CAPACITY);
    }
}
