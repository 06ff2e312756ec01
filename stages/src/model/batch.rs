//! What a model can be given.

use super::{Config, ModelError};

impl Config {
    /// Checks a batch and gives the length of its sequences.
    pub(super) fn check_batch(&self, ids: &[u32], batch: usize) -> Result<usize, ModelError> {
        if batch == 0 || ids.is_empty() || !ids.len().is_multiple_of(batch) {
            let expected = format!("a positive multiple of the {batch} sequences");
            return Err(ModelError::Size { what: "number of token ids", found: ids.len(), expected });
        }
        let length = ids.len() / batch;
        self.check_length(length)?;
        for (sequence, ids) in ids.chunks_exact(length).enumerate() {
            self.check_tokens(sequence, 0, ids)?;
        }
        Ok(length)
    }

    /// Refuses sequences of more tokens than the rotary embedding allows.
    pub(super) fn check_length(&self, length: usize) -> Result<(), ModelError> {
        match self.rope.longest() {
            Some(longest) if length > longest => Err(ModelError::Length { length, longest }),
            _ => Ok(()),
        }
    }

    /// Refuses ids that the model does not have, and sequences without any. For messages: the number of the sequence in
    /// its batch and the position of its first id.
    pub(super) fn check_tokens(&self, sequence: usize, first: usize, ids: &[u32]) -> Result<(), ModelError> {
        if ids.is_empty() {
            return Err(ModelError::Size {
                what: "number of token ids",
                found: 0,
                expected: "at least one".to_owned(),
            });
        }
        let vocabulary = self.vocab_size;
        match ids.iter().position(|id| *id as usize >= vocabulary) {
            None => Ok(()),
            Some(index) => Err(ModelError::Token { token: ids[index], sequence, position: first + index, vocabulary }),
        }
    }
}
