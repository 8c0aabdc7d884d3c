use axum::body::to_bytes;
use axum::http::Request;
use mayfly_model::KeyClass;
use tower::Service;

use super::*;
use crate::app::checkpoints::PublishedLists;
use crate::app::testing::World;

async fn get_page(router: &mut Router, path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::get(path);
    let request = match tag {
        Some(tag) => request.header(header::IF_NONE_MATCH, tag),
        None => request,
    };
    let answer = router
        .call(request.body(axum::body::Body::empty()).unwrap())
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    (
        head.status,
        head.headers,
        to_bytes(body, 1 << 20).await.unwrap().to_vec(),
    )
}

#[tokio::test]
async fn lists_are_there_by_the_key_identifier_and_caches_need_not_read_them_twice() {
    let world = World::new().await;
    let published = PublishedLists::default();
    let (committer, keys, clock) = (world.committer.clone(), world.keys.clone(), world.clock.clone());
    let lists = Arc::new(RevocationLists::new(committer, keys, clock, published, || {}));
    let mut router = revocation_lists(lists.clone());
    let (status, _, body) = get_page(&mut router, "/crl", None).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    lists.pass().await.unwrap();

    let state = world.committer.snapshot();
    let task = &state.active_authority(KeyClass::Task).unwrap().id;
    let (_, _, body) = get_page(&mut router, "/crl", None).await;
    let names = String::from_utf8(body).unwrap();
    assert!(
        names.contains(&format!("{task}.crl task\n")) && names.lines().count() == 2,
        "{names}"
    );

    let path = format!("/crl/{task}.crl");
    let (status, headers, body) = get_page(&mut router, &path, None).await;
    assert_eq!(
        (status, headers[header::CONTENT_TYPE].to_str().unwrap()),
        (StatusCode::OK, "application/pkix-crl")
    );
    assert_eq!(body, lists.current().of(task).unwrap().der);
    assert!(
        headers[header::CACHE_CONTROL]
            .to_str()
            .unwrap()
            .starts_with("public, max-age=")
    );
    let tag = headers[header::ETAG].to_str().unwrap();
    let (status, _, body) = get_page(&mut router, &path, Some(&format!("\"other\", {tag}"))).await;
    assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));

    let base = &state.active_authority(KeyClass::Base).unwrap().id;
    for none in [
        format!("/crl/{base}.crl"),
        format!("/crl/{task}"),
        "/crl/..%2f.crl".into(),
    ] {
        assert_eq!(
            get_page(&mut router, &none, None).await.0,
            StatusCode::NOT_FOUND,
            "{none}"
        );
    }
}
