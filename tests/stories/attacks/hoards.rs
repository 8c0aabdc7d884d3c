//! Too much of what is allowed: streams that are kept, answers that are not read, connections again and again, lists.

use std::sync::Arc;

use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, ListEntriesRequest};
use mayfly_tests::attack::{Stranger, Trial, tls, withstands};
use mayfly_tests::frames::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PREFACE, frame, setting,
};
use mayfly_tests::{Admin, EntrySpec, Lane, effort};

use super::{ATTACKER, Scene};

/// Streams on each connection of a hoard.
const STREAMS: u32 = 100;

/// Opens connections, each with a hundred calls, and holds them.
fn hoard(stranger: &mut Stranger, opening: &[u8], running: &dyn Fn() -> bool) -> u64 {
    let mut held = vec![];
    for _ in 0..tls::HELD {
        if !running() {
            break;
        }
        if let Ok(mut connection) = stranger.dial() {
            connection.send(opening);
            held.push(connection);
        }
    }
    tls::wait(running);
    held.len() as u64
}

fn streams(window: u32, block: &[u8], body: Option<&[u8]>) -> Vec<u8> {
    let mut octets = [PREFACE.to_vec(), setting(INITIAL_WINDOW_SIZE, window)].concat();
    for stream in (1..2 * STREAMS).step_by(2) {
        octets.extend(frame(HEADERS, END_HEADERS, stream, block));
        if let Some(body) = body {
            octets.extend(frame(DATA, END_STREAM, stream, body));
        }
    }
    octets
}

// Attack 20
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_thousand_connections_that_keep_streams_and_read_nothing_keeps_nobody_else_waiting() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    // The attacker has identities too, so that there is much to tell it.
    for n in 0..10 {
        let spec = EntrySpec::new(
            &format!("/hoarder/{n}"),
            scene.agent.id(),
            &[&format!("unix:uid:{ATTACKER}")],
        );
        scene.server.admin().create(&spec).await;
    }
    for (face, pid, honest) in scene.faces().await {
        let plain = face.plain_call();
        // The server ends the streaming call that strangers may make by a status, which needs no room.
        let no_room = if face.name() == "agent" {
            streams(0, &face.streaming_call(), None)
        } else {
            streams(0, &plain, Some(&frames::EMPTY_MESSAGE))
        };
        for (name, opening) in [
            ("20 requests that do not end", streams(65_535, &plain, None)),
            ("20 answers that have no room", no_room),
            ("20 slow readers", streams(1, &plain, Some(&frames::EMPTY_MESSAGE))),
        ] {
            withstands(async || {
                let opening = Arc::new(opening.clone());
                Trial::new(format!("{name}, {}", face.name()), pid, honest)
                    .in_one_turn()
                    .by_strangers(&face, move |stranger, running| hoard(stranger, &opening, running))
                    .await
            })
            .await;
        }
    }
    scene.check_alive();
}

// Attack 21
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_connections_of_one_peer_delays_itself() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (face, pid, honest) in scene.faces().await {
        withstands(async || {
            let call = [
                PREFACE.to_vec(),
                frame(HEADERS, END_HEADERS, 1, &face.plain_call()),
                frame(DATA, END_STREAM, 1, &frames::EMPTY_MESSAGE),
            ]
            .concat();
            let trial = Trial::new(format!("21 connect, call, connect again, {}", face.name()), pid, honest);
            let again = move |stranger: &mut Stranger, _: &dyn Fn() -> bool| {
                stranger.dial().map_or(0, |mut connection| {
                    connection.send(&call);
                    connection.outcome(1);
                    1
                })
            };
            trial.attackers(effort(32, 128)).by_strangers(&face, again).await
        })
        .await;
    }
    scene.check_alive();
}

// Attack 22
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_a_caller_states_set_no_memory_aside() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (face, pid, honest) in scene.faces().await {
        // Four GiB are announced, and some of it comes.
        let announced = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 1000]].concat();
        let opening = [
            PREFACE.to_vec(),
            frame(HEADERS, END_HEADERS, 1, &face.plain_call()),
            frame(DATA, 0, 1, &announced),
        ]
        .concat();
        withstands(async || {
            let opening = opening.clone();
            let trial = Trial::new(format!("22 a message of 4 GiB, {}", face.name()), pid, honest);
            let strike = move |stranger: &mut Stranger, _: &dyn Fn() -> bool| {
                stranger.dial().map_or(0, |mut connection| {
                    connection.send(&opening);
                    connection.outcome(1);
                    1
                })
            };
            trial.by_strangers(&face, strike).await
        })
        .await;
    }
    scene.check_alive();
}

// Attack 22
#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_whatever_is_asked_for_and_delay_no_agent() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    let admin = scene.server.admin();
    let count = effort(5_000, 50_000);
    for thousand in 0..count / 1_000 {
        let entries = (0..1_000).map(|n| {
            EntrySpec::new(
                &format!("/list/{thousand}/{n}"),
                "spiffe://example.org/node/nowhere",
                &["unix:uid:1"],
            )
            .to_wire()
        });
        let request = BatchCreateEntryRequest {
            entries: entries.collect(),
            output_mask: None,
        };
        admin.entries().batch_create_entry(request).await.unwrap();
    }
    let [_, (_, pid, honest)] = scene.faces().await;
    let (runtime, socket) = (tokio::runtime::Handle::current(), scene.server.socket());
    withstands(async || {
        let (runtime, socket) = (runtime.clone(), socket.clone());
        Trial::new(format!("22 pages of 2^31 of {count} entries"), pid, honest)
            .by(move || {
                let (runtime, socket) = (runtime.clone(), socket.clone());
                let _inside = runtime.enter();
                let admin = Admin::new(&socket);
                let runtime = runtime.clone();
                move |_: &dyn Fn() -> bool| {
                    let list = async {
                        let request = ListEntriesRequest {
                            page_size: i32::MAX,
                            ..Default::default()
                        };
                        admin.entries().list_entries(request).await.unwrap().into_inner()
                    };
                    let page = runtime.block_on(list);
                    assert_eq!(page.entries.len(), 1_000);
                    assert!(!page.next_page_token.is_empty());
                    1
                }
            })
            .await
    })
    .await;
    scene.check_alive();
}
