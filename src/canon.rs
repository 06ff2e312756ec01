//! The canonical encoding of settings for keys.
