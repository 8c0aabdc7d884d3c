//! `spire.api.server.logger.v1`: how much the running server says.

use std::sync::Arc;

use mayfly_model::{Change, Step};
use mayfly_proto::spire::server::logger::logger_server::Logger;
use mayfly_proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use mayfly_proto::spire::types::{self, LogLevel};
use mayfly_runtime::Chain;
use tonic::{Request, Response, Status};
use tracing::level_filters::LevelFilter;
use tracing::{error, info};

use super::status::{invalid, to_status};
use super::{Api, Call};

pub(super) struct LoggerService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Logger for LoggerService {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        Ok(Response::new(self.state()))
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        let call = Call::of(&request)?;
        let level = match LogLevel::try_from(request.get_ref().new_level) {
            Ok(LogLevel::Unspecified) | Err(_) => return Err(invalid("new_level: is not a log level")),
            // We have nothing above an error, and an error is never kept quiet.
            Ok(LogLevel::Panic | LogLevel::Fatal | LogLevel::Error) => "error",
            Ok(LogLevel::Warn) => "warn",
            Ok(LogLevel::Info) => "info",
            Ok(LogLevel::Debug) => "debug",
            Ok(LogLevel::Trace) => "trace",
        };
        self.change(&call, "logger.level_set", level).await
    }

    async fn reset_log_level(&self, request: Request<ResetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        let call = Call::of(&request)?;
        self.change(&call, "logger.level_reset", self.0.log.launch()).await
    }
}

impl LoggerService {
    /// Written down first: an operator's act without its record does not happen.
    async fn change(&self, call: &Call, kind: &'static str, level: &str) -> Result<Response<types::Logger>, Status> {
        let body = serde_json::json!({ "from": self.0.log.current(), "to": level });
        let change = Change::Note {
            kind,
            subject: "log".into(),
            body,
        };
        let step = Step {
            actor: call.actor.clone(),
            time: call.now,
            change,
        };
        self.0
            .committer
            .commit(step)
            .await
            .map_err(|failure| to_status(&failure))?;
        self.0.log.set(level).map_err(|failure| {
            error!(error = %Chain(&failure), "log level was not changed");
            Status::internal("internal error")
        })?;
        info!(level, actor = call.actor.who, "log level changed");
        Ok(Response::new(self.state()))
    }

    fn state(&self) -> types::Logger {
        types::Logger {
            current_level: wire(self.0.log.current_level()).into(),
            launch_level: wire(self.0.log.launch_level()).into(),
        }
    }
}

fn wire(level: LevelFilter) -> LogLevel {
    match level {
        LevelFilter::TRACE => LogLevel::Trace,
        LevelFilter::DEBUG => LogLevel::Debug,
        LevelFilter::INFO => LogLevel::Info,
        LevelFilter::WARN => LogLevel::Warn,
        LevelFilter::ERROR => LogLevel::Error,
        // Nothing at all is what SPIRE would call saying a last word only.
        _ => LogLevel::Panic,
    }
}
