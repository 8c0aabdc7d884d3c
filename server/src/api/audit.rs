//! `mayfly.audit.v1`: the log for those who check it and for those who search it.
//!
//! Answers that can be long are streams which read as fast as the caller takes: what is in memory is one page of the
//! log, however large it is.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use mayfly_model::ErrorKind;
use mayfly_model::task::CHECKPOINT_MAX;
use mayfly_proto::mayfly::audit::audit_server::Audit;
use mayfly_proto::mayfly::audit::erase_request::What as EraseWhat;
use mayfly_proto::mayfly::audit::prove_request::What as ProveWhat;
use mayfly_proto::mayfly::audit::*;
use mayfly_runtime::CancellationToken;
use tonic::{Request, Response, Status};

use super::audit_report;
use super::driven::{Out, driven};
use super::gate::REASON_MAX;
use super::services::READ;
use super::status::{Failure, invalid, to_status};
use super::{Api, Call};
use crate::app::archive::ArchiveError;
use crate::app::caller::identify;
use crate::app::evidence::erase::Forgotten;
use crate::app::evidence::probe::Probe;
use crate::app::evidence::prove::Subject;
use crate::app::evidence::readers::Reading;
use crate::app::evidence::search::{Found, Wanted};
use crate::app::evidence::{Evidence, EvidenceError, Published};

/// The most kinds and the most values of a search.
const TERMS_MAX: usize = 64;
/// The longest of them, in bytes.
const KIND_MAX: usize = 64;
const VALUE_MAX: usize = 64 << 10;
/// The most entries that are counted from the end.
const NEWEST_MAX: u32 = 10_000;
/// Of a file, in one message.
pub(super) const PIECE: usize = 256 << 10;
/// Proofs in one message: of entries of usual length some hundred KiB.
const PROOFS: usize = 32;
/// Its name in [`super::SERVICES`].
const SERVICE: &str = "mayfly.audit.v1.Audit";

/// A word about a probe, and where it was aimed, in bytes; more of it for people, in characters.
const PROBE_WORD_MAX: usize = 32;
const PROBE_TARGET_MAX: usize = 256;
const PROBE_DETAIL_MAX: usize = 256;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct AuditService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Audit for AuditService {
    type SearchStream = Answers<SearchResponse>;
    type ExportStream = Answers<ExportResponse>;
    type ProveStream = Answers<ProveResponse>;
    type ReportStream = Answers<ReportResponse>;

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let evidence = &self.0.evidence;
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: evidence.published().checkpoint.to_bytes(),
            verifier_keys: evidence.verifier_keys().iter().map(ToString::to_string).collect(),
        }))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let call = Call::of(&request)?;
        let mut search = Search::read(self.0.clone(), call, request.into_inner())?;
        search.begin().await.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(Box::pin(driven(|out| search.run(out)))))
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let evidence = self.0.evidence.clone();
        if request.include_private {
            let recorded = evidence.record_reading(call.actor, &Reading::Export).await;
            recorded.map_err(|failure| to_status(&failure))?;
        }
        Ok(Response::new(Box::pin(driven(|out| export(evidence, request, out)))))
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Result<Response<Self::ProveStream>, Status> {
        let subject = match request.into_inner().what {
            None => return Err(invalid("say what to prove: an index, a serial number or a window")),
            Some(ProveWhat::Index(index)) => Subject::Index(index),
            Some(ProveWhat::Serial(serial)) => Subject::Serial(
                serial
                    .parse()
                    .map_err(|error| invalid(format!("serial: {error}, in decimal")))?,
            ),
            Some(ProveWhat::WindowId(window)) => {
                Subject::Window(window.parse().map_err(|error| invalid(format!("window_id: {error}")))?)
            }
        };
        let evidence = self.0.evidence.clone();
        // Found before the stream begins, so that what is not there is an answer and no broken stream.
        let found = evidence.entries_about(&subject).await;
        let (indexes, published) = found.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(Box::pin(driven(|out| {
            prove(evidence, indexes, published, out)
        }))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<Self::ReportStream>, Status> {
        let call = Call::of(&request)?;
        let wanted = audit_report::read(request.into_inner(), self.0.now())?;
        let evidence = self.0.evidence.clone();
        Ok(Response::new(Box::pin(driven(|out| {
            audit_report::answer(evidence, wanted, call.actor, out)
        }))))
    }

    async fn erase(&self, request: Request<EraseRequest>) -> Result<Response<EraseResponse>, Status> {
        let call = Call::of(&request)?;
        let EraseRequest { what, reason } = request.into_inner();
        let forgotten = match what {
            None => return Err(invalid("say what to forget: a value, or the index of an entry")),
            Some(EraseWhat::Value(value)) if value.is_empty() => return Err(invalid("value: is empty")),
            Some(EraseWhat::Value(value)) => Forgotten::Value(value),
            Some(EraseWhat::Index(index)) => Forgotten::Entry(index),
        };
        let erased = self.0.evidence.erase(forgotten, because(&call, reason)?).await;
        // Also if only a part of it came about.
        self.0.measuring.forget();
        let erased = erased.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(EraseResponse {
            erased: u32::try_from(erased).unwrap_or(u32::MAX),
        }))
    }

    async fn record_probe(
        &self,
        request: Request<RecordProbeRequest>,
    ) -> Result<Response<RecordProbeResponse>, Status> {
        let call = Call::of(&request)?;
        let probe = probe(request.into_inner()).map_err(invalid)?;
        let recorded = self.0.evidence.record_probe(call.actor, probe).await;
        recorded.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(RecordProbeResponse {}))
    }

    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Result<Response<RotateKeyResponse>, Status> {
        let call = Call::of(&request)?;
        let actor = because(&call, request.into_inner().reason)?;
        let rotated = self.0.evidence.rotate_key(actor).await;
        let key = rotated.map_err(|failure| to_status(&failure))?;
        Ok(Response::new(RotateKeyResponse {
            verifier_key: key.to_string(),
        }))
    }
}

/// Who calls, with the reason of the message, which nobody may leave out.
fn because(call: &Call, reason: String) -> Result<mayfly_model::Actor, Status> {
    if reason.trim().is_empty() {
        return Err(invalid("reason: say why; it is kept in the log"));
    }
    if reason.len() > REASON_MAX || reason.chars().any(char::is_control) {
        return Err(invalid(format!(
            "reason: is longer than {REASON_MAX} bytes or has control characters"
        )));
    }
    let mut actor = call.actor.clone();
    actor.reason = reason;
    Ok(actor)
}

/// A search that runs.
struct Search {
    api: Arc<Api>,
    call: Call,
    closing: CancellationToken,
    wanted: Arc<Wanted>,
    from: u64,
    /// As large the log was when it began.
    size: u64,
    /// How many more, if that is limited.
    left: Option<u32>,
    newest: u32,
    follow: bool,
}

impl Search {
    fn read(api: Arc<Api>, call: Call, request: SearchRequest) -> Result<Self, Status> {
        let SearchRequest {
            kinds,
            values,
            since,
            until,
            from_index,
            limit,
            newest,
            follow,
            reveal,
        } = request;
        if kinds.len() > TERMS_MAX || values.len() > TERMS_MAX {
            return Err(invalid(format!(
                "at most {TERMS_MAX} kinds and as many values can be looked for"
            )));
        }
        if kinds.iter().chain(&values).any(String::is_empty) {
            return Err(invalid("a kind or a value is empty"));
        }
        // Who looks for what may be an entry itself.
        if kinds.iter().any(|kind| kind.len() > KIND_MAX) || values.iter().any(|value| value.len() > VALUE_MAX) {
            return Err(invalid(format!(
                "a kind has at most {KIND_MAX} bytes, a value {VALUE_MAX}: no entry has longer ones"
            )));
        }
        if limit > 0 && newest > 0 {
            return Err(invalid("limit and newest exclude each other"));
        }
        if newest > NEWEST_MAX {
            return Err(invalid(format!(
                "newest: at most {NEWEST_MAX} entries are counted from the end"
            )));
        }
        let closing = call.connection.closing();
        let given = |time: i64| Some(time).filter(|time| *time != 0);
        let wanted = Wanted {
            kinds,
            values,
            since: given(since),
            until: given(until),
            reveal,
        };
        Ok(Self {
            api,
            call,
            closing,
            wanted: Arc::new(wanted),
            from: from_index,
            size: 0,
            left: Some(limit).filter(|limit| *limit > 0),
            newest,
            follow,
        })
    }

    /// That somebody reads what is private is in the log before it is read, behind what is looked for.
    async fn begin(&mut self) -> Result<(), EvidenceError> {
        let evidence = &self.api.evidence;
        self.size = evidence.size().await?;
        // Who follows a name that nobody has yet finds it once somebody has.
        let follows_a_name = self.follow && !self.wanted.values.is_empty();
        if !follows_a_name && !evidence.reads_private(&self.wanted).await? {
            return Ok(());
        }
        let reading = Reading::Search {
            wanted: self.wanted.clone(),
            from: self.from,
            limit: self.left.unwrap_or(self.newest),
            follow: self.follow,
        };
        evidence.record_reading(self.call.actor.clone(), &reading).await
    }

    async fn run(mut self, out: Out<SearchResponse>) -> Result<(), Status> {
        let failed = |failure: ArchiveError| to_status(&failure);
        let evidence = self.api.evidence.clone();
        let mut commits = self.api.committer.revision();
        let mut size = self.size;
        if self.newest > 0 {
            for index in self.last(size).await.map_err(failed)? {
                if let Some(found) = evidence.found(index, self.wanted.reveal).await.map_err(failed)? {
                    out.send(shown(found)).await?;
                }
            }
            self.from = self.from.max(size);
        }
        loop {
            while self.from < size {
                let page = evidence.search(self.wanted.clone(), self.from, size);
                let page = page.await.map_err(failed)?;
                self.from = page.next;
                for found in page.found {
                    out.send(shown(found)).await?;
                    match &mut self.left {
                        Some(1) => return Ok(()),
                        Some(left) => *left -= 1,
                        None => {}
                    }
                }
            }
            if !self.follow {
                return Ok(());
            }
            tokio::select! {
                () = self.closing.cancelled() => {
                    return Err(Status::unavailable("the connection is about to be closed"));
                }
                changed = commits.changed() => changed.map_err(|_| Status::unavailable("the server is stopping"))?,
            }
            self.check_caller()?;
            size = evidence.size().await.map_err(failed)?;
        }
    }

    /// Indexes of the newest entries that match, in order.
    async fn last(&self, size: u64) -> Result<Vec<u64>, ArchiveError> {
        let most = usize::try_from(self.newest).unwrap_or(usize::MAX);
        let (mut indexes, mut end) = (vec![], size);
        while end > self.from && indexes.len() < most {
            let left = most - indexes.len();
            let search = self.api.evidence.search_back(self.wanted.clone(), self.from, end, left);
            let (found, next) = search.await?;
            indexes.extend(found);
            end = next;
        }
        indexes.reverse();
        Ok(indexes)
    }

    /// Who follows for days may have lost the right to do so, and what they showed may have expired.
    fn check_caller(&self) -> Result<(), Status> {
        let (snapshot, now) = (self.api.committer.snapshot(), self.api.now());
        let caller = identify(&self.call.connection, &snapshot, now).map_err(|refused| to_status(&refused))?;
        let rpc = (SERVICE, "Search");
        let authorized = self.api.authorizer.authorize(&caller.caller, READ, rpc, &snapshot, now);
        authorized.map_err(|refused| to_status(&refused)).map(drop)
    }
}

fn shown(Found { index, entry }: Found) -> SearchResponse {
    SearchResponse {
        index,
        entry: entry.into(),
    }
}

async fn export(evidence: Arc<Evidence>, request: ExportRequest, out: Out<ExportResponse>) -> Result<(), Status> {
    let failed = |failure: EvidenceError| to_status(&failure);
    let published = evidence.newest().await.map_err(|failure| to_status(&failure))?;
    for path in Evidence::missing(&published, request.have_size) {
        let bytes = evidence.tile_at(published.clone(), path).await.map_err(failed)?;
        send_file(&out, &path.to_string(), &bytes).await?;
    }
    let keys: String = evidence.verifier_keys().iter().map(|key| format!("{key}\n")).collect();
    send_file(&out, "keys", keys.as_bytes()).await?;
    send_file(&out, "checkpoint", &published.checkpoint.to_bytes()).await?;
    if !request.include_private {
        return Ok(());
    }
    let mut after = None;
    loop {
        let lines = evidence.private_lines(after).await;
        let (lines, next) = lines.map_err(|failure| to_status(&failure))?;
        for piece in lines.as_bytes().chunks(PIECE) {
            out.send(piece_of("private.jsonl", piece, false)).await?;
        }
        match next {
            Some(_) => after = next,
            None => return out.send(piece_of("private.jsonl", &[], true)).await,
        }
    }
}

async fn send_file(out: &Out<ExportResponse>, path: &str, bytes: &[u8]) -> Result<(), Status> {
    let mut pieces = bytes.chunks(PIECE).peekable();
    if pieces.peek().is_none() {
        return out.send(piece_of(path, &[], true)).await;
    }
    while let Some(piece) = pieces.next() {
        out.send(piece_of(path, piece, pieces.peek().is_none())).await?;
    }
    Ok(())
}

fn piece_of(path: &str, data: &[u8], end: bool) -> ExportResponse {
    ExportResponse {
        path: path.into(),
        data: data.to_vec(),
        end,
    }
}

async fn prove(
    evidence: Arc<Evidence>,
    indexes: Vec<u64>,
    published: Arc<Published>,
    out: Out<ProveResponse>,
) -> Result<(), Status> {
    let mut checkpoint = published.checkpoint.to_bytes();
    for indexes in indexes.chunks(PROOFS) {
        let mut proofs = Vec::with_capacity(indexes.len());
        for index in indexes {
            let proved = evidence.prove(*index, published.clone()).await;
            let (entry, hashes) = proved.map_err(|failure| to_status(&failure))?;
            proofs.push(Proof {
                index: *index,
                entry: entry.into(),
                hashes: hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            });
        }
        let checkpoint = std::mem::take(&mut checkpoint);
        out.send(ProveResponse { checkpoint, proofs }).await?;
    }
    Ok(())
}

impl Failure for EvidenceError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn public_message(&self) -> String {
        match self {
            // What was asked for is an event of the log; that it is one says nothing to who asked.
            Self::Commit(error) => error.to_string(),
            _ => self.to_string(),
        }
    }
}

impl Failure for ArchiveError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

/// What an operator says of a consumer, within its bounds.
fn probe(request: RecordProbeRequest) -> Result<Probe, String> {
    let RecordProbeRequest {
        checkpoint,
        kind,
        expected,
        outcome,
        window_id,
        target,
        detail,
    } = request;
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b);
    if !(1..=CHECKPOINT_MAX).contains(&checkpoint.len()) || !checkpoint.bytes().all(is_name) {
        return Err(format!("checkpoint: 1 to {CHECKPOINT_MAX} of a-z 0-9 . _ / -"));
    }
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    for (field, word) in [("kind", &kind), ("expected", &expected), ("outcome", &outcome)] {
        if !(1..=PROBE_WORD_MAX).contains(&word.len()) || !word.bytes().all(is_word) {
            return Err(format!("{field}: 1 to {PROBE_WORD_MAX} of a-z 0-9 _"));
        }
    }
    let window = match window_id.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|error| format!("window_id: {error}"))?),
    };
    if target.len() > PROBE_TARGET_MAX {
        return Err(format!("target: at most {PROBE_TARGET_MAX} bytes"));
    }
    Ok(Probe {
        checkpoint,
        kind,
        expected,
        outcome,
        window,
        target,
        detail: detail.chars().take(PROBE_DETAIL_MAX).collect(),
    })
}
