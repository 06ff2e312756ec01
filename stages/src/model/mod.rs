//! Models in training form: configuration, checkpoints, forward and backward.
