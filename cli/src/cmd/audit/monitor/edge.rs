//! The end of a log's tree: what is enough to go on from there.

use std::collections::BTreeMap;

use mayfly_proto::mayfly::audit::ExportRequest;
use mayfly_tlog::bundle::MAX_BUNDLE_BYTES;
use mayfly_tlog::tile::TilePath;

use crate::connect::Server;
use crate::errors::CliError;

/// The newest checkpoint with the partial tiles of its tree.
pub(super) async fn right_edge(server: &Server) -> Result<(Vec<u8>, BTreeMap<TilePath, Vec<u8>>), CliError> {
    let failed = |status| server.failed("ask for the log's newest tiles", status);
    // All that is full is there already, for who says so.
    let request = ExportRequest {
        have_size: i64::MAX as u64,
        include_private: false,
    };
    let stream = server.audit().export(server.stream_request(request)).await;
    let mut stream = stream.map_err(failed)?.into_inner();
    let (mut tiles, mut checkpoint, mut file) = (BTreeMap::new(), vec![], vec![]);
    while let Some(piece) = stream.message().await.map_err(failed)? {
        file.extend_from_slice(&piece.data);
        if file.len() > MAX_BUNDLE_BYTES {
            return Err(CliError::BadAnswer {
                who: "the server",
                what: format!("a file `{}` that is too large", piece.path),
            });
        }
        if !piece.end {
            continue;
        }
        let bytes = std::mem::take(&mut file);
        match piece.path.parse::<TilePath>() {
            Ok(path) => _ = tiles.insert(path, bytes),
            Err(_) if piece.path == "checkpoint" => checkpoint = bytes,
            Err(_) => {}
        }
    }
    Ok((checkpoint, tiles))
}
