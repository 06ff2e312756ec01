//! Servers that are slow, busy, refuse, or lose their bucket in the middle: a run goes on with what it has, and says why.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;

use crate::{
    bucket_server::{SECRET_KEY, Treat},
    place::{CHAIN, Team},
};

#[test]
fn a_slow_server_is_waited_for() {
    let Some(team) = Team::behind(|_| Treat::Late(Duration::from_millis(20))) else { return };
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    assert_eq!(first.run(&[]).event("remote-summary", "")["stored"], 3);
    assert_eq!(second.run(&[]).with_outcome("cached"), ["large", "many", "one"]);
}

#[test]
fn a_server_that_refuses_in_the_middle_loses_no_result_and_is_understood() {
    let cases = [
        (400, "ExpiredToken", "the session token has expired: get new credentials, and start again"),
        (403, "RequestTimeTooSkewed", "the clock of this machine and that of the server differ by too much"),
        (404, "NoSuchBucket", "there is no such bucket, or it is no longer there"),
        (403, "InvalidAccessKeyId", "the server does not know the access key"),
    ];
    for (status, code, meaning) in cases {
        // From the beginning, after the index was read, and while results are given.
        for well in [0, 3, 7] {
            let count = AtomicUsize::new(0);
            let team = Team::behind(move |_| {
                if count.fetch_add(1, Ordering::SeqCst) < well { Treat::Well } else { Treat::Deny(status, code) }
            });
            let Some(team) = team else { return };
            let machine = team.machine(CHAIN);
            let ran = machine.run(&[]);
            assert_eq!((ran.code, machine.here().len()), (Some(0), 3), "{code} after {well}: {ran:#?}");
            let told =
                ran.events.iter().any(|event| event.to_string().contains(meaning)) || ran.stderr.contains(meaning);
            assert!(told, "{code} after {well}: {ran:#?}");
            assert!(!format!("{ran:?}").contains(SECRET_KEY), "{code} after {well}: {ran:#?}");
            assert_eq!(machine.holding(SECRET_KEY), Vec::<PathBuf>::new(), "{code} after {well}");
            assert_ne!(ran.event("remote-summary", "")["failed"], 0, "{code} after {well}: {ran:#?}");
            // It is not asked over and over again.
            assert!(team.requests().unwrap() < well + 20, "{code} after {well}");
        }
    }
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let count = AtomicUsize::new(0);
    let team =
        Team::behind(
            move |_| {
                if count.fetch_add(1, Ordering::SeqCst) < 2 { Treat::Well } else { Treat::Deny(503, "SlowDown") }
            },
        );
    let Some(team) = team else { return };
    let machine = team.machine(&CHAIN[..1]);
    machine.run_alone();
    let (code, pushed) = machine.store("push");
    let message = pushed["failed"][0]["message"].as_str().unwrap();
    assert!(code == Some(1) && message.contains("the server was too busy each time that it was asked"), "{pushed}");
    // Each request is made once, and repeated six times.
    assert_eq!(team.requests().unwrap() % 7, 2, "{pushed}");
    assert_eq!(machine.here(), ["one"]);
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_was() {
    // The other piece is shorter than that.
    let team = Team::behind(|request| {
        let is_first =
            request.target.contains("/objects/") && request.range.as_ref().is_some_and(|range| range.start == 0);
        if request.method == "GET" && is_first { Treat::Cut(3_000_000) } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    first.run_alone();
    first.store("push");
    team.requests();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(3)), "{pulled}");
    assert_eq!(first.place.result("large", "large"), second.place.result("large", "large"));
    // Two pieces, and the rest of one of them.
    const PIECE: u64 = 8 << 20;
    let requests = team.proxy.as_ref().unwrap().take().into_iter();
    let ranges = requests.filter(|request| request.target.contains("/objects/")).filter_map(|request| request.range);
    let (begins, goes_on): (Vec<_>, Vec<_>) = ranges.partition(|range| range.start % PIECE == 0);
    assert_eq!((begins.len(), goes_on.len()), (2, 1), "{begins:?} {goes_on:?}");
    let came = goes_on[0].start % PIECE;
    assert!((1..3_000_000).contains(&came) && begins.iter().any(|range| range.end == goes_on[0].end), "{goes_on:?}");
}
