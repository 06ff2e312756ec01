//! Whether the results that a stage reads are what they were when it began: a program may write to them, its own rights suffice.

use super::{Attempt, Trouble};
use crate::blame::Blame;

impl Attempt {
    /// Which folders show the results that the stage reads, in the order of its inputs.
    pub(super) fn shown(&self) -> Result<Vec<u64>, Trouble> {
        let given = self.graph_node().inputs.iter().filter_map(|input| self.given.get(&input.node));
        given.map(|given| Ok(self.shared.store.view_identity(&given.artifact)?)).collect()
    }

    /// Fails if one of them is another folder by now, or shows anything else. Whoever has changed it need not be this stage.
    pub(super) fn still_shown(&self, shown: &[u64]) -> Result<(), Trouble> {
        let inputs = &self.graph_node().inputs;
        let given = inputs.iter().filter_map(|input| Some((input, self.given.get(&input.node)?)));
        for ((input, given), before) in given.zip(shown) {
            if !self.shared.store.is_shown(&given.artifact, *before)? {
                let message = format!(
                    "the files of its input `{}` were written to while the stage read them, so the result was thrown away; run \
                     again, and if a program does that, have it copy what it changes",
                    input.reference
                );
                return Err(Trouble::new(message, Blame::Input));
            }
        }
        Ok(())
    }
}
