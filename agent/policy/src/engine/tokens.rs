//! Tokens: which identities one satisfies, and whether one could satisfy two.
//!
//! In: `attest.jwt` of identities, and a verified token. Out: yes or no, exactly.

use serde_json::Value as Json;

use crate::api::v1alpha1::JwtAttest;
use crate::jwt::VerifiedToken;

/// How subjects of service accounts' tokens begin.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

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

/// The subject to whom the token's issuer gave it for the token's own subject: the current actor of the claim `act` (RFC 8693, section
/// 4.1). Earlier actors, inside of it, are history. An actor of another issuer is nobody that this one can speak for.
pub(super) fn actor(token: &VerifiedToken) -> Option<&str> {
    let act = token.claim("act")?;
    let text = |name: &str| act.get(name).map(Json::as_str);
    let is_own = text("iss").is_none_or(|issuer| issuer == Some(token.issuer()));
    text("sub").flatten().filter(|_| is_own)
}

/// Whether a token was given to what an identity names, for somebody else: by its actor in place of its subject. An identity that names
/// claims too is none: the token's claims are those of the other one. Nor is the token of a service account, which is no person's.
pub(super) fn satisfies_as_actor(token: &VerifiedToken, attest: &JwtAttest) -> bool {
    token.issuer() == attest.issuer
        && actor(token) == Some(&*attest.subject)
        && token.subject() != attest.subject
        && !token.subject().starts_with(SERVICE_ACCOUNT)
        && token.claim("kubernetes.io").is_none()
        && attest
            .audience
            .as_ref()
            .is_none_or(|audience| token.is_for(audience))
        && attest.claims.is_empty()
}

/// Whether some token could satisfy both. A token can be for several audiences, so these exclude nothing.
pub(super) fn could_both_match(one: &JwtAttest, other: &JwtAttest) -> bool {
    let differs =
        |(claim, value): (&String, &String)| one.claims.get(claim).is_some_and(|have| have != value);
    one.issuer == other.issuer && one.subject == other.subject && !other.claims.iter().any(differs)
}
