//! What a forecast says is what is done.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::ObjectStore;
use proptest::{collection::vec, prelude::*};

use super::{GRACE, HOUR, Home, Kept, RETENTION, Rules, STRANGER, Step, UNLIKE, carry_out, turns::Seen};
use crate::{
    remote::RemoteRetention,
    store::{Pin, PinnedStage},
};

/// What somebody does before.
#[derive(Clone, Debug)]
enum Before {
    Step(Step),
    /// Pins a result on its own machine, in place of the one before, and tells nobody.
    Pin(usize),
    /// Lets it go there.
    Unpin,
}

/// Who does what, and how many hours pass then. The same result comes again and again, so that it is lost, displaced and brought back.
fn past() -> impl Strategy<Value = Vec<(usize, Before, u32)>> {
    let result = || prop_oneof![1 => Just(0), 1 => Just(2), 2 => Just(UNLIKE)];
    let before = prop_oneof![
        4 => (result(), any::<bool>())
            .prop_map(|(result, pinned)| Before::Step(Step::Give { results: vec![result], pinned })),
        3 => result().prop_map(Before::Pin),
        1 => Just(Before::Unpin),
        4 => Just(Before::Step(Step::Collect)),
    ];
    vec((0..3_usize, before, prop_oneof![3 => 0..3_u32, 1 => 20..60_u32]), 2..14)
}

fn retention() -> impl Strategy<Value = RemoteRetention> {
    let older_than = prop_oneof![3 => Just(Duration::ZERO), 1 => Just(HOUR * 10)];
    let forget_after = prop_oneof![Just(Duration::MAX), Just(HOUR * 10)];
    let grace = prop_oneof![3 => Just(GRACE), 1 => Just(Duration::ZERO)];
    let max_size = prop_oneof![3 => Just(None), 1 => Just(Some(1_u64 << 19)), 1 => Just(Some(30))];
    (0..3_usize, older_than, forget_after, grace, max_size).prop_map(
        |(keep_runs, older_than, forget_after, grace, max_size)| RemoteRetention {
            keep_runs,
            older_than,
            forget_after,
            grace,
            max_size,
            ..RETENTION
        },
    )
}

fn do_before(before: &Before, home: &Home, seen: &Seen, rules: &Rules) {
    match before {
        Before::Step(step) => carry_out(step, home, seen, rules, &mut Kept::default()).unwrap(),
        Before::Pin(number) => {
            let (name, graph) = ("kept".to_owned(), "graph.ron".to_owned());
            let stage = PinnedStage { name: number.to_string(), artifact: home.records[*number].artifact };
            home.store.pin(&Pin { name, graph, time: Timestamp::UNIX_EPOCH, stages: vec![stage] }).unwrap();
        }
        Before::Unpin => drop(home.store.unpin("kept").unwrap()),
    }
}

/// All objects, and what tells each write from others.
fn objects(seen: &Seen) -> Vec<(String, Option<String>)> {
    let all = seen.inner.list(None).map_ok(|meta| (meta.location.to_string(), meta.e_tag)).try_collect::<Vec<_>>();
    let mut all = futures_util::FutureExt::now_or_never(all).unwrap().unwrap();
    all.sort();
    all
}

#[test]
fn what_a_forecast_says_is_what_is_done() {
    let homes: Vec<Home> = (0..3).map(Home::new).collect();
    let (revived, removed) = (Mutex::new(0), Mutex::new(0));
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(past in past(), before in retention(), retention in retention(), keyed in any::<bool>())| {
        homes.iter().for_each(Home::forget);
        let members = || homes[..STRANGER].iter().map(|home| home.public).collect();
        let rules = Rules { retention: before, trusted: keyed.then(members) };
        let shared = Seen::default();
        // A forecast goes by the clock of its machine, which is the server's when it comes to that.
        // No two things happen at the same time: which of two equally old runs is let go first does not matter.
        let took: Vec<Duration> = past.iter().map(|(.., hours)| HOUR * *hours + Duration::from_secs(1)).collect();
        let began = SystemTime::now() - took.iter().sum::<Duration>();
        shared.turns.state().now = began.duration_since(UNIX_EPOCH).unwrap();
        for ((who, before, _), took) in past.iter().zip(took) {
            let seen = Seen { past: Some(*who), ..shared.clone() };
            do_before(before, &homes[*who], &seen, &rules);
            shared.turns.state().now += took;
        }
        let collect = |dry_run: bool| {
            let remote = shared.remote(homes[0].keys(rules.trusted.as_deref()));
            let collected = remote.collect(&homes[0].store, &RemoteRetention { dry_run, ..retention });
            collected.map_err(|error| error.to_string())
        };
        let there = objects(&shared);
        let forecast = collect(true);
        prop_assert_eq!(objects(&shared), there);
        let done = collect(false);
        prop_assert_eq!(&forecast, &done);
        if let Ok((done, _)) = done {
            *revived.lock().unwrap() += usize::from(done.revived > 0);
            *removed.lock().unwrap() += usize::from(done.removed.results > 0);
        }
    });
    let (revived, removed) = (revived.into_inner().unwrap(), removed.into_inner().unwrap());
    assert!(revived > 0 && removed > 0, "{revived} of the cases bring something back, {removed} remove something");
}
