//! The parent of a program that has part in a window of a task without knowing of it.
//!
//! `opener ENDPOINT UID TASK PROGRAM ARG…` starts the program, becomes the user, and opens windows which its descendants have
//! part in, and closes them, as it is told by lines of JSON: `{"task": "open"}` and `{"task": "complete"}`. It answers with
//! `{"event":"task","stage":…,"window":…}`, or with `refused` in place of the stage. All other lines are the program's, and
//! what the program says is passed on.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use mayfly_proto::mayfly::workload::{EndRequest, OpenRequest, RequestRequest, TaskState};
use mayfly_runtime::client::unix_channel;
use mayfly_tests::lines::{commands, say};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Request, Status};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().context("address of the Workload API")?;
    let uid: u32 = args.next().context("user")?.parse()?;
    let task = args.next().context("task")?;
    // Before we are another user: most programs want to become it themselves.
    let mut program = Command::new(args.next().context("program")?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // Before there is a second thread: each thread has its own credentials.
    mayfly_tests::become_user(uid)?;
    let input = program.stdin.take().context("piped")?;
    let output = program.stdout.take().context("piped")?;
    let said = std::thread::spawn(|| pass_on(output));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&endpoint, &task, input))?;
    program.wait()?;
    said.join().expect("it only copies");
    Ok(())
}

/// Line by line: who writes half a line would have ours in the middle of it.
fn pass_on(output: impl Read) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let mut out = std::io::stdout().lock();
        // Nobody listens any more: the end of input follows.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

async fn run(endpoint: &str, task: &str, mut input: impl Write) -> Result<()> {
    let path = endpoint.strip_prefix("unix://").context("a Unix socket")?;
    let mut tasks = TasksClient::new(unix_channel(Path::new(path)));
    let mut request_id = String::new();
    let mut windows = 0;
    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        let outcome = match command["task"].as_str() {
            Some("open") => {
                windows += 1;
                open(&mut tasks, task, windows).await
            }
            Some("complete") => complete(&mut tasks, &request_id).await,
            _ => {
                writeln!(input, "{command}")?;
                continue;
            }
        };
        match outcome {
            Ok(state) => {
                say(&json!({"event": "task", "stage": state.stage().as_str_name(), "window": state.window_id}));
                request_id = state.request_id;
            }
            Err(status) => say(&json!({"event": "task", "refused": status.to_string()})),
        }
    }
    Ok(())
}

async fn open(tasks: &mut TasksClient<Channel>, task: &str, windows: usize) -> Result<TaskState, Status> {
    let request = RequestRequest {
        task: task.into(),
        reason: "a story".into(),
        // Each window is another request.
        idempotency_key: format!("{}-{windows}", std::process::id()),
        ..RequestRequest::default()
    };
    let asked = tasks.request(with_header(request)).await?.into_inner();
    let request = OpenRequest {
        request_id: asked.request_id,
        include_descendants: true,
    };
    Ok(tasks.open(with_header(request)).await?.into_inner())
}

async fn complete(tasks: &mut TasksClient<Channel>, request_id: &str) -> Result<TaskState, Status> {
    let request = EndRequest {
        request_id: request_id.into(),
        detail: String::new(),
    };
    Ok(tasks.complete(with_header(request)).await?.into_inner())
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = "true".parse().expect("plain ASCII");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}
