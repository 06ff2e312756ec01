//! Work that panics fails like any other: whoever waits for its answer would wait for ever.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::error::RunError;

/// Carries work out. What it panicked with is printed where it did.
pub(super) async fn caught<T, E: From<RunError>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let panicked = RunError::Bug("a part of this program panicked; what it said stands above");
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(panicked.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{blame::Blame, run::error::Trouble};

    #[tokio::test]
    async fn a_panic_is_a_failure_and_a_failure_stays_what_it_is() {
        let trouble = |message: &str| Trouble::new(message, Blame::Stage);
        let panics = async { if true { panic!("no") } else { Ok::<(), Trouble>(()) } };
        let caught_panic = caught(panics).await.unwrap_err();
        assert_eq!(caught_panic.blame, Blame::Bug);
        assert!(caught_panic.message.starts_with("internal error: "), "{caught_panic:?}");
        assert_eq!(caught(async { Err::<(), _>(trouble("no")) }).await, Err(trouble("no")));
        assert_eq!(caught(async { Ok::<_, Trouble>(1) }).await, Ok(1));
    }
}
