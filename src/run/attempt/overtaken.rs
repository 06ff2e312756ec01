//! What becomes of an attempt whose claim was lost on the way. Where other machines use the store, one that was not heard of for long is
//! taken for dead: its locks are gone, and another one begins its stage anew.

use super::{Answer, Assignment, Attempt, Looked, Trouble};
use crate::{plan::Action, run::turn::Turn};

impl Attempt {
    /// What to answer for an action that has failed here if another machine has taken it over: the result if it is there by now, or else
    /// that the other one is at it.
    pub(super) fn overtaken_at(&self, action: &Action, turn: &Turn) -> Result<Option<Answer>, Trouble> {
        let (store, key) = (&self.shared.store, action.key());
        if store.is_on_this_machine() {
            return Ok(None);
        }
        let _hold = store.hold()?;
        let owner = store.taken_over(turn.here(), &key, &self.shared.owner)?;
        if owner.is_some() {
            // It went the way of the claim.
            store.renew_lease()?;
        }
        if let Some(Looked::Cached(given)) = self.find(action)? {
            return Ok(Some(Answer::Cached(given)));
        }
        // The whole of a stage in parts is not claimed again.
        let is_claimed_anew = !matches!(self.assignment, Assignment::Join(_));
        Ok(owner.filter(|_| is_claimed_anew).map(|owner| Answer::Busy { key, owner }))
    }
}
