//! The log as files: which there are, in which order, and what is private beside them.

use std::fmt::Write;
use std::sync::Arc;

use mayfly_model::log::private::Commitment;
use mayfly_tlog::tile::{TILE_WIDTH, TileKind, TilePath};

use super::super::archive::ArchiveError;
use super::{Evidence, EvidenceError, Published, blocking};

impl Evidence {
    /// What an export is of: a checkpoint over all that was committed before, or at least the newest there is.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn newest(&self) -> Result<Arc<Published>, ArchiveError> {
        let size = self.size().await?;
        Ok(self.covering(size).await.unwrap_or_else(|| self.published()))
    }

    /// Names of tiles and bundles that somebody does not have who has the first `have_size` entries: bundles first,
    /// then hashes by level.
    pub fn missing(published: &Published, have_size: u64) -> impl Iterator<Item = TilePath> + use<> {
        Self::paths(published).filter(move |path| !path.is_full() || entries_below(*path) > have_size)
    }

    /// A file of the log as it was at `published`.
    ///
    /// # Errors
    /// It has none of that name, or it cannot be read.
    pub async fn tile_at(
        self: &Arc<Self>,
        published: Arc<Published>,
        path: TilePath,
    ) -> Result<Vec<u8>, EvidenceError> {
        let this = self.clone();
        let bytes = blocking(move || this.files.of(&published.tree, path)).await??;
        bytes.ok_or_else(|| EvidenceError::Format(format!("there is no `{path}`")))
    }

    /// A piece of what is private, behind the value of `after`: a line for each, and where the next piece begins; none
    /// behind the last one. That somebody reads this is on record by then: [`Self::record_reading`].
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn private_lines(&self, after: Option<Commitment>) -> Result<(String, Option<Commitment>), ArchiveError> {
        let values = self.archive.read(move |reader| reader.private_page(after)).await?;
        let next = values.last().map(|last| last.commitment);
        let lines = values.iter().fold(String::new(), |mut lines, private| {
            // Canonical JSON, as the value is.
            let (commitment, salt, value) = (private.commitment, &private.salt, &private.value);
            writeln!(
                lines,
                r#"{{"commitment":"{commitment}","salt":"{salt}","value":{value}}}"#
            )
            .expect("a string takes all");
            lines
        });
        Ok((lines, next))
    }
}

/// How many entries the log has up to the last one below this tile.
fn entries_below(path: TilePath) -> u64 {
    let level = match path.kind() {
        TileKind::Hashes(level) => level,
        TileKind::Entries => 0,
    };
    let tile = u64::from(TILE_WIDTH).checked_pow(u32::from(level) + 1);
    tile.and_then(|tile| tile.checked_mul(path.index() + 1))
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_ends_where_its_last_entry_does() {
        let of = |text: &str| entries_below(text.parse().unwrap());
        assert_eq!(
            [of("tile/entries/000"), of("tile/0/002"), of("tile/1/000")],
            [256, 768, 65_536]
        );
        assert_eq!(of("tile/1/001"), 2 * 65_536);
    }
}
