//! HTTP/2 turned against who speaks it.

use mayfly_tests::Lane;
use mayfly_tests::attack::http2::{self, Assault};
use mayfly_tests::attack::{Trial, withstands};

use super::Scene;

async fn each_face_withstands(attacks: &[(&str, Assault)]) {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (name, assault) in attacks {
        for (face, pid, honest) in scene.faces().await {
            withstands(async || {
                let trial = Trial::new(format!("{name}, {}", face.name()), pid, honest);
                trial.by_frames(&face, *assault).await
            })
            .await;
        }
    }
    scene.check_alive();
}

// Attack 1
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_end_their_connection_and_disturb_nobody() {
    each_face_withstands(&[
        ("1 rapid reset", http2::rapid_reset),
        ("1 reset after accept", http2::late_reset),
    ])
    .await;
}

// Attack 2
#[tokio::test(flavor = "multi_thread")]
async fn header_blocks_without_end_are_cut_off() {
    each_face_withstands(&[
        ("2 CONTINUATION of 16 KiB", http2::continuation_flood),
        ("2 empty CONTINUATION", http2::empty_continuations),
    ])
    .await;
}

// Attack 3
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_makes_us_reset_its_streams_is_sent_away() {
    each_face_withstands(&[
        ("3 window grows by nothing", http2::made_you_reset),
        ("3 data after the end", http2::data_after_end),
    ])
    .await;
}

// Attack 4
#[tokio::test(flavor = "multi_thread")]
async fn data_that_says_nothing_fills_no_queue() {
    each_face_withstands(&[
        ("4 empty DATA, not drained", http2::empty_data),
        ("4 DATA of one octet, not drained", http2::small_data),
        ("4 DATA of padding, not drained", http2::padded_data),
        ("4 PING and SETTINGS, answers not read", http2::unread_pongs),
    ])
    .await;
}
