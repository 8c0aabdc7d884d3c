//! Logs: where they go, how much is said, and how an error is shown with its causes.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to log, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level (`info`) or directives (`info,h2=warn`), as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
    /// The look of a line.
    pub format: LogFormat,
}

/// Reads and changes the level of the running process. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct LogHandle {
    launch: Arc<str>,
    current: Arc<Mutex<String>>,
    reload: reload::Handle<EnvFilter, Registry>,
}

/// Why logs cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level cannot be read.
    #[error("`{filter}` is not a log level (error, warn, info, debug, trace, off) or a list of directives")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word stands alone that is no level. The library would take it for the name of a target.
    #[error(
        "`{word}` is not a log level: write error, warn, info, debug, trace or off, or a directive such as h2=warn"
    )]
    Word {
        /// The word.
        word: String,
    },
    /// Somebody set up logging before.
    #[error("logging is set up already")]
    AlreadyInitialized(#[source] tracing_subscriber::util::TryInitError),
    /// The subscriber is gone.
    #[error("the log level cannot be changed any more")]
    Gone(#[source] reload::Error),
}

/// Shows an error with all its causes: `cannot load key: cannot read file: permission denied`.
///
/// Our errors show themselves only and never repeat their source, so a log line wraps them: `error = %Chain(&e)`.
#[derive(Clone, Copy)]
pub struct Chain<'e>(pub &'e (dyn Error + 'e));

/// Sends the logs of this process to stderr.
///
/// # Errors
/// The level cannot be read, or logging was set up before.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let (layer, reload) = reload::Layer::new(parse_filter(&settings.level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(ansi).with_target(false).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .with(lines)
        .try_init()
        .map_err(LogError::AlreadyInitialized)?;
    Ok(LogHandle::new(&settings.level, reload))
}

/// Checks a level without setting it, for the config reader.
///
/// # Errors
/// The level cannot be read.
pub fn check_level(level: &str) -> Result<(), LogError> {
    parse_filter(level).map(drop)
}

/// `filter`, with what peers make h2 warn of left out unless somebody asks for it: a line for every connection that a
/// peer misuses would let strangers fill a disk.
fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let written = parse_as_written(filter)?;
    let asked_for = filter.contains("h2") || written.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
    if asked_for {
        return Ok(written);
    }
    parse_as_written(&format!("{filter},h2=error"))
}

fn parse_as_written(filter: &str) -> Result<EnvFilter, LogError> {
    let alone = |directive: &&str| !directive.contains(['=', '[']);
    if let Some(word) = filter
        .split(',')
        .map(str::trim)
        .filter(alone)
        .find(|word| LevelFilter::from_str(word).is_err())
    {
        return Err(LogError::Word { word: word.to_owned() });
    }
    EnvFilter::builder()
        .with_default_directive(LevelFilter::ERROR.into())
        .parse(filter)
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

// === impl LogSettings ===

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

// === impl LogHandle ===

impl LogHandle {
    fn new(launch: &str, reload: reload::Handle<EnvFilter, Registry>) -> Self {
        Self {
            launch: launch.into(),
            current: Arc::new(Mutex::new(launch.to_owned())),
            reload,
        }
    }

    /// The level or directives in force.
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The level or directives that the process was started with.
    pub fn launch(&self) -> &str {
        &self.launch
    }

    /// The most detailed level that something in force lets through.
    pub fn current_level(&self) -> LevelFilter {
        max_level(&self.current())
    }

    /// The most detailed level that something at the start let through.
    pub fn launch_level(&self) -> LevelFilter {
        max_level(&self.launch)
    }

    /// Changes the level at once; in force until the next change or the end of the process.
    ///
    /// # Errors
    /// The level cannot be read; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse_filter(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(parsed).map_err(LogError::Gone)?;
        filter.clone_into(&mut current);
        Ok(())
    }

    /// Goes back to the level of the start.
    ///
    /// # Errors
    /// The subscriber is gone.
    pub fn reset(&self) -> Result<(), LogError> {
        self.set(&self.launch)
    }
}

fn max_level(filter: &str) -> LevelFilter {
    parse_filter(filter)
        .ok()
        .and_then(|filter| filter.max_level_hint())
        .unwrap_or(LevelFilter::TRACE)
}

// === impl Chain ===

impl<'e> Chain<'e> {
    /// The chain of an [`anyhow::Error`].
    pub fn of(error: &'e anyhow::Error) -> Self {
        Self(error.as_ref())
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries repeat their source in their own text; saying it twice helps nobody.
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot load key `{0}`")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("client failed: {0}")]
    struct Repeating(#[source] Outer);

    #[test]
    fn a_chain_shows_each_cause_once() {
        let error = Outer("a.key", std::io::Error::other("disk on fire"));
        assert_eq!(Chain(&error).to_string(), "cannot load key `a.key`: disk on fire");
        let error = Repeating(error);
        assert_eq!(
            Chain(&error).to_string(),
            "client failed: cannot load key `a.key`: disk on fire"
        );
        let error = anyhow::Error::from(error).context("start");
        assert!(Chain::of(&error).to_string().starts_with("start: client failed: "));
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_the_name_of_a_target() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,h2=warn",
            "info,mayfly_server::watch=debug",
            "h2=trace",
        ] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["lound", "info,debgu", "h2=loud"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_peers_make_h2_warn_of_is_left_out_unless_it_is_asked_for() {
        for (filter, said) in [
            ("info", false),
            ("warn", false),
            ("info,mayfly=debug", true),
            ("debug", true),
            ("info,h2=warn", true),
        ] {
            let subscriber = tracing_subscriber::registry().with(parse_filter(filter).unwrap());
            tracing::subscriber::with_default(subscriber, || {
                assert_eq!(
                    tracing::enabled!(target: "h2::proto", tracing::Level::WARN),
                    said,
                    "{filter}"
                );
            });
        }
    }

    #[test]
    fn the_level_can_be_changed_and_goes_back_to_that_of_the_start() {
        let (layer, reload) = reload::Layer::new(parse_filter("warn").unwrap());
        let subscriber = tracing_subscriber::registry().with(layer);
        let handle = LogHandle::new("warn", reload);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            handle.set("debug").unwrap();
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(
                (handle.current_level(), handle.launch_level()),
                (LevelFilter::DEBUG, LevelFilter::WARN)
            );
            assert!(handle.set("loud=very").is_err());
            assert_eq!(handle.current(), "debug");
            handle.reset().unwrap();
            assert_eq!(handle.current(), "warn");
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
        });
    }
}
