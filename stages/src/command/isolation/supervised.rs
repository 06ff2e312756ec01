//! A program that is bound, and what it did.

use std::{
    io,
    process::Command,
    sync::mpsc,
    thread::{self, ScopedJoinHandle},
};

use super::{Declared, IsolationError, Report, filter, landlock, observer::observe};
use crate::{command::process::Group, stage::Isolation};

const NO_NOTIFICATIONS: &str = "the kernel does not tell of a program's calls (seccomp notifications, Linux 5.5; or another supervisor has \
                                 taken them)";

/// Whether this machine has what is needed to see what a program does; says in plain words what it lacks.
pub(in crate::command) fn probe() -> Result<(), String> {
    let bind = || filter::bind(false).map(drop).map_err(|error| format!("{NO_NOTIFICATIONS}: {error}"));
    // The thread that is bound ends at once.
    thread::scope(|scope| scope.spawn(bind).join()).unwrap_or_else(|_| Err(NO_NOTIFICATIONS.to_owned()))
}

/// Starts a program that is bound, and watches it. Both means bind a thread with all that it starts, so the program is started by one
/// of its own.
pub(in crate::command) fn supervised<R>(
    isolation: Isolation,
    declared: &Declared,
    command: &mut Command,
    watch: impl FnOnce(&mut Group) -> R,
) -> Result<(R, Report), IsolationError> {
    let refuses = isolation == Isolation::Enforce;
    let rules = if refuses { Some(landlock::rules(declared).map_err(IsolationError::Lacking)?) } else { None };
    let system = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| IsolationError::Lacking(format!("{what}: {error}"))
    };
    let (stopped, stop) = io::pipe().map_err(system("a pipe cannot be made"))?;
    let stopped = stopped.into();
    thread::scope(|scope| {
        let (give_listener, take_listener) = mpsc::channel();
        let (give_group, take_group) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        // It must be there before the first question is.
        let observer = thread::Builder::new()
            .name("observer".to_owned())
            .spawn_scoped(scope, move || {
                let observed = take_listener.recv().map(|listener| observe(&listener, &stopped, declared, refuses));
                observed.unwrap_or_else(|_| Ok(Report::default()))
            })
            .map_err(system("a thread cannot be started"))?;
        let starter = thread::Builder::new().name("starter".to_owned()).spawn_scoped(scope, move || {
            let bind = || -> Result<Vec<String>, IsolationError> {
                let open = rules.map(landlock::bind).transpose().map_err(IsolationError::Lacking)?;
                let (listener, gap) = filter::bind(refuses).map_err(system(NO_NOTIFICATIONS))?;
                // The observer waits for it.
                let _ = give_listener.send(listener);
                Ok(open.flatten().into_iter().chain(gap).collect())
            };
            let started = bind().and_then(|gaps| Ok((Group::start(command).map_err(IsolationError::Start)?, gaps)));
            // Who has asked for it waits as well.
            let _ = give_group.send(started);
            let _ = ended.recv();
        });
        starter.map_err(system("a thread cannot be started"))?;
        let lost = || IsolationError::Lacking("the thread that starts the program has ended".to_owned());
        let started = take_group.recv().unwrap_or_else(|_| Err(lost()));
        let finish = |observer: ScopedJoinHandle<'_, io::Result<Report>>| {
            drop(end);
            drop(stop);
            observer
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("internal error; please report it")))
                .map_err(unseen)
        };
        match started {
            Ok((mut group, gaps)) => {
                let watched = watch(&mut group);
                let mut report = finish(observer)?;
                report.gaps.extend(gaps);
                Ok((watched, report))
            }
            Err(error) => {
                // It says more than what came after it.
                let _ = finish(observer);
                Err(error)
            }
        }
    })
}

/// Why a result is none: what the program would have made of a call that was refused is not known, in no mode.
fn unseen(error: io::Error) -> IsolationError {
    IsolationError::Lacking(format!(
        "the kernel could be asked no more what it does ({error}), and its calls were refused from then on: run it again"
    ))
}
