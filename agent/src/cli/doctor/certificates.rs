//! Whether the certificates that the configuration trusts can vouch for anybody.
//!
//! In: a configuration, and the objects of its files. Out: a check that names each CA certificate that is none or is not valid now,
//! and each identity whose trust domain this node has no trust bundle of.

use std::time::SystemTime;

use crate::app;
use crate::config::Config;
use crate::kernel::doctor::{Check, CheckStatus};
use crate::store::Store;

/// The name of the check.
const CERTIFICATES: &str = "trusted certificates";

/// Looks at the files. What cannot be read is found by others.
pub(super) fn check(config: &Config) -> Check {
    let mut doubts = config.doubtful_authorities(SystemTime::now());
    if let Ok(store) = Store::open_beside(&config.objects.files, config.objects.cluster) {
        let has = |domain: &str| {
            let mut bundles = config.tls.trust_bundles.iter();
            bundles.any(|bundle| bundle.trust_domain == domain)
        };
        let without = app::without_trust_bundle(&store.current(), has).into_iter();
        doubts.extend(without.map(|(identity, domain)| {
            format!("identity {identity}: tls.trustBundles has no bundle of trust domain {domain}, so that no certificate attests it here")
        }));
    }
    if doubts.is_empty() {
        return Check::ok(CERTIFICATES, "all can vouch for others now");
    }
    Check::bad(
        CERTIFICATES,
        CheckStatus::Degraded,
        doubts.join("\n"),
        "replace what expired, put the CA's certificate in place of one that it signed, and give each trust domain a bundle; \
         certificates that nothing needs any longer can be removed",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;
    use crate::identity::jwt::check as check_authentication;
    use crate::pki::{TrustBundle, TrustBundles};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A certificate as PEM text: of a CA or not, valid until then.
    fn pem(name: &str, is_ca: bool, not_after: SystemTime) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = ((not_after - 2 * DAY).into(), not_after.into());
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").pem()
    }

    fn indented(pem: &str) -> String {
        pem.lines().map(|line| format!("        {line}\n")).collect()
    }

    fn config(folder: &Path) -> Config {
        let at = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "nodeName: n\ncluster: {{kubeconfig: /k}}\nupstream: {{server: 'https://10.0.0.1:6443', caFile: {}, tokenFile: /t}}\n\
             tls: {{caCertificateFile: /c, caKeyFile: /k, trustBundles: [{{trustDomain: one.test, file: {}}}]}}\n\
             enforce: {{namespaces: [agents]}}\nauthentication: {{configFile: {}}}\nobjects: [{}]\n",
            at("api.crt"),
            at("one.crt"),
            at("auth.yaml"),
            at("objects.yaml"),
        );
        Config::parse("agent.yaml", &text).expect("a configuration")
    }

    fn write(folder: &Path, (api, bundle, issuer): (&str, &str, &str), trust_domain: &str) {
        let objects = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: ci}}\n\
             spec: {{owner: o, attest: {{spiffe: {{id: 'spiffe://{trust_domain}/ci'}}}}}}\n"
        );
        let authentication = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: https://issuer.test\n    \
             audiences: [a]\n    certificateAuthority: |\n{}  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
            indented(issuer)
        );
        let files = [
            ("api.crt", api),
            ("one.crt", bundle),
            ("objects.yaml", &objects),
            ("auth.yaml", &authentication),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }

    #[test]
    fn what_can_vouch_for_nobody_is_degraded_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let (now, folder) = (SystemTime::now(), folder.path());
        let good = pem("good", true, now + DAY);
        write(folder, (&good, &good, &good), "one.test");
        let config = config(folder);
        let all_good = check(&config);
        assert_eq!(all_good.status, CheckStatus::Ok, "{}", all_good.detail);

        let (server, expired) = (pem("server", false, now + DAY), pem("expired", true, now - DAY));
        write(folder, (&server, &expired, &expired), "two.test");
        let found = check(&config);
        assert_eq!(found.status, CheckStatus::Degraded);
        let lines: Vec<_> = found.detail.lines().collect();
        let expected = [
            ("upstream.caFile: ", "certificate `CN=server`: it is no CA's"),
            (
                "tls.trustBundles of one.test: ",
                "certificate `CN=expired`: it expired on ",
            ),
            (
                "certificateAuthority of issuer https://issuer.test: ",
                "certificate `CN=expired`: it expired on ",
            ),
            ("identity ci: ", "no bundle of trust domain two.test"),
        ];
        assert_eq!(lines.len(), expected.len(), "{}", found.detail);
        for (line, (whose, reason)) in lines.iter().zip(expected) {
            assert!(line.starts_with(whose) && line.contains(reason), "{line}");
        }
    }

    #[test]
    fn identities_of_files_are_looked_at_beside_a_cluster_that_they_name_objects_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let (now, folder) = (SystemTime::now(), folder.path());
        let good = pem("good", true, now + DAY);
        write(folder, (&good, &good, &good), "two.test");
        let policy = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: \
            [elsewhere]}\n  rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
        let file = folder.join("objects.yaml");
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, text + policy).expect("written");
        let mut config = config(folder);
        config.objects.cluster = true;
        let found = check(&config);
        assert!(
            found.detail.contains("no bundle of trust domain two.test"),
            "{found:?}"
        );
    }

    #[test]
    fn the_metrics_have_the_end_of_each_kind_of_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let (now, folder) = (SystemTime::now(), folder.path());
        let (soon, late) = (pem("soon", true, now + DAY), pem("late", true, now + 2 * DAY));
        write(folder, (&soon, &format!("{soon}{late}"), &soon), "one.test");
        let about = |end: Option<SystemTime>, days: u32| {
            let end = end.expect("an end");
            assert!(
                end <= now + days * DAY && end + DAY / 24 > now + days * DAY,
                "{end:?}"
            );
        };
        let bundles = TrustBundles::open(vec![TrustBundle {
            trust_domain: "one.test".to_owned(),
            file: folder.join("one.crt"),
        }]);
        about(bundles.not_after(), 2);
        let issuers = check_authentication(&folder.join("auth.yaml")).expect("good");
        about(issuers.ca_not_after(), 1);
    }
}
