//! How many files a process may have open. A driver has five for each stage that runs (seven for the first ones), and where many run at once the usual thousand is
//! not enough. Programs of stages keep the usual limit: some take longer, or fail, with a larger one.

use std::{env, sync::OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The environment variable that tells a worker the usual limit.
pub(super) const USUAL: &str = "TWDAG_WORKER_OPEN_FILES";

/// Lets this process have as many files open as the system allows it. The limit before that, if there was one that could be raised.
pub(super) fn raise() -> Option<u64> {
    static BEFORE: OnceLock<Option<u64>> = OnceLock::new();
    *BEFORE.get_or_init(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let may_be_more = current.is_some_and(|current| maximum.is_none_or(|maximum| current < maximum));
        let raised = may_be_more && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
        current.filter(|_| raised)
    })
}

/// Gives a worker, and the programs that it starts, the limit that its driver had.
pub(super) fn lower() {
    let usual = env::var(USUAL).ok().and_then(|text| text.parse().ok());
    if let Some(current) = usual {
        // A higher limit is all that a refusal leaves behind.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) });
    }
}
