//! What the server has changed: who is refused, which authorities count, which entries are there.

use std::sync::Arc;

use mayfly_model::EntryId;
use mayfly_svid::Timestamp;
use tracing::info;

use super::super::ProcessKey;
use super::super::metrics::End;
use super::Keeper;
use crate::svids::check::{Authorities, Standing};
use crate::view::View;

impl Keeper {
    pub(super) fn denied_changed(&mut self) {
        let denied = Arc::clone(&self.denied.borrow_and_update());
        for window in self.windows.values_mut() {
            if window
                .svid()
                .is_some_and(|svid| denied.denies(svid.svid().serial().as_be_bytes()))
            {
                self.metrics.revoked.inc();
                info!(window_id = &*window.id, "task SVID revoked, asking for another");
                // If the window is over as well, the server says so, or refuses.
                window.withdraw();
            }
        }
        // Without serial numbers it is the window that is meant, whatever SVIDs it has.
        while let Some(piece) = denied.next(&mut self.read, 10_000) {
            for item in piece.items.iter().filter(|item| item.serials.is_empty()) {
                self.end_by_server(&item.window_id, &["revoked".to_owned()]);
            }
        }
    }

    pub(super) fn view_changed(&mut self) {
        let view = Arc::clone(&self.views.borrow_and_update());
        if view.own() != &self.own {
            self.own = Arc::clone(view.own());
            self.authorities = Authorities::of(&self.own);
            for window in self.windows.values_mut() {
                match window.svid().map(|svid| self.authorities.standing(svid.authority())) {
                    Some(Standing::Gone) => window.withdraw(),
                    Some(Standing::Tainted) => window.renew_soon(false),
                    // What could not be verified before may be good now.
                    None => window.server_is_back(),
                    Some(Standing::Trusted) => {}
                }
            }
        }
        let holders: Vec<_> = self.windows.values().map(|window| window.process).collect();
        for process in holders {
            self.check_entries(process, &view);
        }
    }

    /// Ends the windows of a process whose entry is not its own any more.
    pub(super) fn check_entries(&mut self, key: ProcessKey, view: &View) {
        let Some(process) = self.processes.get(key) else { return };
        let selectors = Arc::clone(&process.selectors);
        let wall = Timestamp::from(self.clock.now());
        let stands = |entry: &EntryId| {
            view.entry(entry).is_some_and(|entry| {
                !entry.is_expired(wall) && entry.spec.selectors.iter().all(|selector| selectors.contains(selector))
            })
        };
        let lost: Vec<Arc<str>> = self
            .windows
            .values()
            .filter(|window| window.process == key && !stands(&window.entry.id))
            .map(|window| Arc::clone(&window.id))
            .collect();
        for id in lost {
            let detail = "the entry of its base identity does not match the process any more";
            self.end(&id, End::AttestationLost, detail, None);
        }
    }
}
