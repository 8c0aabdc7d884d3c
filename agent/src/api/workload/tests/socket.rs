//! Over a real socket, with a client made from the published interface.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_runtime::listen::Limits;
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::{v1, v1alpha};

use super::*;
use crate::api::{ApiParts, WorkloadServer};
use crate::attest::unix::{Settings as UnixSettings, UnixAttestor};
use crate::attest::{Attestors, PeerProcess, WorkloadAttestor};
use crate::tasks::TaskMetrics;

/// Says `s:1` of everybody.
struct Everybody;

#[async_trait]
impl WorkloadAttestor for Everybody {
    fn name(&self) -> &'static str {
        "s"
    }

    async fn attest(&self, _: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        Ok(["s:1".parse().unwrap()].into())
    }
}

/// A served socket.
pub(super) struct Served {
    pub(super) stage: Stage,
    metrics: ApiMetrics,
    dir: TempDir,
    stop: CancellationToken,
    tasks: Tasks,
    pub(super) task_server: Arc<FakeTaskServer>,
    pub(super) news: Arc<News>,
    pub(super) task_metrics: TaskMetrics,
    _task_supervisor: Supervisor,
}

impl Served {
    pub(super) fn start(entries: Vec<Entry>) -> Self {
        Self::limited(entries, ApiSettings::default().limits)
    }

    fn limited(entries: Vec<Entry>, limits: Limits) -> Self {
        let stage = Stage::start(entries);
        let (tasks, task_server, news, task_metrics, task_supervisor) = keeper_beside(&stage);
        let served = Self {
            stage,
            tasks,
            task_server,
            news,
            task_metrics,
            _task_supervisor: task_supervisor,
            metrics: ApiMetrics::default(),
            dir: tempfile::tempdir().unwrap(),
            stop: CancellationToken::new(),
        };
        served.serve(limits);
        served
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn serve(&self, limits: Limits) {
        let parts = ApiParts {
            svids: self.stage.svids.clone(),
            views: self.stage.views.subscribe(),
            attestors: Arc::new(Attestors::new(vec![Box::new(Everybody)])),
            clock: self.stage.clock.clone(),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
            news: Arc::clone(&self.news),
            task_metrics: self.task_metrics.clone(),
        };
        let settings = ApiSettings {
            socket_path: self.path(),
            limits,
            ..ApiSettings::default()
        };
        let server = WorkloadServer::bind(settings, parts).unwrap();
        let stop = self.stop.clone();
        self.stage.supervisor.spawn_once("workload_api", async move |_| {
            server.run(stop).await;
            Ok(())
        });
    }

    pub(super) async fn channel(&self) -> Channel {
        connect(&self.path()).await.unwrap()
    }

    pub(super) async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }
}

async fn connect(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
}

pub(super) fn with_header<T>(message: T, values: &[&'static str]) -> Request<T> {
    let mut request = Request::new(message);
    for value in values {
        request.metadata_mut().append(HEADER, MetadataValue::from_static(value));
    }
    request
}

pub(super) fn proper<T>(message: T) -> Request<T> {
    with_header(message, &["true"])
}

async fn codes_of_all_rpcs(client: &mut SpiffeWorkloadApiClient<Channel>, values: &[&'static str]) -> Vec<Code> {
    fn code<T>(result: Result<T, Status>) -> Code {
        result.err().map_or(Code::Ok, |status| status.code())
    }
    vec![
        code(client.fetch_x509svid(with_header(pb::X509svidRequest {}, values)).await),
        code(
            client
                .fetch_x509_bundles(with_header(pb::X509BundlesRequest {}, values))
                .await,
        ),
        code(
            client
                .fetch_jwtsvid(with_header(pb::JwtsvidRequest::default(), values))
                .await,
        ),
        code(
            client
                .fetch_jwt_bundles(with_header(pb::JwtBundlesRequest {}, values))
                .await,
        ),
        code(
            client
                .validate_jwtsvid(with_header(pb::ValidateJwtsvidRequest::default(), values))
                .await,
        ),
        code(
            client
                .fetch_witsvid(with_header(pb::WitsvidRequest::default(), values))
                .await,
        ),
        code(
            client
                .fetch_wit_bundles(with_header(pb::WitBundlesRequest {}, values))
                .await,
        ),
    ]
}

// WEP-08 WEP-23 AMB-18 WAPI-28
#[tokio::test]
async fn the_security_header_is_demanded_by_every_rpc_with_exactly_one_value() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    let mut client = served.client().await;
    for values in [
        &[][..],
        &[""],
        &["True"],
        &["TRUE"],
        &["1"],
        &["false"],
        &["true "],
        &["true", "true"],
        &["true,true"],
    ] {
        let codes = codes_of_all_rpcs(&mut client, values).await;
        // The client's library trims white space; the wire then has the proper value.
        let trimmed = values == ["true "];
        assert!(trimmed || codes == [Code::InvalidArgument; 7], "{values:?}: {codes:?}");
    }
}

// WEP-29 WAPI-02
#[tokio::test]
async fn profiles_and_methods_that_are_not_offered_are_unimplemented_after_the_header() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    let codes = codes_of_all_rpcs(&mut served.client().await, &["true"]).await;
    assert_eq!(codes[..2], [Code::Ok; 2]);
    assert_eq!(codes[2..], [Code::Unimplemented; 5]);

    let unknown = async |path: &'static str, values: &[&'static str]| {
        let mut client = tonic::client::Grpc::new(served.channel().await);
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(path);
        let codec = tonic_prost_codec();
        let answer: Result<Response<()>, Status> = client.unary(with_header((), values), path, codec).await;
        answer.unwrap_err().code()
    };
    assert_eq!(
        unknown("/SpiffeWorkloadAPI/FetchSecrets", &[]).await,
        Code::InvalidArgument
    );
    assert_eq!(
        unknown("/SpiffeWorkloadAPI/FetchSecrets", &["true"]).await,
        Code::Unimplemented
    );
    assert_eq!(unknown("/no.such.Service/Call", &[]).await, Code::Unimplemented);
}

fn tonic_prost_codec() -> EmptyCodec {
    EmptyCodec
}

/// Messages without content.
struct EmptyCodec;

impl tonic::codec::Codec for EmptyCodec {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for EmptyCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl tonic::codec::Decoder for EmptyCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

// WEP-01 WEP-03 WEP-05 WEP-09 WEP-20 WEP-22 WEP-33 WAPI-05
#[tokio::test]
async fn a_process_gets_its_svid_over_the_socket_without_credentials() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    let mut client = served.client().await;
    let mut stream = client
        .fetch_x509svid(proper(pb::X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(ids(&message), ["a"]);
    served.stage.put(entry("b", &["s:1"]));
    assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 2);
    served.stage.remove("a");
    served.stage.remove("b");
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "no end without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
}

// IOP-24 WEP-34
#[tokio::test]
async fn health_and_reflection_need_no_header() {
    let served = Served::start(vec![]);
    let channel = served.channel().await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "SpiffeWorkloadAPI"] {
        let answer = health
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.status, 1, "serving");
    }
    let expected = [
        "SpiffeWorkloadAPI",
        "grpc.health.v1.Health",
        "mayfly.workload.v1.Checkpoint",
        "mayfly.workload.v1.Tasks",
    ];

    let request = |request| v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = tokio_stream::iter([request(MessageRequest::ListServices(String::new()))]);
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(
        expected.iter().all(|name| names.iter().any(|have| have == name)),
        "{names:?}"
    );
    assert!(
        names
            .iter()
            .all(|name| expected.contains(&name.as_str()) || name.starts_with("grpc.reflection.")),
        "nothing that is not offered here: {names:?}"
    );

    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = old
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

// WEP-31 WAPI-04
#[tokio::test]
async fn reflection_shows_the_published_interface_and_nothing_else() {
    let served = Served::start(vec![]);
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".into())),
    };
    let mut client = ServerReflectionClient::new(served.channel().await);
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::FileDescriptorResponse(files)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    let published = prost_types::FileDescriptorSet::decode(mayfly_proto::WORKLOAD_DESCRIPTOR_SET).unwrap();
    let name = "workloadapi.proto";
    let published = published
        .file
        .into_iter()
        .find(|file| file.name().ends_with(name))
        .unwrap();
    let shown = files.file_descriptor_proto.iter();
    let shown: Vec<_> = shown
        .map(|bytes| prost_types::FileDescriptorProto::decode(bytes.as_slice()).unwrap())
        .collect();
    assert!(shown.contains(&published));
    assert_eq!(
        published
            .service
            .iter()
            .map(|service| service.method.len())
            .collect::<Vec<_>>(),
        [7]
    );
}

// IOP-15 IOP-17
#[tokio::test]
async fn a_stop_tells_every_stream_to_come_again_and_then_ends() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    let mut streams = vec![];
    for _ in 0..5 {
        let mut client = served.client().await;
        for _ in 0..20 {
            let mut stream = client
                .fetch_x509svid(proper(pb::X509svidRequest {}))
                .await
                .unwrap()
                .into_inner();
            stream.message().await.unwrap().unwrap();
            streams.push(stream);
        }
    }
    let start = Instant::now();
    served.stop.cancel();
    for stream in &mut streams {
        assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    }
    while served.stage.supervisor.running().contains(&"workload_api") {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!served.path().exists());
}

// IOP-20
#[tokio::test]
async fn everybody_may_connect_and_a_dead_predecessors_socket_is_replaced() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    let meta = std::fs::metadata(served.path()).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o666);
    // What a killed agent leaves behind.
    let dead = served.dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let before = std::fs::metadata(&dead).unwrap().ino();
    let parts = ApiParts {
        svids: served.stage.svids.clone(),
        views: served.stage.views.subscribe(),
        attestors: Arc::new(Attestors::new(vec![])),
        clock: served.stage.clock.clone(),
        metrics: ApiMetrics::default(),
        tasks: served.tasks.clone(),
        news: Arc::clone(&served.news),
        task_metrics: served.task_metrics.clone(),
    };
    let settings = ApiSettings {
        socket_path: dead.clone(),
        ..ApiSettings::default()
    };
    let server = WorkloadServer::bind(settings.clone(), parts.clone()).unwrap();
    assert_ne!(std::fs::metadata(&dead).unwrap().ino(), before);
    assert!(
        WorkloadServer::bind(settings, parts).is_err(),
        "a living one is not replaced"
    );
    drop(server);
}

// IOP-19
#[tokio::test]
async fn one_shot_clients_leave_no_residue() {
    let served = Served::start(vec![entry("a", &["s:1"])]);
    for _ in 0..50 {
        let mut client = served.client().await;
        for _ in 0..4 {
            let mut stream = client
                .fetch_x509svid(proper(pb::X509svidRequest {}))
                .await
                .unwrap()
                .into_inner();
            stream.message().await.unwrap().unwrap();
        }
    }
    while served.metrics.streams_open.get() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(served.stage.server.issued(), 1);
}

// WEP-25
#[tokio::test]
async fn connections_of_one_user_have_a_bound() {
    let limits = Limits {
        max_connections_per_peer: 3,
        ..ApiSettings::default().limits
    };
    let served = Served::limited(vec![entry("a", &["s:1"])], limits);
    let mut held = vec![];
    for _ in 0..3 {
        let mut client = served.client().await;
        let stream = client
            .fetch_x509svid(proper(pb::X509svidRequest {}))
            .await
            .unwrap()
            .into_inner();
        held.push((client, stream));
    }
    let refused = match connect(&served.path()).await {
        Err(_) => true,
        Ok(channel) => {
            let mut client = SpiffeWorkloadApiClient::new(channel);
            client.fetch_x509svid(proper(pb::X509svidRequest {})).await.is_err()
        }
    };
    assert!(refused);
}

// WEP-21 WAPI-06
#[tokio::test]
async fn the_unix_attestor_sees_the_caller_itself() {
    let uid = rustix::process::getuid().as_raw();
    let mut mine = entry("mine", &[]);
    mine.spec.selectors = [format!("unix:uid:{uid}").parse().unwrap()].into_iter().collect();
    let mut other = entry("other", &[]);
    other.spec.selectors = [format!("unix:uid:{}", uid + 1).parse().unwrap()].into_iter().collect();
    let served = Served::start(vec![]);
    served.stage.update(ViewUpdate {
        puts: vec![mine, other],
        ..ViewUpdate::default()
    });
    let parts = ApiParts {
        svids: served.stage.svids.clone(),
        views: served.stage.views.subscribe(),
        attestors: Arc::new(Attestors::new(vec![Box::new(UnixAttestor::new(
            UnixSettings::default(),
        ))])),
        clock: served.stage.clock.clone(),
        metrics: ApiMetrics::default(),
        tasks: served.tasks.clone(),
        news: Arc::clone(&served.news),
        task_metrics: served.task_metrics.clone(),
    };
    let path = served.dir.path().join("real.sock");
    let server = WorkloadServer::bind(
        ApiSettings {
            socket_path: path.clone(),
            ..ApiSettings::default()
        },
        parts,
    )
    .unwrap();
    let stop = served.stop.clone();
    served.stage.supervisor.spawn_once("real", async move |_| {
        server.run(stop).await;
        Ok(())
    });
    let mut client = SpiffeWorkloadApiClient::new(connect(&path).await.unwrap());
    let mut stream = client
        .fetch_x509svid(proper(pb::X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ids(&stream.message().await.unwrap().unwrap()), ["mine"]);
}

/// A header field as a literal that no table is needed for (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap(); // below 127
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

// IOP-01
#[tokio::test]
async fn clients_that_send_the_sockets_path_as_authority_are_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    let served = Served::start(vec![entry("a", &["s:1"])]);
    for authority in [
        Some("tmp%2Fa.sock"),
        Some("/tmp/a.sock"),
        Some(""),
        Some("localhost"),
        None,
    ] {
        let mut fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            (HEADER, "true"),
        ]
        .map(|(name, value)| literal(name, value))
        .to_vec();
        if let Some(authority) = authority {
            fields.insert(3, literal(":authority", authority));
        }
        let mut socket = UnixStream::connect(served.path()).await.unwrap();
        let opening = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, 4, 1, &fields.concat()),
            frame(DATA, 1, 1, &[0; 5]), // an empty message, and the end of the request
        ];
        socket.write_all(&opening.concat()).await.unwrap();
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            socket.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], RST_STREAM, "{authority:?}");
            if head[3] == DATA {
                let message = pb::X509svidResponse::decode(&payload[5..]).unwrap();
                assert_eq!(ids(&message), ["a"], "{authority:?}");
                break;
            }
        }
    }
}
