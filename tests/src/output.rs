//! What a program that ran in a pod printed, and how it ended.
//!
//! In: a finished process. Out: a [`Done`] with its text and exit code.

use std::process::Output;

use anyhow::{Result, ensure};

/// A finished program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error, and what kubectl added about its end.
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// Its standard output, if it succeeded.
    pub fn good(self) -> Result<String> {
        ensure!(
            self.code == 0,
            "ended with {}:\n{}{}",
            self.code,
            self.out,
            self.err
        );
        Ok(self.out)
    }

    /// Its standard error, if it failed and every one of these stands in it.
    pub fn refused(self, words: &[&str]) -> Result<String> {
        ensure!(self.code != 0, "was not refused:\n{}{}", self.out, self.err);
        for word in words {
            ensure!(self.err.contains(word), "no {word:?} in:\n{}", self.err);
        }
        Ok(self.err)
    }
}
