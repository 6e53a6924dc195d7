//! Takes secrets out of what is written down: request URIs, commands, free text.
//!
//! What is found, and replaced by `***`:
//! * the value of a query parameter, flag or assignment whose name speaks of a secret (`access_token=`, `--password=`,
//!   `--token x`, `PGPASSWORD=`, `"client_secret": "x"`, `Authorization: ...`);
//! * tokens known by their shape: JWTs, AWS access keys, and the prefixes of well-known issuers;
//! * what follows `Bearer` and `Basic`, the password in `scheme://user:password@host`, private keys in PEM;
//! * `-p` of the database clients and `sshpass`, `-u user:password` of `curl` and its like.
//!
//! It is a detector, not a proof: a secret without a name or a shape passes. Where it is unsure it takes too much.

use std::borrow::Cow;

/// Stands where a secret was. Its characters need no escape in a query.
const MARK: &str = "***";

/// Parts of names whose values are secrets, in lower case without `-` and `_`.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "signature",
    "cookie",
];

/// Whole names that are too short to look for inside others.
const SECRET_SHORT_NAMES: [&str; 5] = ["pwd", "pass", "pw", "sig", "jwt"];

/// Names that hold a word of [`SECRET_NAMES`] and no secret: Kubernetes' own query parameters and common flags.
const PLAIN_NAMES: [&str; 5] = [
    "continuetoken",
    "secretname",
    "secretref",
    "tokenfile",
    "passwordfile",
];

/// What tokens of well-known issuers begin with: GitHub, GitLab, Slack, Google, Vault, npm, OpenAI and Anthropic.
const TOKEN_PREFIXES: [&str; 19] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "AIza",
    "ya29.",
    "hvs.",
    "npm_",
    "sk-ant-api",
    "sk-proj-",
    "ASIA",
    "AKIA",
];

/// So many characters must follow a prefix: fewer and it is a word that happens to begin so.
const TOKEN_LENGTH: usize = 16;

/// Takes secrets out of a request's path and query. What holds none stays byte for byte as it was sent.
pub fn redact_uri(uri: String) -> String {
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*uri, None),
    };
    let clean_path = redact_shapes(path);
    let Some(query) = query else {
        return if matches!(clean_path, Cow::Borrowed(_)) {
            uri
        } else {
            clean_path.into_owned()
        };
    };
    let mut clean = String::with_capacity(uri.len());
    clean.push_str(&clean_path);
    let mut words = Words::default();
    for (index, pair) in query.split('&').enumerate() {
        clean.push(if index == 0 { '?' } else { '&' });
        let Some((name, value)) = pair.split_once('=') else {
            clean.push_str(&redact_shapes(pair));
            continue;
        };
        clean.push_str(name);
        clean.push('=');
        let name = percent_decode(name);
        let decoded = percent_decode(value);
        if name == "command" {
            // The arguments of one exec, in order.
            let argument = words.argument(&decoded);
            clean.push_str(&if argument == decoded {
                Cow::Borrowed(value)
            } else {
                percent_encode(&argument)
            });
        } else if is_secret_name(&name) {
            clean.push_str(MARK);
        } else {
            let text = redact_str(&decoded);
            clean.push_str(&if text == decoded {
                Cow::Borrowed(value)
            } else {
                percent_encode(&text)
            });
        }
    }
    clean
}

/// Takes secrets out of a command's arguments, the program first.
pub fn redact_arguments(arguments: &[String]) -> Vec<String> {
    let mut words = Words::default();
    arguments
        .iter()
        .map(|argument| words.argument(argument).into_owned())
        .collect()
}

/// Takes secrets out of free text.
pub fn redact_text(text: String) -> String {
    match redact_str(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(clean) => clean,
    }
}

fn redact_str(text: &str) -> Cow<'_, str> {
    // A text without any of these holds nothing that the words are searched for.
    if !text.contains([' ', '=', ':', '-']) {
        return redact_shapes(text);
    }
    Words::default().line(text)
}

/// Reads the words of a command in order and remembers what the next one is.
#[derive(Default)]
struct Words {
    /// The next word is a secret.
    secret_next: bool,
    /// The next word is `user:password`.
    login_next: bool,
    /// A program was named whose `-p` carries a password.
    password_flag: PasswordFlag,
    /// A program was named whose `-u` carries a login.
    login_flag: bool,
}

/// How a program takes its password by `-p`.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum PasswordFlag {
    /// It does not.
    #[default]
    None,
    /// Only as `-pSECRET`: a lone `-p` asks for it.
    Attached,
    /// Also as the next word.
    Separate,
}

impl Words {
    /// One argument of a command. One with spaces may be a script for a shell, so its own words are read as well.
    fn argument<'a>(&mut self, argument: &'a str) -> Cow<'a, str> {
        if std::mem::take(&mut self.secret_next) {
            return Cow::Borrowed(MARK);
        }
        if argument.contains(char::is_whitespace) {
            let clean = self.line(argument);
            // A flag at a script's end says nothing of the next argument.
            self.secret_next = false;
            self.login_next = false;
            return clean;
        }
        self.word(argument)
    }

    /// A line of words; quoted parts stay together.
    fn line<'a>(&mut self, line: &'a str) -> Cow<'a, str> {
        if let Some(start) = line.find("-----BEGIN ")
            && line[start..].contains("PRIVATE KEY")
        {
            return Cow::Owned(format!("{}{MARK}", &line[..start]));
        }
        let mut clean = String::new();
        let mut changed = false;
        let mut rest = line;
        while !rest.is_empty() {
            let gap = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
            clean.push_str(&rest[..gap]);
            rest = &rest[gap..];
            let (word, tail) = rest.split_at(word_end(rest));
            rest = tail;
            if word.is_empty() {
                continue;
            }
            let new = if std::mem::take(&mut self.secret_next) {
                // `Authorization: Bearer x` has a word between the name and the secret.
                self.secret_next = is_scheme(word);
                if self.secret_next {
                    Cow::Borrowed(word)
                } else {
                    Cow::Borrowed(MARK)
                }
            } else {
                self.word(word)
            };
            changed |= new != word;
            clean.push_str(&new);
        }
        if changed {
            Cow::Owned(clean)
        } else {
            Cow::Borrowed(line)
        }
    }

    fn word<'a>(&mut self, word: &'a str) -> Cow<'a, str> {
        if std::mem::take(&mut self.login_next) {
            return redact_login(word);
        }
        // A quoted part may hold a line of its own: `sh -c "mysql -psecret"`, `-H 'Authorization: Bearer x'`.
        let inner = word.trim_matches(['"', '\'']);
        if word.starts_with(['"', '\'']) && inner.contains(char::is_whitespace) {
            let start = word.len() - word.trim_start_matches(['"', '\'']).len();
            let clean = self.line(inner);
            return match clean {
                Cow::Borrowed(_) => Cow::Borrowed(word),
                Cow::Owned(clean) => Cow::Owned(format!(
                    "{}{clean}{}",
                    &word[..start],
                    &word[start + inner.len()..]
                )),
            };
        }
        if is_scheme(inner) {
            self.secret_next = true;
            return Cow::Borrowed(word);
        }
        if let Some(split) = word.find(['=', ':']) {
            let (name, value) = (&word[..split], &word[split + 1..]);
            if is_secret_name(name) {
                if value.trim_matches(['"', '\'']).is_empty() {
                    // `Authorization:` or `"token":` with the value in the next word; `x=` has none.
                    self.secret_next = &word[split..=split] == ":";
                    return Cow::Borrowed(word);
                }
                return Cow::Owned(format!("{}{MARK}", &word[..=split]));
            }
        }
        if let Some(flag) = word.strip_prefix('-') {
            return self.flag(word, flag);
        }
        self.program(inner);
        redact_shapes(word)
    }

    fn flag<'a>(&mut self, word: &'a str, flag: &'a str) -> Cow<'a, str> {
        if flag.starts_with('-') {
            self.secret_next = !flag.contains('=') && is_secret_name(flag);
            self.login_next = self.login_flag && flag == "-user";
            return match flag.strip_prefix("-user=") {
                Some(login) if self.login_flag => Cow::Owned(format!("--user={}", redact_login(login))),
                _ => redact_shapes(word),
            };
        }
        match flag.strip_prefix('p') {
            Some("") => self.secret_next = self.password_flag == PasswordFlag::Separate,
            Some(_) if self.password_flag != PasswordFlag::None => return Cow::Owned(format!("-p{MARK}")),
            _ => {}
        }
        match flag.strip_prefix('u') {
            Some("") => self.login_next = self.login_flag,
            Some(login) if self.login_flag => return Cow::Owned(format!("-u{}", redact_login(login))),
            _ => {}
        }
        // `-password x`, as openssl and Java programs have it.
        self.secret_next |= flag.len() > 1 && !flag.contains('=') && is_secret_name(flag);
        redact_shapes(word)
    }

    /// Notes a word that names a program with a password flag.
    fn program(&mut self, word: &str) {
        match word.rsplit('/').next().unwrap_or(word) {
            "mysql" | "mysqldump" | "mysqladmin" | "mariadb" | "mariadb-dump" | "mariadb-admin" => {
                self.password_flag = PasswordFlag::Attached;
            }
            "sshpass" | "mongo" | "mongosh" | "mongodump" | "mongorestore" => {
                self.password_flag = PasswordFlag::Separate;
            }
            "curl" | "wget" | "http" | "https" => self.login_flag = true,
            _ => {}
        }
    }
}

/// Where the first word ends: at white space outside quotes.
fn word_end(text: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, c) {
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => return index,
            _ => {}
        }
    }
    text.len()
}

/// Whether the word is an HTTP authentication scheme, after which the credential stands.
fn is_scheme(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

/// Whether a parameter, flag or variable of this name holds a secret.
fn is_secret_name(name: &str) -> bool {
    // A name is short; a long piece before a `=` is something else, and its cost is bounded here.
    if name.len() > 128 {
        return false;
    }
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let one = plain.strip_suffix('s').unwrap_or(&plain);
    !PLAIN_NAMES.iter().any(|word| one.ends_with(word))
        && (SECRET_SHORT_NAMES.contains(&&*plain) || SECRET_NAMES.iter().any(|word| one.ends_with(word)))
}

/// `user:password` without the password.
fn redact_login(login: &str) -> Cow<'_, str> {
    match login.split_once(':') {
        Some((user, _)) => Cow::Owned(format!("{user}:{MARK}")),
        None => Cow::Borrowed(login),
    }
}

/// Replaces what is a secret by its shape alone.
fn redact_shapes(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
    if let Some(at) = text.find('@')
        && let Some(scheme) = text[..at].find("://")
        && let Some(colon) = text[scheme + 3..at].find(':')
    {
        let user_end = scheme + 3 + colon + 1;
        clean = Cow::Owned(format!("{}{MARK}{}", &text[..user_end], &text[at..]));
    }
    // Each of the shapes begins with one of these.
    if !TOKEN_PREFIXES.iter().any(|prefix| clean.contains(prefix)) && !clean.contains("eyJ") {
        return clean;
    }
    let mut out = String::with_capacity(clean.len());
    let mut changed = false;
    for piece in clean.split_inclusive(|c: char| !is_token_char(c)) {
        let token = piece.trim_end_matches(|c: char| !is_token_char(c));
        if is_token(token) {
            changed = true;
            out.push_str(MARK);
            out.push_str(&piece[token.len()..]);
        } else {
            out.push_str(piece);
        }
    }
    if changed { Cow::Owned(out) } else { clean }
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_token(text: &str) -> bool {
    // A JWT's parts are base64url; its header is a JSON object, `{"` (RFC 7519 section 3). Prefixes may stand before it,
    // as in `base64url.bearer.authorization.k8s.io.`.
    if let Some(start) = text.find("eyJ") {
        let mut parts = text[start..].split('.');
        if let (Some(header), Some(payload)) = (parts.next(), parts.next())
            && header.len() >= 8
            && payload.len() >= 8
        {
            return true;
        }
    }
    TOKEN_PREFIXES.iter().any(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() >= TOKEN_LENGTH)
    })
}

/// Undoes percent-encoding for the search; what is malformed stays as it is.
fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                index += 1;
            }
            (byte, ..) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Encodes what is not unreserved (RFC 3986 section 2.3), but for the mark.
fn percent_encode(text: &str) -> Cow<'static, str> {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~*/:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &[&str]) -> String {
        redact_arguments(&line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).join(" ")
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
            assert_eq!(redact_uri(uri.to_owned()), uri);
        }
    }

    #[test]
    fn query_values_with_secret_names_go() {
        let uri = redact_uri(
            "/x?token=abc&access_token=d&X-Amz-Signature=e&limit=5&Client%2DSecret=f&password".into(),
        );
        assert_eq!(
            uri,
            "/x?token=***&access_token=***&X-Amz-Signature=***&limit=5&Client%2DSecret=***&password"
        );
    }

    #[test]
    fn shapes_go_wherever_they_stand() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
        assert_eq!(
            redact_uri(format!("/proxy/{jwt}/x?q={jwt}")),
            "/proxy/***/x?q=***"
        );
        assert_eq!(redact_text(format!("agent/1 ({jwt})")), "agent/1 (***)");
        assert_eq!(redact_text("key AKIAIOSFODNN7EXAMPLE.".into()), "key ***");
        assert_eq!(redact_text("ghp_0123456789abcdef0123".into()), MARK);
        assert_eq!(redact_text("Bearer abc".into()), "Bearer ***");
        assert_eq!(
            redact_text("kubectl/v1.36.3 (linux/amd64) kubernetes/abc".into()),
            "kubectl/v1.36.3 (linux/amd64) kubernetes/abc"
        );
    }

    #[test]
    fn exec_commands_are_kept_and_their_secrets_go() {
        let uri = redact_uri(
            "/exec?command=sh&command=-c&command=PGPASSWORD%3Dhunter2%20psql%20-h%20db&container=c&stdin=true".into(),
        );
        assert_eq!(
            uri,
            "/exec?command=sh&command=-c&command=PGPASSWORD%3D***%20psql%20-h%20db&container=c&stdin=true"
        );
        let uri = redact_uri(
            "/exec?command=login&command=--password&command=hunter2&command=--user&command=bob".into(),
        );
        assert_eq!(
            uri,
            "/exec?command=login&command=--password&command=***&command=--user&command=bob"
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
                &["sh", "-c", "mysql -u root -p'hun ter2' db"],
                "sh -c mysql -u root -p*** db",
            ),
            (
                &["sh", "-c", "echo \"curl -H 'Authorization: Bearer abc'\""],
                "sh -c echo \"curl -H 'Authorization: Bearer ***'\"",
            ),
            (
                &["sh", "-c", "export TOKEN=\"a b\"; run"],
                "sh -c export TOKEN=*** run",
            ),
            (&["find", ".", "-print", "-path", "x"], "find . -print -path x"),
            (&["mkdir", "-p", "a"], "mkdir -p a"),
            (&["ls", "--secret-name=x"], "ls --secret-name=x"),
        ] {
            assert_eq!(arguments(line), clean);
        }
    }

    #[test]
    fn private_keys_go() {
        let key = "x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----";
        assert_eq!(arguments(&["echo", key]), "echo x ***");
    }

    #[test]
    fn any_bytes_are_taken() {
        for text in [
            "'", "\"'", "é=", "-p", "--", "=", ":", "\\", "a\\ b 'c", "%e9%", "://@", "@://:",
        ] {
            let _clean = redact_text(text.to_owned());
            let _clean = redact_uri(format!("/?command={text}&x={text}"));
        }
    }
}
