//! The file of the issuers, read again when it changes.
//!
//! In: the path of an `AuthenticationConfiguration`. Out: the issuers in force, with a task each. A file that cannot be used
//! changes nothing: the last good one stays in force, and the log and a metric say so. Without a last good one no token can be
//! verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_policy::Diagnostic;
use picket_policy::yaml::MAX_FILE;
use thiserror::Error;
use tokio::task::JoinSet;

use super::remote::IssuerKeys;
use super::{Inner, LoadedIssuers};

/// How often the file is looked at.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum AuthenticationError {
    /// The system refused.
    #[error("{}: cannot read the authentication configuration: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is no file, or too large.
    #[error("{}: it is no regular file of at most {MAX_FILE} bytes", file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
    },
    /// It says something that cannot stand.
    #[error("the authentication configuration is not valid:\n{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// All that is wrong, in the order of the file.
        errors: Vec<Diagnostic>,
    },
    /// An issuer's CA cannot be used.
    #[error("{}:{line}:{column}: field `certificateAuthority`: {reason}", file.display())]
    CertificateAuthority {
        /// The file.
        file: PathBuf,
        /// The line of the field's value.
        line: u32,
        /// Its column.
        column: u32,
        /// What is wrong.
        reason: String,
    },
    /// rustls refused a setting.
    #[error("cannot set up TLS to issuers: {0}")]
    Tls(rustls::Error),
}

/// The text of the file.
pub(super) fn text(file: &Path) -> Result<String, AuthenticationError> {
    let fail = |source| AuthenticationError::Read {
        file: file.to_owned(),
        source,
    };
    let found = std::fs::metadata(file).map_err(fail)?;
    // A pipe of that name would never end.
    if !found.is_file() || found.len() > MAX_FILE as u64 {
        return Err(AuthenticationError::Unfit {
            file: file.to_owned(),
        });
    }
    std::fs::read_to_string(file).map_err(fail)
}

/// Keeps the issuers as the file has them, and their keys fetched.
pub(super) async fn follow(inner: &Arc<Inner>) {
    let mut running = JoinSet::new();
    start(&mut running, &inner.loaded.load().issuers);
    let Some(file) = &inner.file else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        let read = tokio::task::spawn_blocking({
            let (inner, file) = (Arc::clone(inner), file.clone());
            move || read(&inner, &file)
        });
        match read.await {
            Ok(Ok(None)) => inner.fault.store(None),
            Ok(Ok(Some(loaded))) => {
                inner.fault.store(None);
                running.shutdown().await;
                start(&mut running, &loaded.issuers);
                tracing::info!(
                    issuers = loaded.issuers.len(),
                    "the authentication configuration was read again"
                );
                inner.loaded.store(Arc::new(loaded));
                inner.generation.advance();
                inner.changed.send_replace(());
                inner.metrics.reloaded(true);
            }
            Ok(Err(error)) => inner.report(&error),
            Err(error) => tracing::error!(%error, "the authentication configuration was not read"),
        }
    }
}

/// The file's issuers, where it changed. One whose keys come from where they came from keeps them.
pub(super) fn read(inner: &Inner, file: &Path) -> Result<Option<LoadedIssuers>, AuthenticationError> {
    let text = text(file)?;
    let before = inner.loaded.load();
    if before.text.as_ref() == Some(&text) {
        return Ok(None);
    }
    let issuers = inner.issuers_of(file, &text)?;
    let kept = |issuer: Arc<IssuerKeys>| {
        if let Some(same) = before.issuers.iter().find(|known| known.is_like(&issuer.issuer)) {
            return Arc::clone(same);
        }
        for known in &before.issuers {
            issuer.take_keys_of(known);
        }
        issuer
    };
    let issuers = issuers.into_iter().map(kept).collect();
    Ok(Some(LoadedIssuers {
        text: Some(text),
        issuers,
    }))
}

fn start(running: &mut JoinSet<()>, issuers: &[Arc<IssuerKeys>]) {
    for issuer in issuers {
        running.spawn(Arc::clone(issuer).run());
    }
}
