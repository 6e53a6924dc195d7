//! Unit tests of the search: every form of a planted secret is found, and ordinary text is not.

use rcgen::KeyPair;

use super::*;

const SECRET: &str = "p4ss/w\"rd+of-these-tests?";

fn search(secrets: &Secrets, text: impl AsRef<[u8]>, writer: Writer) -> Vec<Leak> {
    let output = Output {
        name: "the log".to_owned(),
        writer,
        text: text.as_ref().to_vec(),
    };
    secrets.search(&[output]).expect("a search")
}

fn known(value: &str) -> Secrets {
    let secrets = Secrets::default();
    secrets
        .add("the password", value, Reach::Everywhere)
        .expect("a secret");
    secrets
}

fn jwt() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"RS256","kid":"k"}"#),
        part(r#"{"sub":"system:serviceaccount:agents:worker"}"#),
        part(&"signature ".repeat(30))
    )
}

#[test]
fn a_secret_is_found_in_every_form_and_is_not_shown() {
    let secrets = known(SECRET);
    let quoted = serde_json::json!({ "password": SECRET }).to_string();
    let bytes = SECRET.as_bytes();
    let mut planted = vec![
        SECRET.to_owned(),
        quoted,
        format!("{SECRET:?}"),
        format!("{bytes:?}"),
        "p4ss%2Fw%22rd%2Bof-these-tests%3F".to_owned(),
        percent(bytes, true)
            .iter()
            .map(|&byte| char::from(byte))
            .collect(),
        bytes.iter().fold(String::new(), hex),
    ];
    for before in ["", "u", "us", "user:"] {
        for after in ["", "x", "xy", "xyz"] {
            let text = format!("{before}{SECRET}{after}");
            planted.push(STANDARD.encode(&text));
            planted.push(URL_SAFE_NO_PAD.encode(&text));
        }
    }
    for text in planted {
        let found = search(&secrets, format!("one line\nits {text} end\n"), Writer::Picket);
        let [finding] = &found[..] else {
            panic!("{text}: {found:?}")
        };
        assert_eq!(finding.secret, "the password");
        assert!(finding.around.starts_with("its "), "{finding}");
        assert!(finding.around.contains(" bytes>"), "{finding}");
        assert!(!finding.around.contains("these-tests"), "{finding}");
    }
    assert!(search(&secrets, "p4ss/w is what it begins with", Writer::Picket).is_empty());
}

#[test]
fn a_token_is_found_by_its_signature_by_a_piece_of_it_and_by_its_shape() {
    let token = jwt();
    let secrets = known(&token);
    let signature = token.rsplit('.').next().unwrap_or_default();
    for text in [
        signature,
        &signature[48..120],
        // What a `Debug` that shortens leaves.
        &token[..token.len() - 200],
    ] {
        let found = search(&secrets, text, Writer::ApiServer);
        assert!(found[0].secret == "the password", "{text}: {found:?}");
    }
    let basic = STANDARD.encode(format!("admin:{token}"));
    assert!(!search(&secrets, basic, Writer::Picket).is_empty());

    let none = Secrets::default();
    let found = search(&none, format!("Bearer {token}\n{token}"), Writer::Picket);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].around == format!("Bearer <{} bytes>", token.len()),
        "{found:?}"
    );
    // A header and claims without a signature, and names with dots.
    let unsigned = token.rsplit_once('.').map_or("", |(unsigned, _)| unsigned);
    for text in [unsigned, "eyJ.is.no.token", "eyJeyJeyJeyJeyJ", ""] {
        assert!(search(&none, text, Writer::Picket).is_empty(), "{text}");
    }
}

#[test]
fn a_key_is_found_by_any_line_of_its_secret_part_and_a_certificate_is_no_key() {
    let key = KeyPair::generate().expect("a key");
    let pem = key.serialize_pem();
    let secrets = Secrets::default();
    secrets.add_key("the key", &pem).expect("a key");
    let lines: Vec<&str> = pem.lines().collect();
    for line in &lines[1..lines.len() - 2] {
        assert!(!search(&secrets, line, Writer::Picket).is_empty(), "{line}");
    }
    assert!(!search(&secrets, key.serialize_der(), Writer::Picket).is_empty());
    let params = rcgen::CertificateParams::new(vec!["picket.test".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    for text in [certificate.pem(), key.public_key_pem()] {
        assert!(search(&secrets, text, Writer::Picket).is_empty());
    }
    let other = KeyPair::generate().expect("a key");
    assert!(search(&secrets, other.serialize_pem(), Writer::Picket).is_empty());
    assert!(secrets.add_key("none", "-----BEGIN CERTIFICATE-----").is_err());
}

#[test]
fn what_a_client_writes_into_a_target_reaches_the_api_server_and_no_record_of_picket() {
    let secrets = Secrets::default();
    secrets
        .add("a parameter", "hunter2-hunter2", Reach::OfRequest)
        .expect("a secret");
    assert!(search(&secrets, "?token=hunter2-hunter2", Writer::ApiServer).is_empty());
    assert_eq!(
        search(&secrets, "?token=hunter2-hunter2", Writer::Picket).len(),
        1
    );
    assert!(secrets.add("short", "hunter2", Reach::Everywhere).is_err());
    assert_eq!(secrets.len(), 1);
}
