//! The own bundle and foreign ones.

use mayfly_proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode;
use mayfly_proto::spire::server::bundle::*;
use mayfly_proto::spire::types::{BundleMask, X509Certificate};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use tonic::Code;

use super::*;

fn certificate(is_ca: bool) -> X509Certificate {
    let mut params = CertificateParams::default();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    X509Certificate {
        asn1: certificate.der().to_vec(),
        tainted: false,
    }
}

fn bundle(name: &str) -> types::Bundle {
    types::Bundle {
        trust_domain: name.into(),
        x509_authorities: vec![certificate(true)],
        refresh_hint: 60,
        sequence_number: 7,
        ..types::Bundle::default()
    }
}

fn item_code(status: &Option<types::Status>) -> Code {
    Code::from(status.as_ref().expect("every result has a status").code)
}

async fn create(server: &Server, bundle: Vec<types::Bundle>) -> Vec<Code> {
    let request = BatchCreateFederatedBundleRequest {
        bundle,
        output_mask: None,
    };
    let results = server
        .admin()
        .bundle()
        .batch_create_federated_bundle(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results.iter().map(|result| item_code(&result.status)).collect()
}

async fn get(caller: &Connected, name: &str) -> Result<types::Bundle, Status> {
    let request = GetFederatedBundleRequest {
        trust_domain: name.into(),
        output_mask: None,
    };
    caller
        .bundle()
        .get_federated_bundle(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn delete(server: &Server, name: &str, mode: Mode) -> Code {
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![name.into()],
        mode: mode.into(),
    };
    let results = server
        .admin()
        .bundle()
        .batch_delete_federated_bundle(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results[0].trust_domain, name);
    item_code(&results[0].status)
}

#[tokio::test]
async fn anyone_gets_the_own_bundle_and_operators_add_to_it() {
    let server = Server::new().await;
    let own = server
        .remote(None)
        .bundle()
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    // One of each class.
    assert_eq!((own.trust_domain.as_str(), own.x509_authorities.len()), ("td", 3));
    let mask = Some(BundleMask {
        refresh_hint: true,
        ..BundleMask::default()
    });
    let masked = server
        .remote(None)
        .bundle()
        .get_bundle(GetBundleRequest { output_mask: mask })
        .await
        .unwrap();
    assert!(masked.into_inner().x509_authorities.is_empty());

    let append = |x509_authorities: Vec<X509Certificate>| {
        let mut client = server.admin().bundle();
        async move {
            client
                .append_bundle(AppendBundleRequest {
                    x509_authorities,
                    ..Default::default()
                })
                .await
        }
    };
    let new = certificate(true);
    let grown = append(vec![new.clone()]).await.unwrap().into_inner();
    let (known, added) = grown.x509_authorities.split_at(3);
    assert_eq!((known, added), (&own.x509_authorities[..], &[new.clone()][..]));
    assert!(grown.sequence_number > own.sequence_number);
    let same = append(vec![new]).await.unwrap().into_inner();
    assert_eq!(same, grown, "what is there already is not added again");
    let before = server.done().await;
    // XSVID-08
    for bad in [
        vec![],
        vec![certificate(false)],
        vec![X509Certificate {
            asn1: vec![1, 2, 3],
            tainted: false,
        }],
    ] {
        assert_eq!(code(append(bad).await), Code::InvalidArgument);
    }
    let jwt_authorities = vec![types::JwtKey {
        key_id: "k".into(),
        public_key: vec![1],
        ..types::JwtKey::default()
    }];
    let request = AppendBundleRequest {
        jwt_authorities,
        ..Default::default()
    };
    assert_eq!(
        code(server.admin().bundle().append_bundle(request).await),
        Code::InvalidArgument
    );
    assert_eq!(server.done().await, before);
}

#[tokio::test]
async fn foreign_bundles_are_created_once_set_often_and_changed_in_parts() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    assert_eq!(code(get(&agent, "x").await), Code::NotFound);
    let wanted = bundle("x");
    assert_eq!(
        create(&server, vec![wanted.clone(), wanted.clone()]).await,
        [Code::Ok, Code::AlreadyExists]
    );
    assert_eq!(get(&agent, "x").await.unwrap(), wanted);
    assert_eq!(get(&agent, "spiffe://x").await.unwrap(), wanted);

    let update = BatchUpdateFederatedBundleRequest {
        bundle: vec![
            types::Bundle {
                refresh_hint: 90,
                ..bundle("x")
            },
            bundle("unknown"),
        ],
        input_mask: Some(BundleMask {
            refresh_hint: true,
            ..BundleMask::default()
        }),
        output_mask: None,
    };
    let results = server
        .admin()
        .bundle()
        .batch_update_federated_bundle(update)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(
        results
            .iter()
            .map(|result| item_code(&result.status))
            .collect::<Vec<_>>(),
        [Code::Ok, Code::NotFound]
    );
    assert_eq!(
        results[0].bundle,
        Some(types::Bundle {
            refresh_hint: 90,
            ..wanted
        })
    );

    let (again, other) = (bundle("x"), bundle("y"));
    let set = BatchSetFederatedBundleRequest {
        bundle: vec![again.clone(), other.clone()],
        output_mask: None,
    };
    for _ in 0..2 {
        let results = server
            .admin()
            .bundle()
            .batch_set_federated_bundle(set.clone())
            .await
            .unwrap()
            .into_inner()
            .results;
        assert!(results.iter().all(|result| item_code(&result.status) == Code::Ok));
        assert_eq!(results[1].bundle, Some(other.clone()));
    }
    let list = |page_token: String| {
        let mut client = server.local(VIEWER).bundle();
        let request = ListFederatedBundlesRequest {
            page_size: 1,
            page_token,
            output_mask: None,
        };
        async move { client.list_federated_bundles(request).await.unwrap().into_inner() }
    };
    let first = list(String::new()).await;
    let second = list(first.next_page_token).await;
    assert_eq!(
        (first.bundles, second.bundles, second.next_page_token.as_str()),
        (vec![again], vec![other], "")
    );
    let count = server
        .local(VIEWER)
        .bundle()
        .count_bundles(CountBundlesRequest {})
        .await
        .unwrap()
        .into_inner()
        .count;
    assert_eq!(count, 3);
}

// XSVID-08 SPID-13
#[tokio::test]
async fn unfit_bundles_are_refused_and_nothing_changes() {
    let server = Server::new().await;
    let before = server.done().await;
    let not_a_ca = types::Bundle {
        x509_authorities: vec![certificate(false)],
        ..bundle("x")
    };
    let no_certificate = types::Bundle {
        x509_authorities: vec![X509Certificate {
            asn1: vec![9],
            tainted: false,
        }],
        ..bundle("x")
    };
    let no_name = bundle("");
    let negative = types::Bundle {
        refresh_hint: -1,
        ..bundle("x")
    };
    let all = vec![bundle("td"), not_a_ca, no_certificate, no_name, negative];
    assert_eq!(create(&server, all.clone()).await, [Code::InvalidArgument; 5]);
    let set = BatchSetFederatedBundleRequest {
        bundle: all.clone(),
        output_mask: None,
    };
    let results = server
        .admin()
        .bundle()
        .batch_set_federated_bundle(set)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert!(
        results
            .iter()
            .all(|result| item_code(&result.status) == Code::InvalidArgument && result.bundle.is_none())
    );
    let update = BatchUpdateFederatedBundleRequest {
        bundle: all,
        input_mask: None,
        output_mask: None,
    };
    let results = server
        .admin()
        .bundle()
        .batch_update_federated_bundle(update)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert!(
        results
            .iter()
            .all(|result| item_code(&result.status) == Code::InvalidArgument)
    );
    assert_eq!(code(get(&server.admin(), "td").await), Code::InvalidArgument);
    assert_eq!(delete(&server, "td", Mode::Delete).await, Code::InvalidArgument);
    let unknown = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![],
        mode: 9,
    };
    assert_eq!(
        code(server.admin().bundle().batch_delete_federated_bundle(unknown).await),
        Code::InvalidArgument
    );
    assert_eq!(server.done().await, before);
}

#[tokio::test]
async fn the_three_ways_to_delete_a_bundle_that_entries_use() {
    let server = Server::new().await;
    create(&server, vec![bundle("x"), bundle("y")]).await;
    let parent = id("/spire/agent/echo/a");
    let dissociated = server
        .world
        .entry("a", &parent, |spec| spec.federates_with = vec!["x".parse().unwrap()])
        .await;
    let deleted = server
        .world
        .entry("b", &parent, |spec| spec.federates_with = vec!["y".parse().unwrap()])
        .await;
    assert_eq!(delete(&server, "x", Mode::Restrict).await, Code::FailedPrecondition);
    assert_eq!(delete(&server, "x", Mode::Dissociate).await, Code::Ok);
    assert_eq!(delete(&server, "y", Mode::Delete).await, Code::Ok);
    assert_eq!(delete(&server, "x", Mode::Restrict).await, Code::NotFound);
    let snapshot = server.world.committer.snapshot();
    assert!(snapshot.entry(&dissociated).unwrap().spec.federates_with.is_empty());
    assert!(snapshot.entry(&deleted).is_none());
}
