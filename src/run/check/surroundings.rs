//! What is different around a stage when it is computed again.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Kept;

/// The environment variable that tells a worker which host name to take in its own namespace.
pub(in crate::run) const HOST_NAME: &str = "TWDAG_CHECK_HOST_NAME";

/// Locales and time zones, one after another. Those that are not installed count as `C` to most programs, which is no harm.
const LOCALES: [(&str, &str); 3] =
    [("tr_TR.UTF-8", "Pacific/Kiritimati"), ("C", "UTC"), ("de_DE.UTF-8", "Asia/Kolkata")];

/// How a worker gets another host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// In a UTS namespace, made with these arguments of `unshare`.
    Namespace(&'static [&'static str]),
    /// Only the variable HOSTNAME is another one; says why.
    Stays(String),
}

impl Host {
    /// Finds out what this machine allows.
    pub(super) fn find() -> Self {
        const WAYS: [&[&str]; 2] = [&["--uts"], &["--user", "--map-root-user", "--uts"]];
        let works = |way: &&&[&str]| {
            let mut command = Command::new("unshare");
            command.args(**way).args(["--", "true"]);
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        WAYS.iter().find(works).map_or_else(
            || {
                let why = "this machine lets nobody make a UTS namespace (`unshare --user --map-root-user --uts` of util-linux)";
                Self::Stays(why.to_owned())
            },
            |way| Self::Namespace(way),
        )
    }
}

/// The surroundings of one run of one stage.
#[derive(Clone, Debug)]
pub(in crate::run) struct Surroundings {
    /// The current folder of the worker.
    pub(in crate::run) folder: PathBuf,
    /// Environment variables that are set.
    pub(in crate::run) variables: Vec<(&'static str, String)>,
    /// The program and arguments to start the worker through, if any.
    pub(in crate::run) through: Vec<&'static str>,
    /// The threads.
    pub(super) threads: usize,
    /// What is another one than usual, in words.
    pub(super) varied: Vec<String>,
    /// What is not.
    pub(super) kept: Vec<Kept>,
}

impl Surroundings {
    /// Those of the `run`-th run, from 1, of a stage that has `usual` threads in a run.
    pub(super) fn new(run: usize, host: &Host, folder: &Path, usual: usize) -> Self {
        let (locale, zone) = LOCALES[run.saturating_sub(1) % LOCALES.len()];
        let name = format!("checked-{run}");
        let mut variables = vec![
            ("HOSTNAME", name.clone()),
            ("LANG", locale.to_owned()),
            ("LC_ALL", locale.to_owned()),
            ("TZ", zone.to_owned()),
        ];
        let threads = threads(run, usual);
        let mut varied: Vec<String> =
            ["time", "folders", "locale", "time zone", "work in one piece"].map(str::to_owned).into();
        varied.push(format!("threads ({threads})"));
        let (mut through, mut kept) = (Vec::new(), Vec::new());
        match host {
            Host::Namespace(way) => {
                through.push("unshare");
                through.extend(*way);
                through.push("--");
                variables.push((HOST_NAME, name));
                varied.push("host name".to_owned());
            }
            Host::Stays(why) => {
                kept.push(Kept { what: "host name".to_owned(), why: format!("{why}; only HOSTNAME was set") });
            }
        }
        Self { folder: folder.join("elsewhere"), variables, through, threads, varied, kept }
    }

    /// Notes whether the files of inputs came in another order; `why` says why not.
    pub(super) fn file_order(&mut self, why: Option<String>) {
        match why {
            None => self.varied.push("file order".to_owned()),
            Some(why) => self.kept.push(Kept { what: "file order".to_owned(), why }),
        }
    }
}

/// One thread, then one more than usual, then two, then three: another number each time.
fn threads(run: usize, usual: usize) -> usize {
    let mut numbers = vec![1, usual + 1, 2, 3];
    if usual == 1 {
        // The usual number comes last.
        numbers = vec![2, 3, 4, 1];
    }
    numbers[run.saturating_sub(1) % numbers.len()]
}
