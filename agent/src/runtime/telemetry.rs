//! Where the log goes.
