//! A browser without a window, driven through its own protocol: what a page draws, what it asks for, what it complains of.
//!
//! Chromium speaks the DevTools protocol on a pair of pipes: JSON documents, each ended by a zero byte. No port is opened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The names under which distributions have it, the smallest first.
const NAMES: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];
/// A browser on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A browser with one page.
pub struct Browser {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    read: Vec<u8>,
    events: VecDeque<Value>,
    next: u64,
    session: Option<String>,
    _dir: TempDir,
}

/// What came of opening a page.
#[derive(Debug)]
pub struct Opened {
    /// Every address that was asked for, the page itself first.
    pub requests: Vec<String>,
    /// What the page or the browser complained of, in so many words.
    pub complaints: Vec<String>,
}

/// Light or dark, as readers have set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark ink.
    Light,
    /// Light ink.
    Dark,
}

impl Browser {
    /// Starts one of `width` by `height` pixels.
    ///
    /// # Panics
    /// There is none, or it does not start.
    pub async fn start(width: u32, height: u32) -> Self {
        let program = program();
        let dir = tempfile::tempdir().expect("there is room for a profile");
        let window = format!("--window-size={width},{height}");
        let profile = format!("--user-data-dir={}", dir.path().display());
        let mut command = Command::new("sh");
        command
            // The protocol is on descriptors 3 and 4.
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"#])
            .arg(&program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                // Whatever a page asks for leads nowhere.
                "--host-resolver-rules=MAP * ~NOTFOUND",
            ])
            .args([&window, &profile])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("a shell can be started");
        let input = child.stdin.take().expect("piped");
        let output = child.stdout.take().expect("piped");
        let mut browser = Self {
            _child: child,
            input,
            output,
            read: vec![],
            events: VecDeque::new(),
            next: 0,
            session: None,
            _dir: dir,
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Network.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    /// Opens the page in a file, waits until it is drawn, and tells what happened.
    pub async fn open(&mut self, file: &Path) -> Opened {
        self.events.clear();
        let url = format!("file://{}", file.display());
        let navigated = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(navigated["errorText"].is_null(), "{url}: {navigated}");
        self.event("Page.loadEventFired").await;
        // Two frames: what a page does as it is drawn has happened then.
        let frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
        assert_eq!(self.evaluate(frames).await, Value::Bool(true));
        let of = |method: &str| {
            let named = self.events.iter().filter(move |event| event["method"] == method);
            named.map(|event| event["params"].clone()).collect::<Vec<_>>()
        };
        let requests = of("Network.requestWillBeSent");
        let asked = requests
            .iter()
            .map(|asked| asked["request"]["url"].as_str().unwrap_or_default().to_owned());
        let mut complaints: Vec<String> = of("Log.entryAdded")
            .iter()
            .map(|entry| entry["entry"]["text"].to_string())
            .collect();
        complaints.extend(of("Runtime.consoleAPICalled").iter().map(Value::to_string));
        complaints.extend(of("Runtime.exceptionThrown").iter().map(Value::to_string));
        Opened {
            requests: asked.collect(),
            complaints,
        }
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// It throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let request = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", request).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Sets what readers prefer.
    pub async fn prefer(&mut self, scheme: Scheme) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }))
            .await;
    }

    /// What is to be seen, as a PNG of so many pixels, so many below the top of the page.
    pub async fn screenshot(&mut self, top: u32, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({ "x": 0, "y": top, "width": width, "height": height, "scale": 1 });
        let request = json!({ "format": "png", "clip": clip, "captureBeyondViewport": true });
        let answer = self.call("Page.captureScreenshot", request).await;
        decoded(&answer["data"])
    }

    /// The page as it is printed.
    pub async fn pdf(&mut self) -> Vec<u8> {
        let request = json!({ "printBackground": true, "preferCSSPageSize": true });
        let answer = self.call("Page.printToPDF", request).await;
        decoded(&answer["data"])
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.expect("the browser runs");
        loop {
            let message = self.message(method).await;
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    async fn event(&mut self, method: &str) {
        while !self.events.iter().any(|event| event["method"] == method) {
            let message = self.message(method).await;
            self.events.push_back(message);
        }
    }

    async fn message(&mut self, waited_for: &str) -> Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == 0) {
                let rest = self.read.split_off(end + 1);
                let message = std::mem::replace(&mut self.read, rest);
                return serde_json::from_slice(&message[..end]).expect("the browser speaks JSON");
            }
            let mut piece = vec![0; 64 << 10];
            let read = tokio::time::timeout(PATIENCE, self.output.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("no answer to {waited_for} within {PATIENCE:?}"));
            let read = read.expect("the browser's pipe can be read");
            assert!(read > 0, "the browser ended before it answered {waited_for}");
            self.read.extend_from_slice(&piece[..read]);
        }
    }
}

fn decoded(data: &Value) -> Vec<u8> {
    let text = data.as_str().expect("the browser answers with data");
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let mut found = found.filter(|program| program.is_file());
    found.next().unwrap_or_else(|| {
        panic!(
            "no browser is installed: `apt-get install chromium-headless-shell`, or `chromium`; `tests/run` does it as \
             root on Debian. Looked for {NAMES:?}"
        )
    })
}
