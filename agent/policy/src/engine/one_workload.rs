//! One identity for one workload: identities that one caller could have.
//!
//! In: identities. Out: for each of them the first one before it that a caller could have beside it, told at both.
//!
//! Identities of one service account, token subject or certificate are compared where they do not already differ in the one label,
//! claim or part of `attest` that most of them name: thousands of agents of one service account, each with a label of its own,
//! are not compared pair by pair.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::check::{From, where_is};
use super::overlap::{could_both_match, pinned_labels};
use super::tokens;
use crate::api::name_path;
use crate::api::v1alpha1::{AgentIdentity, Attest};
use crate::yaml::Diagnostic;

/// What an identity is told apart by, in words.
type KeyOf = fn(&Attest) -> Option<String>;

/// Two identities that one caller could have: the error at the later one, and what there is to say at the earlier.
pub(super) fn one_workload(identities: &[From<'_, AgentIdentity>]) -> Vec<(Diagnostic, Diagnostic)> {
    let pod = |attest: &Attest| {
        let pod = attest.pod.as_ref()?;
        Some(format!(
            "pod of service account {}/{}",
            pod.namespace, pod.service_account
        ))
    };
    let spiffe = |attest: &Attest| Some(format!("certificate of {:?}", attest.spiffe.as_ref()?.id));
    let jwt = |attest: &Attest| {
        let jwt = attest.jwt.as_ref()?;
        Some(format!(
            "token of issuer {} and subject {:?}",
            jwt.issuer, jwt.subject
        ))
    };
    let mut errors = Vec::new();
    for key in [pod as KeyOf, jwt as KeyOf, spiffe as KeyOf] {
        let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, identity) in identities.iter().enumerate() {
            if let Some(key) = key(&identity.object.spec.attest) {
                by_key.entry(key).or_default().push(place);
            }
        }
        let shared = by_key.into_iter().filter(|(_, places)| places.len() > 1);
        for (key, places) in shared {
            let members: Vec<_> = places.iter().map(|place| &identities[*place]).collect();
            for (later, earlier) in overlaps(&members) {
                errors.push(told(&key, members[later], members[earlier]));
            }
        }
    }
    errors
}

fn told(
    key: &str,
    later: &From<'_, AgentIdentity>,
    earlier: &From<'_, AgentIdentity>,
) -> (Diagnostic, Diagnostic) {
    let said = |one: &From<'_, AgentIdentity>, other: &From<'_, AgentIdentity>| {
        let reason = format!(
            "AgentIdentity {:?} and {:?} ({}) could match one {key}: make their selectors exclude each other by one label, or their claims by one value",
            one.document.name(),
            other.document.name(),
            where_is(other.document, &name_path()),
        );
        one.document.error_at(&name_path(), reason)
    };
    (said(later, earlier), said(earlier, later))
}

/// Something that an identity may name, and by which two that name another value of it exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pin<'a> {
    /// The whole of `attest.spiffe`.
    Spiffe,
    /// Issuer and subject of `attest.jwt`.
    Token,
    /// A claim of `attest.jwt`.
    Claim(&'a str),
    /// A label of the pod.
    Label(&'a str),
}

/// A value of a [`Pin`]; a token's has two parts.
type PinValue<'a> = (&'a str, &'a str);

/// What an identity pins, with all values that are possible then.
fn pins(attest: &Attest) -> Vec<(Pin<'_>, Vec<PinValue<'_>>)> {
    let mut pins = Vec::new();
    if let Some(spiffe) = &attest.spiffe {
        pins.push((Pin::Spiffe, vec![(spiffe.id.as_str(), "")]));
    }
    if let Some(jwt) = &attest.jwt {
        pins.push((Pin::Token, vec![(jwt.issuer.as_str(), jwt.subject.as_str())]));
        let claims = jwt.claims.iter();
        pins.extend(claims.map(|(claim, value)| (Pin::Claim(claim), vec![(value.as_str(), "")])));
    }
    if let Some(pod) = &attest.pod {
        let labels = pinned_labels(pod.selector.as_ref());
        pins.extend(labels.map(|(key, values)| {
            let values = values.iter().map(|value| (value.as_str(), "")).collect();
            (Pin::Label(key), values)
        }));
    }
    pins
}

/// Each identity with the first one before it that a caller could have beside it, by their places among `members`.
fn overlaps(members: &[&From<'_, AgentIdentity>]) -> Vec<(usize, usize)> {
    let attest = |place: usize| &members[place].object.spec.attest;
    let pin = best_pin(members);
    let mut by_value: HashMap<PinValue<'_>, Vec<usize>> = HashMap::new();
    let mut without: Vec<usize> = Vec::new();
    let mut found = Vec::new();
    for later in 0..members.len() {
        let clashes = |earlier: &usize| could_both_hold(attest(*earlier), attest(later));
        let values = pin.and_then(|pin| {
            let mut pins = pins(attest(later)).into_iter();
            pins.find_map(|(named, values)| (named == pin).then_some(values))
        });
        let first = match &values {
            Some(values) => {
                let alike = values.iter().filter_map(|value| by_value.get(value));
                let firsts = alike.filter_map(|places| places.iter().copied().find(clashes));
                firsts.chain(without.iter().copied().find(clashes)).min()
            }
            None => (0..later).find(clashes),
        };
        found.extend(first.map(|earlier| (later, earlier)));
        match values {
            Some(values) => {
                for value in values {
                    by_value.entry(value).or_default().push(later);
                }
            }
            None => without.push(later),
        }
    }
    found
}

/// What tells the members apart best: what is named with the most different values. One that all name alike tells nobody apart.
fn best_pin<'a>(members: &[&'a From<'_, AgentIdentity>]) -> Option<Pin<'a>> {
    let mut values: HashMap<Pin<'a>, HashSet<PinValue<'a>>> = HashMap::new();
    for member in members {
        for (pin, of) in pins(&member.object.spec.attest) {
            values.entry(pin).or_default().extend(of);
        }
    }
    let best = values
        .into_iter()
        .max_by_key(|(pin, values)| (values.len(), *pin));
    best.map(|(pin, _)| pin)
}

/// Whether one caller could satisfy both, as far as both ask for the same.
fn could_both_hold(one: &Attest, other: &Attest) -> bool {
    let pods = one.pod.as_ref().zip(other.pod.as_ref());
    let certificates = one.spiffe.as_ref().zip(other.spiffe.as_ref());
    let jwts = one.jwt.as_ref().zip(other.jwt.as_ref());
    pods.is_none_or(|(one, other)| could_both_match(one, other))
        && jwts.is_none_or(|(one, other)| tokens::could_both_match(one, other))
        && certificates.is_none_or(|(one, other)| one.id == other.id)
}
