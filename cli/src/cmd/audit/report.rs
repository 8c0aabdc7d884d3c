//! `mayfly audit report`: the proof of zero standing privilege about a period, by the server or from a copy of the log.

mod copied;
mod place;

use std::path::PathBuf;

use mayfly_audit::meter::View;
use mayfly_audit::{Details, Report, Scope, Severity, Thresholds};
use mayfly_proto::mayfly::audit::ReportRequest;
use mayfly_report::{REPORT_MAX, export, note};
use mayfly_svid::Timestamp;
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner};
use serde_json::json;

use super::keys::{self, Of};
use super::view::plural;
use crate::Context;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit};
use crate::output::visible_line;
use crate::values::{self, When};

pub(super) use copied::Copied;
use place::Place;
pub(super) use place::note_of;

pub(super) const EXAMPLES: &str = "\
Writes report.json, report.json.note (the signature) and report.html (one page,
with charts, for a browser or a printer; nothing is fetched by it). The same
log and the same period make the same report, byte for byte.

People, reasons and tickets appear with --private only. Times are dates (UTC),
RFC 3339, Unix seconds, `now`, or so long ago (30d).

Examples:
  mayfly audit report --from 2026-11-01 --to 2026-12-01
  mayfly audit report --from 7d --to now --scope pay --out weekly/
  mayfly audit report --from 2026-11-01 --to 2026-12-01 --export copy/ \\
      --out nov.json
  mayfly audit check-report report.json --key log.keys";

/// In whose name somebody signs who is not the log.
const REPORTER: &str = "mayfly-reporter";
/// Findings that are named on the terminal.
const SHOWN_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// The begin of the period
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: When,
    /// Its end, which is not in it
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: When,
    /// About a team, a task, or as `workload:spiffe://…`, `owner:NAME`
    #[arg(long, value_name = "TEAM[/TASK]", value_parser = scope)]
    scope: Option<Scope>,
    /// A folder, or the name of the JSON; its note and its page are beside it
    #[arg(long, value_name = "DIR|FILE", default_value = ".")]
    out: PathBuf,
    /// Make it from this copy of the log, without a server
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// With --export: keys of the log, or files of such; the copy's own word by default
    #[arg(long, value_name = "VKEY|FILE", requires = "export")]
    key: Vec<String>,
    /// With --export: sign with this Ed25519 key (PKCS#8); made if it is not there
    #[arg(long, value_name = "FILE", requires = "export")]
    key_file: Option<PathBuf>,
    /// Show people, reasons and tickets, as far as they are known
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    reason: ReasonArg,
}

/// A report and its signature.
struct Made {
    json: Vec<u8>,
    note: Option<Vec<u8>>,
    /// The key that signed, if the log did not.
    signer: Option<String>,
}

/// Makes and writes it.
///
/// # Errors
/// There is no report, or it cannot be written.
pub(super) async fn run(args: &ReportArgs, context: &mut Context) -> Result<Exit, CliError> {
    let now = context.now();
    let (from, to) = (resolved(args.from, now), resolved(args.to, now));
    if from >= to {
        return Err(CliError::input(
            "--to has to be later than --from",
            "a month: --from 2026-11-01 --to 2026-12-01",
        ));
    }
    let scope = args.scope.clone().unwrap_or_default();
    if matches!(scope, Scope::Owner(_)) && !args.private {
        return Err(CliError::input(
            "a report on a person shows people",
            "say so with --private, or name the team or the task",
        ));
    }
    let place = Place::of(&args.out)?;
    let made = match &args.export {
        None => by_server(args, (from, to), &scope, context).await?,
        Some(_) => by_copy(args, (from, to), scope, context)?,
    };
    let page = mayfly_report::page(&made.json).map_err(|error| CliError::BadAnswer {
        who: "the server",
        what: error.to_string(),
    })?;
    place.write(&made.json, made.note.as_deref(), page.as_bytes(), args.private)?;
    show(&made, &place, context)?;
    Ok(Exit::Ok)
}

async fn by_server(
    args: &ReportArgs,
    (from, to): (i64, i64),
    scope: &Scope,
    context: &mut Context,
) -> Result<Made, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let request = ReportRequest {
        from,
        to,
        scope: scope.to_string(),
        include_private: args.private,
    };
    context.out.live("the server reads its log …");
    let failed = |status| server.failed("make the report", status);
    let mut stream = server
        .audit()
        .report(server.stream_request(request))
        .await
        .map_err(failed)?
        .into_inner();
    let (mut json, mut note) = (vec![], vec![]);
    while let Some(piece) = stream.message().await.map_err(failed)? {
        json.extend_from_slice(&piece.data);
        note.extend_from_slice(&piece.note);
        if json.len() + note.len() > REPORT_MAX {
            return Err(bad(format!("a report of more than {REPORT_MAX} bytes")));
        }
        context.out.live(&format!("{} KiB", json.len() >> 10));
    }
    if note.is_empty() {
        return Err(bad("a report without a signature".into()));
    }
    let note = Some(note);
    Ok(Made {
        json,
        note,
        signer: None,
    })
}

fn by_copy(args: &ReportArgs, (from, to): (i64, i64), scope: Scope, context: &mut Context) -> Result<Made, CliError> {
    let dir = args.export.as_deref().expect("the caller looked");
    context.out.live("checking the copy …");
    let copied = Copied::open(dir, &keys::read(&args.key, Of::Log)?)?;
    let details = match args.private {
        true => copied.details(dir)?,
        false => Details::default(),
    };
    let view = View {
        from,
        to,
        scope,
        thresholds: Thresholds::default(),
    };
    context.out.live("reading the log …");
    let report = export::of_copy(&copied.log, details, &view, copied.facts());
    let report = report
        .map_err(|error| CliError::failed(error.to_string(), "bring the copy up to date: `mayfly audit export`"))?;
    let json = report.to_json();
    let Some(path) = &args.key_file else {
        return Ok(Made {
            json,
            note: None,
            signer: None,
        });
    };
    let key = Ed25519Key::open_or_create(path, REPORTER, Algorithm::Ed25519);
    let key = key.map_err(|error| {
        CliError::input(
            format!("`{}`: {error}", path.display()),
            "name an Ed25519 key in PKCS#8, or a new file",
        )
    })?;
    let signed = note::sign(&report.claim.log.origin, &json, &key);
    let signed = signed.map_err(|error| CliError::failed(error.to_string(), "the report was not written"))?;
    Ok(Made {
        json,
        note: Some(signed.to_bytes()),
        signer: Some(key.verifier_key().to_string()),
    })
}

fn show(made: &Made, place: &Place, context: &mut Context) -> Result<(), CliError> {
    let report: Report = serde_json::from_slice(&made.json).map_err(|error| bad(error.to_string()))?;
    let sha256 = note::digest_of(&made.json);
    if context.out.is_json() {
        return context.out.json(&json!({
            "holds": report.claim.holds, "findings": report.findings, "origin": report.claim.log.origin,
            "size": report.claim.log.end.size, "from": report.claim.from, "to": report.claim.to,
            "scope": report.claim.scope.to_string(), "sha256": sha256, "signed": made.note.is_some(),
            "signer": made.signer, "json": place.json, "note": made.note.as_ref().map(|_| &place.note), "html": place.html,
        }));
    }
    let signed = match (&made.note, &made.signer) {
        (None, _) => "no: give --key-file to sign it yourself".to_owned(),
        (Some(_), None) => format!("by the log, {}", place.note.display()),
        (Some(_), Some(signer)) => format!("by {signer}, {}", place.note.display()),
    };
    context.out.block(&[
        (
            "Claim",
            visible_line(if report.claim.holds { "holds" } else { "does not hold" }),
        ),
        (
            "Log",
            format!(
                "{}, {} entries",
                visible_line(&report.claim.log.origin),
                report.claim.log.end.size
            ),
        ),
        ("Findings", report.findings.len().to_string()),
        ("Report", place.json.display().to_string()),
        ("Signed", signed),
        ("Page", place.html.display().to_string()),
        ("SHA-256", sha256),
    ])?;
    for finding in report.findings.iter().take(SHOWN_MAX) {
        let severity = match finding.severity {
            Severity::Critical => "critical",
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
        };
        let line = format!(
            "{severity:8} {}  {}: {}",
            finding.code, finding.subject, finding.message
        );
        context.out.line(visible_line(&line))?;
    }
    if let Some(more) = report.findings.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        context.out.line(format!(
            "         and {}",
            plural(more as u64, "more finding", "more findings")
        ))?;
    }
    Ok(())
}

/// A date, RFC 3339, Unix seconds, `now`, or so long ago.
fn moment(text: &str) -> Result<When, String> {
    if text == "now" {
        return Ok(When::In(std::time::Duration::ZERO));
    }
    let is_date = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let found = match is_date {
        true => values::when(&format!("{text}T00:00:00Z")),
        false => values::when(text),
    };
    match found {
        Ok(When::At(_) | When::In(_)) => found,
        _ => Err("write it as 2026-11-01, 2026-11-01T08:00:00Z, Unix seconds, `now`, or so long ago as 30d".into()),
    }
}

fn resolved(when: When, now: Timestamp) -> i64 {
    match when {
        When::At(time) => time.unix(),
        When::In(ago) => now
            .unix()
            .saturating_sub(i64::try_from(ago.as_secs()).unwrap_or(i64::MAX)),
        When::Never => unreachable!("`moment` reads no such"),
    }
}

/// `pay`, `pay/migrate`, or a scope as reports write it.
fn scope(text: &str) -> Result<Scope, String> {
    match text.parse() {
        Ok(scope) => Ok(scope),
        Err(error) if text.contains(':') || text.is_empty() => Err(error.to_string()),
        Err(_) if text.contains('/') => Ok(Scope::Task(text.into())),
        Err(_) => Ok(Scope::Team(text.into())),
    }
}

fn bad(what: String) -> CliError {
    let who = "the server";
    CliError::BadAnswer { who, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_dates_instants_or_spans_that_are_over() {
        let now = Timestamp::from_unix(1_793_750_400);
        let unix = |text: &str| moment(text).map(|when| resolved(when, now));
        assert_eq!(unix("2026-11-01"), Ok(1_793_491_200));
        assert_eq!(unix("2026-11-01T00:00:01Z"), Ok(1_793_491_201));
        assert_eq!(unix("1d"), Ok(1_793_664_000));
        assert_eq!(unix("now"), Ok(1_793_750_400));
        assert!(unix("never").is_err() && unix("November").is_err() && unix("2026-13-01").is_err());
    }

    #[test]
    fn scopes_are_written_as_people_write_them() {
        assert_eq!(scope("pay"), Ok(Scope::Team("pay".into())));
        assert_eq!(scope("pay/migrate"), Ok(Scope::Task("pay/migrate".into())));
        assert_eq!(scope("owner:ann"), Ok(Scope::Owner("ann".into())));
        assert_eq!(scope("all"), Ok(Scope::All));
        assert!(scope("").is_err() && scope("colour:red").is_err());
    }
}
