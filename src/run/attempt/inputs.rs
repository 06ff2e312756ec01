//! The folders in which a stage finds the results that it reads, and whether they are what they were when it began: a program may write
//! to them, its own rights suffice.

use std::sync::Arc;

use super::{Attempt, Trouble};
use crate::{blame::Blame, graph::Input, store::View};

impl Attempt {
    /// Which folders show the results that the stage reads, in the order of its inputs.
    pub(super) fn views(&self) -> Result<Vec<Arc<View>>, Trouble> {
        let view = |input: &Input| {
            let given = self.given.get(&input.node);
            let given =
                given.ok_or_else(|| Trouble::new(format!("`{}` has no result", input.reference), Blame::Bug))?;
            Ok(self.shared.view(given)?)
        };
        self.graph_node().inputs.iter().map(view).collect()
    }

    /// Fails if one of them is another folder by now, or shows anything else. Whoever has changed it need not be this stage.
    pub(super) fn still_shown(&self, views: &[Arc<View>]) -> Result<(), Trouble> {
        for (input, view) in self.graph_node().inputs.iter().zip(views) {
            if !self.shared.store.is_shown(view)? {
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
