//! Worlds in which something was wrong once.
