//! Text to checked graph.
