//! Health, numbers, logs, reflection: how a server is looked after.

use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_proto::spire::server::bundle::GetFederatedBundleRequest;
use mayfly_proto::spire::server::debug::GetInfoRequest;
use mayfly_proto::spire::server::debug::debug_client::DebugClient;
use mayfly_proto::spire::server::logger::logger_client::LoggerClient;
use mayfly_proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use mayfly_proto::spire::types::LogLevel;
use tonic::Code;

use super::*;

#[tokio::test]
async fn health_is_serving_while_the_server_is_ready_for_whoever_asks() {
    let server = Server::new().await;
    let check = |caller: Connected, service: &str| {
        let service = service.to_owned();
        async move {
            let answer = HealthClient::new(caller).check(HealthCheckRequest { service }).await;
            answer.map(|answer| answer.into_inner().status())
        }
    };
    for caller in [server.remote(None), server.local(NOBODY)] {
        assert_eq!(check(caller.clone(), "").await.unwrap(), ServingStatus::Serving);
        assert_eq!(
            check(caller.clone(), "spire.api.server.entry.v1.Entry").await.unwrap(),
            ServingStatus::Serving
        );
        assert_eq!(code(check(caller, "nothing").await), Code::NotFound);
    }
    let logger = "spire.api.server.logger.v1.Logger";
    assert_eq!(
        check(server.local(NOBODY), logger).await.unwrap(),
        ServingStatus::Serving
    );
    let not_there = check(server.remote(None), logger).await;
    assert_eq!(code(not_there), Code::NotFound, "it is not on TCP");
    let block = server.readiness.block("something");
    assert_eq!(check(server.remote(None), "").await.unwrap(), ServingStatus::NotServing);
    drop(block);
    assert_eq!(check(server.remote(None), "").await.unwrap(), ServingStatus::Serving);
}

#[tokio::test]
async fn the_server_shows_itself_in_numbers() {
    let server = Server::new().await;
    server.agent("a").await;
    server.world.entry("web", &id("/spire/agent/echo/a"), |_| {}).await;
    server.world.commit(super::entries::foreign_bundle("x")).await.unwrap();
    let info = DebugClient::new(server.local(VIEWER))
        .get_info(GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.agents_count, info.entries_count, info.federated_bundles_count),
        (1, 1, 1)
    );
    assert_eq!(info.svid_chain[0].id, wire_id("/spire/server"));
    assert!(info.svid_chain[0].expires_at > server.world.now().unix() && !info.svid_chain[0].subject.is_empty());
}

#[tokio::test]
async fn what_anybody_may_call_reads_256_kib_and_no_more() {
    let server = Server::new().await;
    let check = |bytes: usize| {
        let mut client = HealthClient::new(server.remote(None));
        async move {
            code(
                client
                    .check(HealthCheckRequest {
                        service: "x".repeat(bytes),
                    })
                    .await,
            )
        }
    };
    assert_eq!(check(250 * 1024).await, Code::NotFound);
    assert_eq!(check(260 * 1024).await, Code::OutOfRange);
    let long = GetFederatedBundleRequest {
        trust_domain: "x".repeat(260 * 1024),
        output_mask: None,
    };
    assert_eq!(
        code(server.admin().bundle().get_federated_bundle(long).await),
        Code::InvalidArgument
    );
}

// One test, as there is one log level.
#[tokio::test]
async fn the_log_level_changes_with_a_record_and_goes_back() {
    let server = Server::new().await;
    let mut client = LoggerClient::new(server.admin());
    let levels = |logger: types::Logger| (logger.current_level(), logger.launch_level());
    let got = client.get_logger(GetLoggerRequest {}).await.unwrap().into_inner();
    assert_eq!(levels(got), (LogLevel::Error, LogLevel::Error));
    let set = |level: i32| SetLogLevelRequest { new_level: level };
    let got = client
        .set_log_level(set(LogLevel::Warn.into()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(levels(got), (LogLevel::Warn, LogLevel::Error));
    for bad in [LogLevel::Unspecified.into(), 99] {
        assert_eq!(code(client.set_log_level(set(bad)).await), Code::InvalidArgument);
    }
    let got = client
        .reset_log_level(ResetLogLevelRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(levels(got), (LogLevel::Error, LogLevel::Error));
    let [record] = &server.world.logged("logger.level_set")[..] else {
        panic!()
    };
    assert_eq!(
        (&record.body["to"], record.actor.who.as_str()),
        (&serde_json::json!("warn"), "uid:0")
    );
    assert_eq!(server.world.logged("logger.level_reset").len(), 1);
}
