//! Graph and store to plan.
