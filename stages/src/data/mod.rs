//! Files that stages exchange: token sets, per-token arrays, corpora.
