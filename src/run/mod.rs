//! Plan to outcome.
