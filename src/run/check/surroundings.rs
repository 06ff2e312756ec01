//! What is different around a stage when it is computed again.

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Kept;

/// The environment variable that tells a worker which host name to take in its own namespace.
pub(in crate::run) const HOST_NAME: &str = "TWDAG_CHECK_HOST_NAME";
/// The environment variable that tells a worker which UTS namespace is the driver's.
pub(in crate::run) const USUAL_NAMESPACE: &str = "TWDAG_CHECK_USUAL_NAMESPACE";
/// A link that names the UTS namespace of whoever reads it.
pub(in crate::run) const UTS_NAMESPACE: &str = "/proc/self/ns/uts";

/// Locales and time zones, one after another. Those that are not installed count as `C` to most programs, which is no harm.
const LOCALES: [(&str, &str); 3] =
    [("tr_TR.UTF-8", "Pacific/Kiritimati"), ("C", "UTC"), ("de_DE.UTF-8", "Asia/Kolkata")];

/// How a worker gets another host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// In a UTS namespace of its own.
    Namespace(Namespace),
    /// Only the variable HOSTNAME is another one; says why.
    Stays(String),
}

impl Host {
    /// Finds out what this machine allows.
    pub(super) fn find() -> Self {
        const WAYS: [&[&str]; 2] = [&["--uts"], &["--user", "--map-root-user", "--uts"]];
        let usual = match fs::read_link(UTS_NAMESPACE) {
            Ok(link) => link.to_string_lossy().into_owned(),
            Err(error) => return Self::Stays(format!("{UTS_NAMESPACE} cannot be read: {error}")),
        };
        let mut why =
            "this machine lets nobody make a UTS namespace (`unshare --user --map-root-user --uts` of util-linux)"
                .to_owned();
        for way in WAYS {
            let namespace = Namespace { way, usual: usual.clone() };
            // With the very program that is to run there: a namespace in which it cannot start is of no use.
            let status = namespace.command().and_then(|mut command| {
                command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
            });
            match status {
                Ok(status) if status.success() => return Self::Namespace(namespace),
                Ok(_) => {}
                Err(error) => why = format!("`unshare` of util-linux cannot be run: {error}"),
            }
        }
        Self::Stays(why)
    }
}

/// A UTS namespace to start workers in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) struct Namespace {
    /// The arguments of `unshare`.
    way: &'static [&'static str],
    /// The namespace that a worker must not be in, or else the name of the whole machine would change.
    usual: String,
}

impl Namespace {
    /// The command that starts this very program in such a namespace. By its path: who has a user namespace of its own may not
    /// follow the link to the program of a process outside of it.
    pub(in crate::run) fn command(&self) -> io::Result<Command> {
        let path = env::current_exe()?;
        let is_running = || -> io::Result<bool> {
            let (running, found) = (fs::metadata("/proc/self/exe")?, fs::metadata(&path)?);
            Ok((running.dev(), running.ino()) == (found.dev(), found.ino()))
        };
        // Keys carry the revisions of the running program.
        if !is_running().unwrap_or(false) {
            let problem = format!("the program {} was replaced while it ran; start the check again", path.display());
            return Err(io::Error::other(problem));
        }
        let mut command = Command::new("unshare");
        command.args(self.way).arg("--").arg(path);
        Ok(command)
    }
}

/// The surroundings of one run of one stage.
#[derive(Clone, Debug)]
pub(in crate::run) struct Surroundings {
    /// The current folder of the worker.
    pub(in crate::run) folder: PathBuf,
    /// Environment variables that are set.
    pub(in crate::run) variables: Vec<(&'static str, String)>,
    /// The namespace of the worker, if it gets one.
    pub(in crate::run) namespace: Option<Namespace>,
    /// What is another one than usual, in words.
    pub(super) varied: Vec<String>,
    /// What is not.
    pub(super) kept: Vec<Kept>,
}

impl Surroundings {
    /// Those of the `run`-th run, from 1, of a stage of some kind that has `usual` threads in a run, and `threads` in this one.
    pub(super) fn new(run: usize, host: &Host, folder: &Path, kind: &str, (usual, threads): (usize, usize)) -> Self {
        let (locale, zone) = LOCALES[run.saturating_sub(1) % LOCALES.len()];
        let name = format!("checked-{run}");
        let mut variables = vec![
            ("HOSTNAME", name.clone()),
            ("LANG", locale.to_owned()),
            ("LC_ALL", locale.to_owned()),
            ("TZ", zone.to_owned()),
        ];
        let mut varied = vec!["time".to_owned(), "folders".to_owned()];
        // The programs of a `Command` have an environment that is the same everywhere.
        if kind != "Command" {
            varied.extend(["locale", "time zone"].map(str::to_owned));
        }
        varied.push("work in one piece".to_owned());
        if threads != usual {
            varied.push(format!("threads ({threads})"));
        }
        let mut kept = Vec::new();
        let namespace = match host {
            Host::Namespace(namespace) => {
                variables.extend([(HOST_NAME, name), (USUAL_NAMESPACE, namespace.usual.clone())]);
                varied.push("host name".to_owned());
                Some(namespace.clone())
            }
            Host::Stays(why) => {
                kept.push(Kept { what: "host name".to_owned(), why: format!("{why}; only HOSTNAME was set") });
                None
            }
        };
        Self { folder: folder.join("elsewhere"), variables, namespace, varied, kept }
    }

    /// Notes whether the files of inputs came in another order; `why` says why not.
    pub(super) fn file_order(&mut self, why: Option<String>) {
        match why {
            None => self.varied.push("file order".to_owned()),
            Some(why) => self.kept.push(Kept { what: "file order".to_owned(), why }),
        }
    }
}

/// The threads of the `run`-th run, from 1: one fewer than usual, one more, half as many, two more, a quarter, and so on: another number each time. One thread alone would
/// make a check on many cores take as many times as long as the run.
pub(super) fn threads(run: usize, usual: usize) -> usize {
    let halves = std::iter::successors(Some(usual / 2), |number| Some(number / 2)).take_while(|number| *number > 0);
    let mut fewer: Vec<usize> =
        std::iter::once(usual.saturating_sub(1)).chain(halves).filter(|number| *number > 0).collect();
    fewer.dedup();
    let place = run.saturating_sub(1);
    match fewer.get(place / 2) {
        Some(number) if place.is_multiple_of(2) => *number,
        // Where there are no fewer, there are more.
        _ => usual.saturating_add(1 + place - fewer.len().min(place.div_ceil(2))),
    }
}

#[cfg(test)]
mod tests {
    use super::threads;

    #[test]
    fn each_run_has_another_number_of_threads_and_not_many_fewer_at_first() {
        let first = |usual| (1..=6).map(|run| threads(run, usual)).collect::<Vec<_>>();
        assert_eq!(first(1), [2, 3, 4, 5, 6, 7]);
        assert_eq!(first(2), [1, 3, 4, 5, 6, 7]);
        assert_eq!(first(4), [3, 5, 2, 6, 1, 7]);
        assert_eq!(first(64), [63, 65, 32, 66, 16, 67]);
    }
}
