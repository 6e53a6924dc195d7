//! Any AuthenticationConfiguration and any claims: no panic, every complaint has a place, no token's user is empty, and no person is a part
//! of the cluster or has names that no header carries.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use picket_policy::Person;
use picket_policy::jwt::AuthenticationConfiguration;

/// What makes a fuzzer's expression the mapping and the rules of an otherwise good issuer.
fn with(expression: &str) -> String {
    let text = serde_json::to_string(expression).unwrap_or_default();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://a.example', \
         audiences: [a]}}\n  claimValidationRules: [{{expression: {text}}}]\n  claimMappings: {{username: {{claim: sub, \
         prefix: ''}}, groups: {{expression: {text}}}}}\n"
    )
}

// A line that is the configuration or an expression, then claims in JSON.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (file, claims) = text.split_once("\n\n").unwrap_or((text, "{}"));
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_str(claims).unwrap_or_default();
    for file in [file.to_owned(), with(file)] {
        let configuration = match AuthenticationConfiguration::read("f.yaml", &file) {
            Ok(configuration) => configuration,
            Err(errors) => {
                assert!(!errors.is_empty());
                assert!(errors.iter().all(|error| error.line > 0 && error.column > 0));
                continue;
            }
        };
        for issuer in &configuration.issuers {
            let mut claims = claims.clone();
            claims.insert("iss".to_owned(), issuer.url.clone().into());
            claims.insert("aud".to_owned(), issuer.audiences.clone().into());
            claims.insert("exp".to_owned(), 100.into());
            claims.entry("sub").or_insert_with(|| "s".into());
            if let Ok(token) = issuer.judge(claims, Timestamp::UNIX_EPOCH) {
                assert!(!token.user().username.is_empty());
                let Ok(person) = Person::of(&token) else { continue };
                let is_fit = |name: &str| name.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                let is_reserved = |name: &str| name.starts_with("system:") || name.starts_with("picket:");
                assert!(is_fit(person.username()) && !is_reserved(person.username()));
                let groups = person.groups();
                assert!(groups.iter().all(|group| is_fit(group)));
                assert!(
                    !groups
                        .iter()
                        .any(|group| is_reserved(group) && group != "system:authenticated")
                );
            }
        }
    }
});
