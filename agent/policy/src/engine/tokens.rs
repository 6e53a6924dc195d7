//! Tokens: which identities one satisfies, and whether one could satisfy two.
//!
//! In: `attest.jwt` of identities, and a verified token. Out: yes or no, exactly.

use crate::api::v1alpha1::JwtAttest;
use crate::jwt::VerifiedToken;

/// Whether a token is what an identity names: issuer, subject, audience and claims, each exactly.
pub(super) fn satisfies(token: &VerifiedToken, attest: &JwtAttest) -> bool {
    token.issuer() == attest.issuer
        && token.subject() == attest.subject
        && attest
            .audience
            .as_ref()
            .is_none_or(|audience| token.is_for(audience))
        && attest
            .claims
            .iter()
            .all(|(claim, value)| token.text(claim) == Some(value))
}

/// Whether some token could satisfy both. A token can be for several audiences, so these exclude nothing.
pub(super) fn could_both_match(one: &JwtAttest, other: &JwtAttest) -> bool {
    let differs =
        |(claim, value): (&String, &String)| one.claims.get(claim).is_some_and(|have| have != value);
    one.issuer == other.issuer && one.subject == other.subject && !other.claims.iter().any(differs)
}
