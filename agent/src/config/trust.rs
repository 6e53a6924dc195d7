//! The trust bundles of a configuration: whose client certificates count.
//!
//! In: the list `tls.trustBundles`. Out: one file for each trust domain, or what is wrong.

use std::path::PathBuf;

use picket_policy::spiffe::is_trust_domain;
use picket_policy::yaml::{Decoder, Fields};

use super::reference::fields_of;
use crate::pki::TrustBundle;

/// Reads the list, which may be left out.
pub(super) fn bundles(decoder: &mut Decoder, tls: &Fields<'_>) -> Vec<TrustBundle> {
    let Some(node) = tls.get("trustBundles") else {
        return Vec::new();
    };
    let mut bundles: Vec<TrustBundle> = Vec::new();
    for (index, item) in decoder.list(node, "tls.trustBundles").iter().enumerate() {
        let path = format!("tls.trustBundles[{index}]");
        let Some(fields) = decoder.fields(item, &path, &fields_of("tls.trustBundles[]"), &[]) else {
            continue;
        };
        let domain = decoder.required_text(&fields, "trustDomain");
        let file = decoder.required_text(&fields, "file");
        let (Some(domain), Some(file)) = (domain, file) else {
            continue;
        };
        let known = bundles.iter().any(|bundle| bundle.trust_domain == domain.value);
        if !is_trust_domain(&domain.value) {
            decoder.error_at(
                &domain.at,
                format!(
                    "field `{path}.trustDomain` is {:?}; a trust domain has lower-case letters, digits, `.`, `-` and `_`",
                    domain.value
                ),
            );
        } else if known {
            decoder.error_at(
                &domain.at,
                format!(
                    "field `{path}.trustDomain`: {:?} has a bundle already; put all its CAs into one file",
                    domain.value
                ),
            );
        }
        bundles.push(TrustBundle {
            trust_domain: domain.value,
            file: PathBuf::from(file.value),
        });
    }
    bundles
}
