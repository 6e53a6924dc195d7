//! What is taken out of commands, URIs and texts, and what stays in sight.

use super::scan::{Scanner, is_plain};
use super::*;

fn redactor() -> Redactor {
    Redactor::new(&[7; 32])
}

/// Marks without length and digest, so that tests can be read.
fn short(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("***") {
        out.push_str(&rest[..start]);
        let mark = &rest[start + 3..];
        let end = mark.find("***").expect("a mark ends");
        let (length, digest) = mark[..end].split_once(':').expect("a length and a digest");
        assert!(length.parse::<usize>().is_ok_and(|length| length > 0), "{text}");
        assert!(digest.len() == 2 * DIGEST_BYTES, "{text}");
        out.push_str("***");
        rest = &mark[end + 3..];
    }
    out + rest
}

fn arguments(line: &[&str]) -> String {
    short(&redactor().arguments(line).join(" "))
}

fn uri(uri: &str) -> String {
    short(&redactor().uri(uri))
}

fn text(text: &str) -> String {
    short(&redactor().text(text))
}

#[test]
fn uris_without_secrets_stay_byte_for_byte() {
    for uri in [
        "/api/v1/namespaces/default/pods?limit=500&continue=eyJ2IjoibWV0YSJ9",
        "/api/v1/pods?watch=1&labelSelector=app%3Dweb%2Ctier+in+%28a%29&timeoutSeconds=300",
        "/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c&command=ls%20-l%20%2Ftmp&stdout=true",
        "/api/v1/namespaces/a/pods/b/exec?command=mkdir&command=-p&command=/srv/data",
        "/apis/x/v1?fieldManager=kubectl-client-side-apply&fieldSelector=metadata.name%3dsecret",
        "/api/v1/namespaces/a/secrets/token",
        "/?a=%zz&%",
        "",
    ] {
        assert!(
            matches!(redactor().uri(uri), Cow::Borrowed(same) if same == uri),
            "{uri}"
        );
    }
}

#[test]
fn query_values_with_secret_names_go() {
    assert_eq!(
        uri("/x?token=abc&access_token=d&X-Amz-Signature=e&limit=5&Client%2DSecret=f&password"),
        "/x?token=***&access_token=***&X-Amz-Signature=***&limit=5&Client%2DSecret=***&password"
    );
    assert_eq!(uri("/x?password=a%24b%20c"), "/x?password=***%24***%20***");
}

#[test]
fn shapes_go_wherever_they_stand() {
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
    assert_eq!(uri(&format!("/proxy/{jwt}/x?q={jwt}")), "/proxy/***/x?q=***");
    assert_eq!(text(&format!("agent/1 ({jwt})")), "agent/1 (***)");
    assert_eq!(text("key AKIAIOSFODNN7EXAMPLE."), "key ***.");
    assert_eq!(text("ghp_0123456789abcdef0123"), "***");
    assert_eq!(text("Bearer abcdefghijklmnop"), "Bearer ***");
    assert_eq!(text("Authorization: Bearer abc"), "Authorization: Bearer ***");
    assert_eq!(text("a bearer of news"), "a bearer of news");
    assert_eq!(
        text("kubectl/v1.36.3 (linux/amd64) kubernetes/abc"),
        "kubectl/v1.36.3 (linux/amd64) kubernetes/abc"
    );
}

#[test]
fn exec_commands_are_kept_and_their_secrets_go() {
    assert_eq!(
        uri(
            "/exec?command=sh&command=-c&command=PGPASSWORD%3Dhunter2%20psql%20-h%20db&container=c&stdin=true"
        ),
        "/exec?command=sh&command=-c&command=PGPASSWORD%3D***%20psql%20-h%20db&container=c&stdin=true"
    );
    assert_eq!(
        uri("/exec?command=login&%63ommand=--password&command=hunter2&command=--user&command=bob"),
        "/exec?command=login&%63ommand=--password&command=***&command=--user&command=bob"
    );
}

#[test]
fn flags_and_assignments() {
    for (line, clean) in [
        (
            &["login", "--password=hunter2", "-v"][..],
            "login --password=*** -v",
        ),
        (&["tool", "--api-key", "k1", "list"], "tool --api-key *** list"),
        (&["mysql", "-uroot", "-phunter2", "db"], "mysql -uroot -p*** db"),
        (&["mysql", "-p", "db"], "mysql -p db"),
        (
            &["/usr/bin/sshpass", "-p", "hunter2", "ssh", "h"],
            "/usr/bin/sshpass -p *** ssh h",
        ),
        (
            &["curl", "-u", "bob:hunter2", "https://x"],
            "curl -u bob:*** https://x",
        ),
        (
            &["curl", "-ubob:hunter2", "https://x"],
            "curl -ubob:*** https://x",
        ),
        (
            &["curl", "--user=bob:hunter2", "https://x?token=abc&a=b"],
            "curl --user=bob:*** https://x?token=***&a=b",
        ),
        (
            &["curl", "-H", "Authorization: Bearer abc", "x"],
            "curl -H Authorization: Bearer *** x",
        ),
        (&["curl", "-H", "X-Api-Key: abc", "x"], "curl -H X-Api-Key: *** x"),
        (
            &["git", "clone", "https://bob:hunter2@host/x"],
            "git clone https://bob:***@host/x",
        ),
        (
            &["env", "AWS_SECRET_ACCESS_KEY=abc", "aws"],
            "env AWS_SECRET_ACCESS_KEY=*** aws",
        ),
        (
            &["openssl", "-passphrase", "abc", "in"],
            "openssl -passphrase *** in",
        ),
        (
            &["sh", "-c", "echo \"curl -H 'Authorization: Bearer abc'\""],
            "sh -c echo \"curl -H 'Authorization: Bearer ***'\"",
        ),
        (
            &["helm", "install", "--set", "auth.password=abc,b=c"],
            "helm install --set auth.password=***",
        ),
        (
            &["echo", "{\"client_secret\": \"x1\", \"user\":\"y\"}"],
            "echo {\"client_secret\": \"***\", \"user\":\"y\"}",
        ),
        (&["find", ".", "-print", "-path", "x"], "find . -print -path x"),
        (&["mkdir", "-p", "a"], "mkdir -p a"),
        (&["ls", "--secret-name=x"], "ls --secret-name=x"),
        (
            &["curl", "http://vault-token:8200/x"],
            "curl http://vault-token:8200/x",
        ),
    ] {
        assert_eq!(arguments(line), clean);
    }
}

#[test]
fn a_secret_goes_up_to_what_a_shell_reads() {
    assert_eq!(
        arguments(&["sh", "-c", "mysql -u root -p'hun ter2' db"]),
        "sh -c mysql -u root -p'*** ter2' db"
    );
    assert_eq!(
        arguments(&["sh", "-c", "export TOKEN=\"a b\"; run"]),
        "sh -c export TOKEN=\"*** b\"; run"
    );
}

#[test]
fn private_keys_go_line_by_line() {
    let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
    let key = format!(
        "x -----BEGIN RSA PRIVATE KEY-----\n{line}\n{line}\nMzEfYyjiWA4R4/M2bS1G\n-----END RSA PRIVATE KEY-----"
    );
    assert_eq!(
        arguments(&["echo", &key]),
        "echo x -----BEGIN RSA PRIVATE KEY-----\n***\n***\n***\n-----END RSA PRIVATE KEY-----"
    );
}

#[test]
fn what_runs_beside_what_looks_like_a_secret_stays_in_sight() {
    for (script, kept) in [
        (
            ": '-----BEGIN PRIVATE KEY'; touch /tmp/x",
            ": '-----BEGIN PRIVATE KEY'; touch /tmp/x",
        ),
        (
            ": '-----BEGIN PRIVATE KEY-----'\nreboot\n: '-----END PRIVATE KEY-----'",
            ": '-----BEGIN PRIVATE KEY-----'\nreboot\n: '-----END PRIVATE KEY-----'",
        ),
        ("password=x;touch${IFS}/tmp/x", "password=***;touch${IFS}/tmp/x"),
        (
            "run --token \"$(touch /tmp/x)\"",
            "run --token \"$(touch /tmp/x)\"",
        ),
        ("run --token `touch /tmp/x`", "run --token `touch /tmp/x`"),
        ("run --token\ntouch /tmp/x", "run --token\ntouch /tmp/x"),
        ("run --token | touch /tmp/x", "run --token | touch /tmp/x"),
        ("token=x&&touch /tmp/x", "token=***&&touch /tmp/x"),
        ("token=x|sh", "token=***|sh"),
        ("token=x>/etc/passwd", "token=***>/etc/passwd"),
        ("token=x\ttouch", "token=***\ttouch"),
        ("token=\\x$(id)", "token=\\***$(id)"),
        ("pw={touch,/tmp/x}", "pw={touch,/tmp/x}"),
        ("Authorization: $(touch /tmp/x)", "Authorization: $(touch /tmp/x)"),
        (
            "bearer() { \"$@\"; }; bearer reboot",
            "bearer() { \"$@\"; }; bearer reboot",
        ),
        ("mysql -p;reboot", "mysql -p;reboot"),
        ("mysql -V; tar -pxf x", "mysql -V; tar -pxf x"),
        ("TOKEN=touch; $TOKEN /tmp/x", "TOKEN=touch; $TOKEN /tmp/x"),
        (
            "TOKEN=touch; eval \"${TOKEN} /tmp/x\"",
            "TOKEN=touch; eval \"${TOKEN} /tmp/x\"",
        ),
        ("run --password /tmp/evil", "run --password /tmp/evil"),
        ("https://a:b@c$(touch /tmp/x)", "https://a:***@c$(touch /tmp/x)"),
    ] {
        assert_eq!(arguments(&["sh", "-c", script]), format!("sh -c {kept}"));
    }
    assert_eq!(
        arguments(&["sh", "-c", "$1 /tmp/x", "--token", "touch"]),
        "sh -c $1 /tmp/x --token touch",
        "a script's own arguments may be what it runs"
    );
    assert_eq!(
        arguments(&["run", "--token", "$(touch /tmp/x)"]),
        "run --token $(touch /tmp/x)"
    );
}

#[test]
fn equal_secrets_have_equal_marks_and_no_other_key_makes_them() {
    let mark = |redactor: &Redactor, secret: &str| redactor.text(&format!("--token {secret}")).into_owned();
    let (one, other) = (redactor(), Redactor::new(&[8; 32]));
    assert_eq!(mark(&one, "hunter2"), mark(&one, "hunter2"));
    assert_ne!(mark(&one, "hunter2"), mark(&one, "hunter3"));
    assert_ne!(mark(&one, "hunter2"), mark(&other, "hunter2"));
    assert!(mark(&one, "hunter2").starts_with("--token ***7:"));
    let marked = one
        .uri("/exec?command=run&command=--token&command=hunter2")
        .into_owned();
    let same = mark(&one, "hunter2");
    assert!(
        marked.ends_with(same.trim_start_matches("--token ")),
        "{marked} has the mark of {same}"
    );
}

#[test]
fn any_bytes_are_taken() {
    for word in [
        "'",
        "\"'",
        "é=",
        "-p",
        "--",
        "=",
        ":",
        "\\",
        "a\\ b 'c",
        "%e9%",
        "://@",
        "@://:",
        "token=é",
        "é--token é",
    ] {
        let _clean = text(word);
        let _clean = uri(&format!("/?command={word}&x={word}&token={word}"));
    }
}

/// Numbers that look random and are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Pieces of scripts: what detectors look for, and what a shell does something with.
const PIECES: [&str; 44] = [
    "password=",
    "--token ",
    "--token=",
    "TOKEN=",
    "Authorization: ",
    "Bearer ",
    "\"secret\":",
    "mysql -p",
    "curl -u ",
    "https://a:b@c",
    "-----BEGIN PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9.eyJhIjoiYiJ9.x",
    "AKIAIOSFODNN7EXAMPLE",
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
    "x",
    "touch /tmp/x",
    "é",
    ";",
    "|",
    "&",
    "$(",
    ")",
    "`",
    "\n",
    "${IFS}",
    "'",
    "\"",
    "\\",
    " ",
    "\t",
    "<",
    ">",
    "{",
    "}",
    "*",
    "?",
    "!",
    "#",
    "~",
    "=",
    ":",
    "/",
    "\u{2028}",
    "\u{a0}",
];

#[test]
fn no_redaction_spans_a_character_that_means_something_to_a_shell() {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let mut found = 0;
    for _ in 0..20_000 {
        let script: String = (0..1 + numbers.below(12))
            .map(|_| PIECES[numbers.below(PIECES.len())])
            .collect();
        let spans = Scanner::default().scan(&script);
        let mut end = 0;
        for span in &spans {
            assert!(span.start >= end, "{script:?}: {spans:?}");
            end = span.end;
            let taken = &script[span.clone()];
            assert!(
                !taken.is_empty() && taken.chars().all(is_plain),
                "{script:?} loses {taken:?}"
            );
        }
        found += spans.len();
        // Whatever is no plain character is still there, in the same order.
        let clean = redactor().arguments(&["sh", "-c", &script]);
        let others = |text: &str| {
            text.chars()
                .filter(|c| !is_plain(*c) && *c != '*')
                .collect::<String>()
        };
        assert_eq!(others(&clean[2]), others(&script));
    }
    assert!(found > 10_000, "{found} redactions prove nothing");
}
