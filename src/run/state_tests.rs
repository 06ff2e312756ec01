use proptest::prelude::*;

use super::*;
use Effect::{Finish, Kill, Rest, Start, Stop, Watch};
use Happened::{Begin, Busy, Cached, Canceled, Failed, Faltered, Freed, Interrupt, Ran, Rested, Split, Taken, Worked};

/// Stages that read others, take an equal time and ask for nothing.
fn tasks(needs: &[&[usize]]) -> Vec<Task> {
    let task = |(place, needs): (usize, &&[usize])| Task { needs: needs.to_vec(), place, weight: 1, ..Task::default() };
    needs.iter().enumerate().map(task).collect()
}

fn scheduler(needs: &[&[usize]], jobs: usize, keep_going: bool) -> Scheduler {
    Scheduler::new(tasks(needs), &Capacity::default(), Rules { jobs, keep_going })
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
    let mut backwards = tasks(&needs);
    for task in &mut backwards {
        task.place = 4 - task.place;
    }
    let mut backwards = Scheduler::new(backwards, &Capacity::default(), Rules { jobs: 2, keep_going: false });
    assert_eq!(backwards.on(Begin), [Start(2), Start(1)]);
}

#[test]
fn the_way_that_takes_longest_counts_and_not_the_one_with_most_stages() {
    let mut slow = tasks(&[&[], &[0], &[1], &[]]);
    slow[3].weight = 10;
    let mut run = Scheduler::new(slow, &Capacity::default(), Rules { jobs: 1, keep_going: false });
    assert_eq!(run.on(Begin), [Start(3)]);
}

#[test]
fn what_a_stage_had_is_free_when_it_has_worked_and_what_needs_it_waits_until_it_is_recorded() {
    let mut run = scheduler(&[&[], &[], &[0]], 1, false);
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.on(Worked(0)), [Start(1)]);
    assert_eq!(run.on(Worked(1)), []);
    assert_eq!(run.on(Ran(0)), [Start(2)]);
    assert_eq!(run.on(Ran(2)), []);
    assert_eq!(run.on(Ran(1)), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn what_a_worker_has_begun_by_itself_runs_in_the_place_of_what_it_has_done() {
    let capacity = Capacity { amounts: vec![2], devices: None };
    let begun = || {
        let mut equal = tasks(&[&[], &[], &[], &[]]);
        for task in &mut equal {
            task.asks = vec![1];
        }
        let mut run = Scheduler::new(equal, &capacity, Rules { jobs: 2, keep_going: false });
        assert_eq!(run.on(Begin), [Start(0), Start(1)]);
        // Whose worker that was is not known yet.
        assert_eq!(run.on(Taken(2)), []);
        run
    };
    let mut run = begun();
    assert_eq!(run.on(Worked(1)), []);
    assert_eq!(run.on(Worked(2)), [Start(3)]);
    assert_eq!(run.on(Taken(3)), [], "it is started already");
    for stage in 0..3 {
        assert_eq!(run.on(Ran(stage)), []);
    }
    assert_eq!(run.on(Ran(3)), [Finish(RunOutcome::Succeeded)]);

    let mut run = begun();
    assert_eq!(run.on(Interrupt), [Stop(0), Stop(1), Stop(2)]);
    assert_eq!(run.on(Taken(3)), [], "it is over");
    assert_eq!(run.outcome(3), Some(StageOutcome::Canceled));

    let mut run = begun();
    assert_eq!(run.on(Failed(0)), []);
    assert_eq!((run.outcome(2), run.outcome(3)), (None, Some(StageOutcome::Skipped)));
}

#[test]
fn what_cannot_be_recorded_has_another_attempt() {
    let mut retried = tasks(&[&[]]);
    retried[0].retries = 1;
    let mut run = Scheduler::new(retried, &Capacity::default(), Rules { jobs: 1, keep_going: false });
    run.on(Begin);
    run.on(Worked(0));
    assert_eq!(run.on(Faltered(0)), [Rest(0)]);
    assert_eq!(run.on(Rested(0)), [Start(0)]);
    run.on(Worked(0));
    assert_eq!(run.on(Faltered(0)), [Finish(RunOutcome::Failed)]);
}

#[test]
fn parts_run_in_order_on_their_stages_way_and_then_the_stage_again() {
    // 0 <- 1 is a chain, 2 stands alone.
    let mut run = scheduler(&[&[], &[0], &[]], 2, false);
    assert_eq!(run.on(Begin), [Start(0), Start(2)]);
    assert_eq!(run.on(Split(0, 3)), [Start(3)]);
    assert_eq!(run.on(Ran(2)), [Start(4)]);
    assert_eq!(run.on(Cached(4)), [Start(5)]);
    assert_eq!(run.on(Busy(5)), [Watch(5)]);
    assert_eq!(run.on(Ran(3)), []);
    assert_eq!(run.on(Freed(5)), [Start(5)]);
    assert_eq!(run.on(Cached(5)), [Start(0)]);
    assert_eq!(run.on(Ran(0)), [Start(1)]);
    assert_eq!(run.on(Ran(1)), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn parts_that_take_less_than_their_stage_run_beside_each_other() {
    let mut split = tasks(&[&[], &[]]);
    for task in &mut split {
        (task.asks, task.part_asks) = (vec![2], vec![1]);
    }
    let capacity = Capacity { amounts: vec![2], devices: None };
    let mut run = Scheduler::new(split, &capacity, Rules { jobs: 4, keep_going: false });
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.on(Split(0, 3)), [Start(2), Start(3)]);
    assert_eq!(run.on(Ran(2)), [Start(4)]);
    // The whole stage takes all again, to join them, and so does its neighbour.
    assert_eq!(run.on(Ran(3)), []);
    assert_eq!(run.on(Ran(4)), [Start(0)]);
    assert_eq!(run.on(Ran(0)), [Start(1)]);
}

#[test]
fn a_stage_whose_parts_are_all_there_is_started_again_at_once() {
    let mut run = scheduler(&[&[]], 1, false);
    run.on(Begin);
    assert_eq!(run.on(Split(0, 0)), [Start(0)]);
    assert_eq!(run.on(Ran(0)), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn a_part_that_fails_takes_its_stage_with_it_when_its_neighbours_are_done() {
    for keep_going in [false, true] {
        let mut split = tasks(&[&[], &[0]]);
        split[0].retries = 1;
        let mut run = Scheduler::new(split, &Capacity::default(), Rules { jobs: 2, keep_going });
        run.on(Begin);
        assert_eq!(run.on(Split(0, 4)), [Start(2), Start(3)]);
        assert_eq!(run.on(Faltered(2)), [Rest(2), Start(4)]);
        assert_eq!(run.on(Rested(2)), []);
        // It starts before those that have not begun, also where these still would.
        assert_eq!(run.on(Ran(3)), [Start(2)]);
        let next: &[Effect] = if keep_going { &[Start(5)] } else { &[] };
        assert_eq!(run.on(Faltered(2)), next);
        assert_eq!(run.outcome(0), None);
        let last = run.on(Ran(4));
        let last = if keep_going { run.on(Ran(5)) } else { last };
        assert_eq!(last, [Finish(RunOutcome::Failed)]);
        assert_eq!((run.outcome(0), run.outcome(1)), (Some(StageOutcome::Failed), Some(StageOutcome::Skipped)));
        assert_eq!(run.failures(2), 2);
    }
}

#[test]
fn parts_go_on_when_another_stage_fails_and_stop_when_the_run_does() {
    let mut run = scheduler(&[&[], &[], &[]], 2, false);
    run.on(Begin);
    assert_eq!(run.on(Split(0, 3)), [Start(3)]);
    // The stage has begun, as one that computes all in one piece has.
    assert_eq!(run.on(Failed(1)), [Start(4)]);
    assert_eq!(run.outcome(2), Some(StageOutcome::Skipped));
    assert_eq!(run.on(Interrupt), [Stop(3), Stop(4)]);
    assert_eq!(run.outcome(5), Some(StageOutcome::Canceled));
    assert_eq!(run.on(Ran(3)), []);
    assert_eq!(run.on(Canceled(4)), [Finish(RunOutcome::Interrupted)]);
    assert_eq!(run.outcome(0), Some(StageOutcome::Canceled));
    // A split that comes after the interrupt starts nothing.
    let mut late = scheduler(&[&[]], 1, false);
    late.on(Begin);
    late.on(Interrupt);
    assert_eq!(late.on(Split(0, 2)), [Finish(RunOutcome::Interrupted)]);
}

#[test]
fn what_fits_runs_and_devices_are_lent_one_by_one() {
    // Resource 0 is an amount of 4, resource 1 are 2 devices.
    let capacity = Capacity { amounts: vec![4, 2], devices: Some(1) };
    let asks = [[3, 1], [2, 0], [1, 1], [0, 2]];
    let mut wanting = tasks(&[&[], &[], &[], &[]]);
    wanting.iter_mut().zip(asks).for_each(|(task, asks)| task.asks = asks.to_vec());
    let mut run = Scheduler::new(wanting, &capacity, Rules { jobs: 4, keep_going: false });
    assert_eq!(run.on(Begin), [Start(0), Start(2)], "1 finds too little of the amount, 3 too few devices");
    assert_eq!((run.devices(0), run.devices(2)), ([0].as_slice(), [1].as_slice()));
    assert_eq!(run.on(Ran(0)), [Start(1)], "3 still finds one device only");
    assert_eq!(run.on(Ran(2)), [Start(3)]);
    assert_eq!(run.devices(3), [0, 1]);
    assert_eq!(run.on(Ran(3)), []);
    assert_eq!(run.on(Ran(1)), [Finish(RunOutcome::Succeeded)]);
}

#[test]
fn a_stage_that_falters_is_tried_again_as_often_as_it_says() {
    let mut patient = tasks(&[&[], &[0], &[]]);
    patient[0].retries = 2;
    let mut run = Scheduler::new(patient, &Capacity::default(), Rules { jobs: 1, keep_going: false });
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.on(Faltered(0)), [Rest(0), Start(2)], "its place is free in the meantime");
    assert_eq!(run.on(Rested(0)), []);
    assert_eq!(run.on(Failed(2)), [Start(0)], "after a failure elsewhere, what has begun goes on");
    assert_eq!(run.on(Faltered(0)), [Rest(0)]);
    assert_eq!(run.on(Rested(0)), [Start(0)]);
    assert_eq!(run.on(Faltered(0)), [Finish(RunOutcome::Failed)]);
    use StageOutcome as O;
    assert_eq!(outcomes(&run), [O::Failed, O::Skipped, O::Failed]);
}

#[test]
fn a_failure_that_would_come_again_is_not_tried_again() {
    let mut patient = tasks(&[&[]]);
    patient[0].retries = 2;
    let mut run = Scheduler::new(patient, &Capacity::default(), Rules { jobs: 1, keep_going: false });
    run.on(Begin);
    assert_eq!(run.on(Failed(0)), [Finish(RunOutcome::Failed)]);
}

#[test]
fn an_interrupt_ends_the_pause_between_attempts() {
    let mut patient = tasks(&[&[]]);
    patient[0].retries = 2;
    let mut run = Scheduler::new(patient, &Capacity::default(), Rules { jobs: 1, keep_going: false });
    run.on(Begin);
    assert_eq!(run.on(Faltered(0)), [Rest(0)]);
    assert_eq!(run.on(Interrupt), [Finish(RunOutcome::Interrupted)]);
    assert_eq!(run.on(Rested(0)), []);
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
fn a_stage_that_another_process_has_taken_over_is_watched_although_its_work_is_done() {
    let mut run = scheduler(&[&[]], 1, false);
    run.on(Begin);
    run.on(Worked(0));
    assert_eq!(run.on(Busy(0)), [Watch(0)]);
    assert_eq!(run.on(Freed(0)), [Start(0)]);
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

/// A graph, what there is, and what will come of each stage.
#[derive(Clone, Debug)]
struct Script {
    tasks: Vec<Task>,
    capacity: Capacity,
    rules: Rules,
    /// How each stage ends; if it has a result, how that is recorded: at once, later, or not at all; and whether its worker then begins the
    /// next stage by itself.
    answers: Vec<(u8, u8, bool)>,
    picks: Vec<prop::sample::Index>,
    interrupt_at: Option<usize>,
}

fn scripts() -> impl Strategy<Value = Script> {
    (1_usize..14, prop::collection::vec(1_u64..5, 3)).prop_flat_map(|(count, amounts)| {
        let tasks: Vec<_> = (0..count)
            .map(|stage| {
                let needs = prop::collection::btree_set(0..stage.max(1), 0..=stage.min(3));
                let asks: Vec<_> = amounts.iter().map(|&total| 0..=total).collect();
                (needs, 0_u64..4, asks, 0_u32..3).prop_map(move |(needs, weight, asks, retries)| Task {
                    needs: needs.into_iter().filter(|&input| input < stage).collect(),
                    place: (stage * 5) % 7,
                    weight,
                    asks,
                    part_asks: Vec::new(),
                    retries,
                })
            })
            .collect();
        let capacity = Capacity { amounts, devices: Some(2) };
        (
            (tasks, Just(capacity)),
            1_usize..5,
            any::<bool>(),
            prop::collection::vec((0_u8..14, 0_u8..3, any::<bool>()), count),
            prop::collection::vec(any::<prop::sample::Index>(), 4 * count + 8),
            prop::option::weighted(0.3, 0..2 * count),
        )
            .prop_map(|((tasks, capacity), jobs, keep_going, answers, picks, interrupt_at)| Script {
                tasks,
                capacity,
                rules: Rules { jobs, keep_going },
                answers,
                picks,
                interrupt_at,
            })
    })
}

/// What the test itself knows of a run, told by nothing but the effects.
#[derive(Default)]
struct Seen {
    active: Vec<usize>,
    watched: Vec<usize>,
    resting: Vec<usize>,
    /// Those whose result is being recorded.
    recording: Vec<usize>,
    attempts: Vec<u32>,
    was_busy: Vec<bool>,
    failed: bool,
    interrupted: bool,
    finish: Option<RunOutcome>,
    effects: Vec<Effect>,
}

impl Script {
    /// Plays a whole run with an arbitrary order of answers and checks every promise of the scheduler on the way.
    fn play(&self) -> Result<(Seen, Vec<StageOutcome>), TestCaseError> {
        let count = self.tasks.len();
        let mut run = Scheduler::new(self.tasks.clone(), &self.capacity, self.rules);
        let mut seen = Seen { attempts: vec![0; count], was_busy: vec![false; count], ..Seen::default() };
        let mut queue = run.on(Begin);
        for step in 0.. {
            for effect in std::mem::take(&mut queue) {
                self.check(effect, &run, &mut seen)?;
            }
            self.check_lease(&run, &seen)?;
            if seen.finish.is_some() {
                prop_assert!(seen.active.is_empty(), "the run ended while {:?} ran", seen.active);
                return Ok((seen, outcomes(&run)));
            }
            if self.interrupt_at == Some(step) {
                seen.interrupted = true;
                seen.watched.clear();
                seen.resting.clear();
                queue = run.on(Interrupt);
                let stops = queue.iter().filter(|effect| matches!(effect, Stop(_))).count();
                prop_assert_eq!(stops, seen.active.len());
                continue;
            }
            self.check_nothing_idles(&run, &seen)?;
            let waiting = seen.active.len() + seen.watched.len() + seen.resting.len() + seen.recording.len();
            prop_assert!(waiting > 0, "the run hangs");
            let mut pick = self.picks[step % self.picks.len()].index(waiting);
            if pick < seen.watched.len() {
                queue = run.on(Freed(seen.watched.swap_remove(pick)));
                continue;
            }
            pick -= seen.watched.len();
            if pick < seen.resting.len() {
                queue = run.on(Rested(seen.resting.swap_remove(pick)));
                continue;
            }
            pick -= seen.resting.len();
            if pick < seen.recording.len() {
                let stage = seen.recording.swap_remove(pick);
                let recorded = self.answers[stage].1 == 1;
                seen.failed |= !recorded && (seen.interrupted || seen.attempts[stage] > self.tasks[stage].retries);
                queue = run.on(if recorded { Ran(stage) } else { Faltered(stage) });
                continue;
            }
            let stage = seen.active.swap_remove(pick - seen.recording.len());
            let answer = self.answer(stage, &mut seen);
            if self.answers[stage].2
                && matches!(answer, Worked(_) | Ran(_))
                && let Some(next) = Self::goes_on(stage, &run)
            {
                prop_assert_eq!(run.on(Taken(next)), []);
                seen.active.push(next);
                seen.attempts[next] += 1;
            }
            queue = run.on(answer);
        }
        unreachable!()
    }

    fn answer(&self, stage: usize, seen: &mut Seen) -> Happened {
        match self.answers[stage].0 {
            0 | 1 if !seen.was_busy[stage] => {
                seen.was_busy[stage] = true;
                // It never ran.
                seen.attempts[stage] -= 1;
                Busy(stage)
            }
            2 => {
                seen.failed = true;
                Failed(stage)
            }
            // Some do better the second time.
            3 | 4 | 12 if self.answers[stage].0 != 12 || seen.attempts[stage] < 2 => {
                seen.failed |= seen.attempts[stage] > self.tasks[stage].retries || seen.interrupted;
                Faltered(stage)
            }
            5 => Cached(stage),
            9.. if seen.interrupted => Canceled(stage),
            _ if self.answers[stage].1 > 0 => {
                seen.recording.push(stage);
                Worked(stage)
            }
            _ => Ran(stage),
        }
    }

    /// What starts next, if it takes no more than a stage that is done, and no device.
    fn goes_on(stage: usize, run: &Scheduler) -> Option<usize> {
        let next = run.next().next().filter(|&next| !run.asks_for_devices(next))?;
        let is_enough = run.asks(next).iter().zip(run.asks(stage)).all(|(asks, has)| asks <= has);
        is_enough.then_some(next)
    }

    fn check(&self, effect: Effect, run: &Scheduler, seen: &mut Seen) -> Result<(), TestCaseError> {
        prop_assert!(seen.finish.is_none(), "{effect:?} after the end");
        seen.effects.push(effect);
        match effect {
            Start(stage) => {
                prop_assert!(!seen.interrupted, "start after an interrupt");
                let has_begun = seen.attempts[stage] > 0;
                prop_assert!(self.rules.keep_going || !seen.failed || has_begun, "start after a failure");
                prop_assert!(!seen.active.contains(&stage) && run.outcome(stage).is_none());
                for &input in &self.tasks[stage].needs {
                    let outcome = run.outcome(input);
                    prop_assert!(matches!(outcome, Some(StageOutcome::Ran | StageOutcome::Cached)), "{outcome:?}");
                }
                seen.active.push(stage);
                seen.attempts[stage] += 1;
                prop_assert!(seen.attempts[stage] <= self.tasks[stage].retries + 1);
                prop_assert!(seen.active.len() <= self.rules.jobs);
            }
            Watch(stage) => seen.watched.push(stage),
            Rest(stage) => seen.resting.push(stage),
            Stop(stage) | Kill(stage) => prop_assert!(seen.interrupted && seen.active.contains(&stage)),
            Finish(outcome) => seen.finish = Some(outcome),
        }
        Ok(())
    }

    /// No resource is exceeded, and no device lent twice.
    fn check_lease(&self, run: &Scheduler, seen: &Seen) -> Result<(), TestCaseError> {
        for (resource, &total) in self.capacity.amounts.iter().enumerate() {
            let taken: u64 = seen.active.iter().map(|&stage| self.tasks[stage].asks[resource]).sum();
            prop_assert!(taken <= total, "{taken} of {total} of resource {resource}");
        }
        let mut devices = BTreeSet::new();
        for &stage in &seen.active {
            prop_assert_eq!(run.devices(stage).len() as u64, self.tasks[stage].asks[2]);
            for &device in run.devices(stage) {
                prop_assert!((device as u64) < self.capacity.amounts[2] && devices.insert(device));
            }
        }
        Ok(())
    }

    /// Whatever could run does.
    fn check_nothing_idles(&self, run: &Scheduler, seen: &Seen) -> Result<(), TestCaseError> {
        if seen.interrupted || seen.failed && !self.rules.keep_going || seen.active.len() == self.rules.jobs {
            return Ok(());
        }
        for (stage, task) in self.tasks.iter().enumerate() {
            let has_result =
                |input: &usize| matches!(run.outcome(*input), Some(StageOutcome::Ran | StageOutcome::Cached));
            let waits = [&seen.active, &seen.watched, &seen.resting, &seen.recording]
                .iter()
                .any(|stages| stages.contains(&stage));
            if run.outcome(stage).is_some() || waits || !task.needs.iter().all(has_result) {
                continue;
            }
            let fits = (0..3).all(|resource| {
                let taken: u64 = seen.active.iter().map(|&other| self.tasks[other].asks[resource]).sum();
                taken + task.asks[resource] <= self.capacity.amounts[resource]
            });
            prop_assert!(!fits, "{stage} could run");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_run_keeps_its_promises(script in scripts()) {
        let (seen, outcomes) = script.play()?;
        for (stage, task) in script.tasks.iter().enumerate() {
            let no_result = |outcome: StageOutcome| !matches!(outcome, StageOutcome::Ran | StageOutcome::Cached);
            if task.needs.iter().any(|&input| no_result(outcomes[input])) {
                prop_assert!(matches!(outcomes[stage], StageOutcome::Skipped | StageOutcome::Canceled));
            } else if script.rules.keep_going && !seen.interrupted {
                prop_assert!(outcomes[stage] != StageOutcome::Skipped, "an independent stage was skipped");
            }
            if !seen.interrupted {
                prop_assert!(outcomes[stage] != StageOutcome::Canceled);
            }
        }
        let expected = if outcomes.contains(&StageOutcome::Canceled) {
            RunOutcome::Interrupted
        } else if outcomes.contains(&StageOutcome::Failed) {
            RunOutcome::Failed
        } else {
            RunOutcome::Succeeded
        };
        prop_assert_eq!(seen.finish, Some(expected));
        prop_assert_eq!(seen.failed, outcomes.contains(&StageOutcome::Failed));
        let (again, _) = script.play()?;
        prop_assert_eq!(seen.effects, again.effects, "the same run takes another course");
    }
}

#[test]
fn what_starts_next_is_known_before_there_is_room_and_nothing_is_once_nothing_starts_any_more() {
    // 0 <- 1 <- 2 is a chain, 3 and 4 stand alone.
    let mut run = scheduler(&[&[], &[0], &[1], &[], &[]], 1, false);
    assert_eq!(run.next().count(), 0, "before the beginning whatever is cached is not known");
    assert_eq!(run.on(Begin), [Start(0)]);
    assert_eq!(run.next().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(run.on(Ran(0)), [Start(1)]);
    assert_eq!(run.on(Worked(1)), [Start(3)]);
    run.on(Ran(1));
    assert_eq!(run.next().collect::<Vec<_>>(), [2, 4], "as they lie on the longest way, and then as in the file");
    run.on(Failed(3));
    assert_eq!(run.next().count(), 0);
}
