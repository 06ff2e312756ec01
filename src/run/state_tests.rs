use proptest::prelude::*;

use super::*;
use Effect::{Finish, Kill, Start, Stop, Watch};
use Happened::{Begin, Busy, Cached, Canceled, Failed, Freed, Interrupt, Ran};

fn scheduler(needs: &[&[usize]], jobs: usize, keep_going: bool) -> Scheduler {
    let place: Vec<usize> = (0..needs.len()).collect();
    Scheduler::new(needs.iter().map(|inputs| inputs.to_vec()).collect(), &place, Policy { jobs, keep_going })
}

fn outcomes(scheduler: &Scheduler) -> Vec<StageOutcome> {
    (0..scheduler.states.len()).map(|stage| scheduler.outcome(stage).unwrap()).collect()
}

#[test]
fn an_empty_run_succeeds_at_once() {
    assert_eq!(scheduler(&[], 1, false).on(Begin), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn the_longest_chain_starts_first_and_the_file_settles_ties() {
    // 0 and 1 stand alone; 2 <- 3 <- 4 is a chain.
    let needs: [&[usize]; 5] = [&[], &[], &[], &[2], &[3]];
    let mut one = scheduler(&needs, 1, false);
    assert_eq!(one.on(Begin), [Start(2)]);
    assert_eq!(one.on(Ran(2)), [Start(3)]);
    assert_eq!(one.on(Ran(3)), [Start(0)], "4 ends a chain as 0 does, and 0 comes first in the file");
    let place = [4, 3, 2, 1, 0];
    let mut backwards =
        Scheduler::new(needs.iter().map(|i| i.to_vec()).collect(), &place, Policy { jobs: 2, keep_going: false });
    assert_eq!(backwards.on(Begin), [Start(2), Start(1)]);
}

#[test]
fn a_stage_that_another_process_computes_gives_its_place_away() {
    let mut run = scheduler(&[&[], &[]], 1, false);
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.on(Busy(0)), [Watch(0), Start(1)]);
    assert_eq!(run.on(Freed(0)), [], "the only place is taken");
    assert_eq!(run.on(Ran(1)), [Start(0)]);
    assert_eq!(run.on(Cached(0)), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn a_failure_lets_running_stages_end_and_starts_nothing() {
    let mut run = scheduler(&[&[], &[], &[], &[0]], 2, false);
    assert_eq!(run.on(Begin), [Start(0), Start(1)]);
    assert_eq!(run.on(Failed(0)), []);
    assert_eq!(run.on(Ran(1)), [Finish(RunOutcome::Failed)]);
    use StageOutcome as O;
    assert_eq!(outcomes(&run), [O::Failed, O::Ran, O::Skipped, O::Skipped]);
}

#[test]
fn an_interrupt_asks_once_and_kills_the_second_time() {
    let mut run = scheduler(&[&[], &[], &[0]], 1, false);
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.on(Interrupt), [Stop(0)]);
    assert_eq!(run.on(Interrupt), [Kill(0)]);
    assert_eq!(run.on(Canceled(0)), [Finish(RunOutcome::Interrupted)]);
    assert_eq!(outcomes(&run), [StageOutcome::Canceled; 3]);
}

#[test]
fn a_last_stage_that_ends_in_spite_of_the_interrupt_makes_the_run_succeed() {
    let mut run = scheduler(&[&[]], 1, false);
    run.on(Begin);
    run.on(Interrupt);
    assert_eq!(run.on(Ran(0)), [Finish(RunOutcome::Succeeded)]);
}

#[derive(Clone, Debug)]
struct Script {
    needs: Vec<Vec<usize>>,
    policy: Policy,
    answers: Vec<u8>,
    picks: Vec<prop::sample::Index>,
    interrupt_at: Option<usize>,
}

fn scripts() -> impl Strategy<Value = Script> {
    (1_usize..14).prop_flat_map(|count| {
        let needs: Vec<_> =
            (0..count).map(|stage| prop::collection::btree_set(0..stage.max(1), 0..=stage.min(3))).collect();
        (
            needs,
            1_usize..5,
            any::<bool>(),
            prop::collection::vec(0_u8..12, count),
            prop::collection::vec(any::<prop::sample::Index>(), 4 * count + 8),
            prop::option::weighted(0.3, 0..2 * count),
        )
            .prop_map(|(needs, jobs, keep_going, answers, picks, interrupt_at)| Script {
                needs: needs
                    .into_iter()
                    .enumerate()
                    .map(|(stage, inputs)| inputs.into_iter().filter(|&input| input < stage).collect())
                    .collect(),
                policy: Policy { jobs, keep_going },
                answers,
                picks,
                interrupt_at,
            })
    })
}

proptest! {
    /// Plays a whole run with an arbitrary order of answers and checks every promise of the scheduler on the way.
    #[test]
    fn every_run_keeps_its_promises(script in scripts()) {
        let count = script.needs.len();
        let place: Vec<usize> = (0..count).collect();
        let mut run = Scheduler::new(script.needs.clone(), &place, script.policy);
        let mut active: Vec<usize> = Vec::new();
        let mut watched: Vec<usize> = Vec::new();
        let mut worked = vec![0; count];
        let mut was_busy = vec![false; count];
        let mut failed = false;
        let mut interrupted = false;
        let mut finish = None;
        let mut queue = run.on(Begin);
        for step in 0.. {
            for effect in std::mem::take(&mut queue) {
                prop_assert!(finish.is_none(), "{effect:?} after the end");
                match effect {
                    Start(stage) => {
                        prop_assert!(!interrupted, "start after an interrupt");
                        prop_assert!(script.policy.keep_going || !failed, "start after a failure");
                        prop_assert!(!active.contains(&stage) && run.outcome(stage).is_none());
                        for &input in &script.needs[stage] {
                            let outcome = run.outcome(input);
                            prop_assert!(matches!(outcome, Some(StageOutcome::Ran | StageOutcome::Cached)), "{outcome:?}");
                        }
                        active.push(stage);
                        prop_assert!(active.len() <= script.policy.jobs);
                    }
                    Watch(stage) => watched.push(stage),
                    Stop(stage) | Kill(stage) => prop_assert!(interrupted && active.contains(&stage)),
                    Finish(outcome) => finish = Some(outcome),
                }
            }
            if finish.is_some() {
                break;
            }
            if script.interrupt_at == Some(step) {
                interrupted = true;
                queue = run.on(Interrupt);
                prop_assert_eq!(queue.iter().filter(|effect| matches!(effect, Stop(_))).count(), active.len());
                continue;
            }
            prop_assert!(active.len() + watched.len() > 0, "the run hangs");
            let pick = script.picks[step % script.picks.len()].index(active.len() + watched.len());
            if pick >= active.len() {
                let stage = watched.swap_remove(pick - active.len());
                queue = run.on(Freed(stage));
                continue;
            }
            let stage = active.swap_remove(pick);
            queue = run.on(match script.answers[stage] {
                0 | 1 if !was_busy[stage] => {
                    was_busy[stage] = true;
                    Busy(stage)
                }
                2 | 3 => {
                    failed = true;
                    worked[stage] += 1;
                    Failed(stage)
                }
                4 | 5 => Cached(stage),
                6.. if interrupted && script.answers[stage] > 8 => {
                    worked[stage] += 1;
                    Canceled(stage)
                }
                _ => {
                    worked[stage] += 1;
                    Ran(stage)
                }
            });
        }
        prop_assert!(active.is_empty(), "the run ended while {active:?} ran");
        prop_assert!(worked.iter().all(|&times| times <= 1));
        let outcomes = outcomes(&run);
        for (stage, inputs) in script.needs.iter().enumerate() {
            let no_result = |outcome: StageOutcome| !matches!(outcome, StageOutcome::Ran | StageOutcome::Cached);
            if inputs.iter().any(|&input| no_result(outcomes[input])) {
                prop_assert!(matches!(outcomes[stage], StageOutcome::Skipped | StageOutcome::Canceled));
            } else if script.policy.keep_going && !interrupted {
                prop_assert!(outcomes[stage] != StageOutcome::Skipped, "an independent stage was skipped");
            }
            if !interrupted {
                prop_assert!(outcomes[stage] != StageOutcome::Canceled);
            }
        }
        let expected = if outcomes.contains(&StageOutcome::Canceled) {
            RunOutcome::Interrupted
        } else if failed {
            RunOutcome::Failed
        } else {
            RunOutcome::Succeeded
        };
        prop_assert_eq!(finish, Some(expected));
    }
}
