//! The roots that the controller keeps: the one that signs, the next one, and earlier ones that clients still have to trust.
//!
//! In: the data of the Secret `picket-root-ca`, a root that somebody else keeps, if any, and the time. Out: the CA that signs, the
//! bundle for clients, and the data to write. Nothing here asks the API server.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use crate::authority::{Authority, AuthorityError, CaPem, KeyPem, certificates, make_root};
use crate::rotation::{NextView, RotationState, RotationStep, RotationView, due, retire_until};

/// The keys of the Secret. Only the first two are there outside a rotation.
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// Since when the next root is published, and the earlier roots with their times, as JSON.
const RECORD: &str = "rotation.json";

/// Why the stored roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    /// A part of the Secret is unfit.
    #[error("key {0} of the Secret: {1}")]
    Stored(&'static str, AuthorityError),
    /// The record of a rotation is no such thing.
    #[error("key {RECORD} of the Secret is not the record of a rotation")]
    Record,
    /// The root that somebody else keeps is unfit.
    #[error(transparent)]
    Given(AuthorityError),
    /// A root could not be made.
    #[error("cannot make a root: {0}")]
    Make(AuthorityError),
}

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredRoots {
    /// The root that signs; of one that somebody else keeps, what clients trust.
    certificate: Option<String>,
    key: Option<KeyPem>,
    next: Option<CaPem>,
    record: RotationRecord,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RotationRecord {
    next_published: Option<Timestamp>,
    retired: Vec<RetiredRoot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RetiredRoot {
    certificate: String,
    until: Timestamp,
}

/// What bears on the next step beside what is stored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RootFacts<'a> {
    /// A root that somebody else keeps.
    pub(crate) given: Option<&'a CaPem>,
    /// What clients were told to trust before, where the Secret may have lost it.
    pub(crate) trusted_before: Option<&'a str>,
    /// A person asked for another root.
    pub(crate) requested: bool,
    /// What every bundle holds.
    pub(crate) published: Option<&'a str>,
}

/// What follows from what is stored.
#[derive(Debug)]
pub(crate) struct Advanced {
    pub(crate) stored: StoredRoots,
    pub(crate) signing: Authority,
    /// What clients trust, PEM.
    pub(crate) bundle: String,
    /// What changed, for the log.
    pub(crate) changes: Vec<&'static str>,
    pub(crate) state: RotationState,
}

impl StoredRoots {
    /// Reads the data of the Secret.
    pub(crate) fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, RootsError> {
        let text = |key: &'static str| -> Result<Option<String>, RootsError> {
            let unreadable = |_| RootsError::Stored(key, AuthorityError::Unreadable("it"));
            let bytes = data.get(key).filter(|bytes| !bytes.0.is_empty());
            bytes
                .map(|bytes| String::from_utf8(bytes.0.clone()).map_err(unreadable))
                .transpose()
        };
        let next = text(NEXT_CERTIFICATE)?.zip(text(NEXT_KEY)?);
        let record = match text(RECORD)? {
            Some(json) => serde_json::from_str(&json).map_err(|_| RootsError::Record)?,
            None => RotationRecord::default(),
        };
        for root in &record.retired {
            certificates(&root.certificate, "an earlier root").map_err(|_| RootsError::Record)?;
        }
        Ok(Self {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?.map(KeyPem),
            next: next.map(|(certificates, key)| CaPem {
                certificates,
                key: KeyPem(key),
                roots: None,
            }),
            record,
        })
    }

    /// The data to write.
    pub(crate) fn data(&self) -> BTreeMap<String, ByteString> {
        let next = self.next.as_ref();
        let record = (self.record != RotationRecord::default())
            .then(|| serde_json::to_string(&self.record).unwrap_or_default());
        let parts = [
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.as_ref().map(|key| key.0.clone())),
            (NEXT_CERTIFICATE, next.map(|next| next.certificates.clone())),
            (NEXT_KEY, next.map(|next| next.key.0.clone())),
            (RECORD, record),
        ];
        parts
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), ByteString(text?.into_bytes()))))
            .collect()
    }

    /// The CA that signs now, without any step; none where there is none yet.
    pub(crate) fn signing(&self, given: Option<&CaPem>) -> Result<Option<Authority>, RootsError> {
        if let Some(given) = given {
            return Authority::read(given).map(Some).map_err(RootsError::Given);
        }
        let Some((certificates, key)) = self.certificate.as_ref().zip(self.key.as_ref()) else {
            return Ok(None);
        };
        let stored = CaPem {
            certificates: certificates.clone(),
            key: key.clone(),
            roots: None,
        };
        let read = Authority::read(&stored).map(Some);
        read.map_err(|error| RootsError::Stored(CERTIFICATE, error))
    }

    /// Takes every step that is due.
    pub(crate) fn advance(mut self, facts: &RootFacts<'_>, now: SystemTime) -> Result<Advanced, RootsError> {
        let mut changes = Vec::new();
        if self.certificate.is_none()
            && let Some(before) = facts.trusted_before
        {
            self.retire(before.to_owned(), retire_until(now));
        }
        let mut signing = self.current(facts, now, &mut changes)?;
        let mut given_is_old = false;
        while let Some(step) = due(&self.view(&signing, facts), now) {
            match step {
                // Whoever keeps the root replaces it.
                RotationStep::MakeNext if facts.given.is_some() => {
                    given_is_old = true;
                    break;
                }
                RotationStep::MakeNext => {
                    self.next = Some(make_root(now).map_err(RootsError::Make)?);
                    self.record.next_published = None;
                    changes.push("the next root is made; every bundle gets it");
                }
                RotationStep::NotePublished => {
                    self.record.next_published = Some(timestamp(now));
                    changes.push("every bundle holds the next root; it signs when the overlap is over");
                }
                RotationStep::Move { retire_until } => {
                    let Some(next) = self.next.take() else { break };
                    let moved = Authority::read(&next)
                        .map_err(|error| RootsError::Stored(NEXT_CERTIFICATE, error))?;
                    self.retire(signing.anchors.clone(), retire_until);
                    self.certificate = Some(next.certificates);
                    self.key = Some(next.key);
                    self.record.next_published = None;
                    signing = moved;
                    changes.push("the next root signs; the earlier one stays in the bundles for now");
                }
                RotationStep::DropRetired => {
                    self.record
                        .retired
                        .retain(|root| SystemTime::from(root.until) > now);
                    changes.push("an earlier root is taken out of the bundles");
                }
            }
        }
        let state = match given_is_old {
            true => RotationState::Overdue,
            false => self.view(&signing, facts).state(),
        };
        let bundle = self.bundle(&signing)?;
        Ok(Advanced {
            stored: self,
            signing,
            bundle,
            changes,
            state,
        })
    }

    /// The root that signs: the given one, or the stored one, or a new one where there is none.
    fn current(
        &mut self,
        facts: &RootFacts<'_>,
        now: SystemTime,
        changes: &mut Vec<&'static str>,
    ) -> Result<Authority, RootsError> {
        if let Some(given) = facts.given {
            let signing = Authority::read(given).map_err(RootsError::Given)?;
            if self.certificate.as_ref() != Some(&signing.anchors) {
                if let Some(before) = self.certificate.replace(signing.anchors.clone()) {
                    self.retire(before, retire_until(now));
                }
                (self.key, self.next) = (None, None);
                self.record.next_published = None;
                changes.push("another root signs");
            }
            return Ok(signing);
        }
        // An unfit one is left alone: a person may still mend it, and pods trust it.
        if let Some(signing) = self.signing(None)? {
            return Ok(signing);
        }
        let made = make_root(now).map_err(RootsError::Make)?;
        let signing = Authority::read(&made).map_err(RootsError::Make)?;
        if let Some(before) = self.certificate.replace(made.certificates) {
            self.retire(before, retire_until(now));
        }
        self.key = Some(made.key);
        changes.push("a root is made");
        Ok(signing)
    }

    fn view(&self, signing: &Authority, facts: &RootFacts<'_>) -> RotationView {
        let bundle = self.bundle(signing).ok();
        RotationView {
            current: (signing.not_before, signing.not_after),
            requested: facts.requested && self.next.is_none(),
            next: self.next.as_ref().map(|_| NextView {
                published_at: self.record.next_published.map(SystemTime::from),
            }),
            retired: self
                .record
                .retired
                .iter()
                .map(|root| SystemTime::from(root.until))
                .collect(),
            published: bundle.is_some() && bundle.as_deref() == facts.published,
        }
    }

    fn retire(&mut self, certificate: String, until: SystemTime) {
        let until = timestamp(until);
        self.record.retired.push(RetiredRoot { certificate, until });
    }

    /// What clients trust, each root once.
    fn bundle(&self, signing: &Authority) -> Result<String, RootsError> {
        let mut all = vec![signing.anchors.clone()];
        if let Some(next) = &self.next {
            let next = Authority::read(next).map_err(|error| RootsError::Stored(NEXT_CERTIFICATE, error))?;
            all.push(next.anchors);
        }
        for root in &self.record.retired {
            if !all.contains(&root.certificate) {
                all.push(root.certificate.clone());
            }
        }
        Ok(all.concat())
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
