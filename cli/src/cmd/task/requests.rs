//! `mayfly task requests|request`: what was asked for and what became of it.

use clap::ValueEnum;
use mayfly_model::task::TaskName;
use mayfly_proto::mayfly::task::{GetTaskRequest, ListTasksRequest, Task};
use mayfly_svid::Timestamp;
use serde_json::json;

use super::not_found_hint;
use super::view::TaskView;
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::values;

/// The most of a page.
const PAGE: i32 = 200;

pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  mayfly task requests                                  what waits
  mayfly task requests --state all --task pay/export --limit 20
  mayfly task requests --state review-due
  mayfly task requests --output json | jq -r '.requests[].request_id'";

/// Which requests are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// For approvals or a ticket
    Waiting,
    /// Approved and not opened yet
    Armed,
    /// With a window that is open
    Open,
    /// With a window that ended and could still count
    Unsettled,
    /// Break-glass that has to be reviewed
    ReviewDue,
    /// All there are
    All,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Which: waiting, armed, open, unsettled, review-due, or all
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "waiting",
        value_name = "STATE"
    )]
    state: State,
    /// Only of this task
    #[arg(long, value_name = "TASK")]
    task: Option<TaskName>,
    /// Only from this workload, by its SPIFFE ID or its path
    #[arg(long, value_name = "ID|PATH")]
    workload: Option<String>,
    /// Only from this person
    #[arg(long, value_name = "PERSON")]
    person: Option<String>,
    /// Not more than so many, the newest
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = values::count)]
    limit: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Requests or windows
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// A request by its ID or by that of one of its windows.
///
/// # Errors
/// The server's status.
pub(crate) async fn get(server: &Server, id: &str) -> Result<Task, CliError> {
    let request = server.request(GetTaskRequest { id: id.to_owned() });
    let answer = server.tasks().get(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| not_found_hint(server.failed(format!("show request {id}"), status)))
}

/// The newest `limit` requests that pass a filter of the server's and `keep`; and whether there may be more.
///
/// # Errors
/// The server's status.
pub(crate) async fn newest(
    server: &Server,
    filter: &str,
    task: &str,
    limit: usize,
    keep: impl Fn(&Task) -> bool,
) -> Result<(Vec<Task>, bool), CliError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = server.request(ListTasksRequest {
            filter: filter.to_owned(),
            task: task.to_owned(),
            page_size: PAGE,
            page_token: page_token.clone(),
        });
        let answer = server.tasks().list(request).await;
        let page = answer.map_err(|status| server.failed("list requests", status))?;
        let page = page.into_inner();
        if !page.next_page_token.is_empty() && (page.tasks.is_empty() || page.next_page_token == page_token) {
            return Err(CliError::BadAnswer {
                who: "the server",
                what: "a list that does not end".into(),
            });
        }
        all.extend(page.tasks.into_iter().filter(&keep));
        if all.len() > limit {
            all.truncate(limit);
            return Ok((all, true));
        }
        if page.next_page_token.is_empty() {
            return Ok((all, false));
        }
        page_token = page.next_page_token;
    }
}

/// Lists requests in a table.
///
/// # Errors
/// The server's status.
pub(super) async fn list(args: &ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let task = args.task.as_ref().map_or("", TaskName::as_str);
    let (tasks, more) = newest(&server, args.state.filter(), task, limit, |task| args.keeps(task)).await?;
    let views: Vec<TaskView> = tasks.into_iter().map(TaskView::of).collect();
    if context.out.is_json() {
        context.out.json(&json!({"requests": views, "more": more}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    let header = ["request", "task", "stage", "who", "asked", "approvals", "why"];
    let rows = views.iter().map(|view| row(view, now)).collect();
    let empty = match args.state {
        State::Waiting => "Nothing waits.",
        State::ReviewDue => "No review is due.",
        _ => "No request matches.",
    };
    context.out.table(&header, rows, empty)?;
    if more {
        context
            .out
            .note(format!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Ok)
}

fn row(view: &TaskView, now: Timestamp) -> Vec<String> {
    let approvals = match view.approvals_needed {
        0 => "-".to_owned(),
        needed => format!("{} of {needed}", view.approvals.len()),
    };
    vec![
        view.request_id.clone(),
        view.task.clone(),
        view.stage.clone(),
        view.who(),
        view.requested_at.relative(now),
        approvals,
        view.why(),
    ]
}

/// Shows requests in full.
///
/// # Errors
/// The server's status.
pub(super) async fn show(args: &ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let mut views = Vec::new();
    for id in &args.ids {
        views.push(TaskView::of(get(&server, id).await?));
    }
    if context.out.is_json() {
        context.out.json(&json!({"requests": views}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            context.out.line("")?;
        }
        let fields = view.fields(&context.out, now);
        context.out.block(&fields)?;
    }
    Ok(Exit::Ok)
}

// === impl State ===

impl State {
    /// The server's word for it.
    fn filter(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Armed => "armed",
            Self::Open => "open",
            Self::Unsettled => "unsettled",
            Self::ReviewDue => "review",
            Self::All => "",
        }
    }
}

// === impl ListArgs ===

impl ListArgs {
    fn keeps(&self, task: &Task) -> bool {
        let is_from = |workload: &str| {
            task.workload == workload || workload.starts_with('/') && super::view::path_of(&task.workload) == workload
        };
        self.workload.as_deref().is_none_or(is_from) && self.person.as_ref().is_none_or(|person| task.person == *person)
    }
}
