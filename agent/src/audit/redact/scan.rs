//! Finds secrets in commands and free text.
//!
//! In: text, read as runs of plain characters with gaps between them. Out: spans of it, each inside one run. A plain character
//! means nothing to a shell, so a span cannot hide an operator, a substitution, a quote or the end of a word: whatever a
//! shell would run beside or behind a secret stays in sight.

use std::ops::Range;

use super::names::{is_scheme, is_secret_name, is_token_char, may_hold_token, token};

/// A span of a text.
pub(super) type Span = Range<usize>;

/// How long a word after `Bearer` must be where no name says that it is a credential.
const BEARER_LENGTH: usize = 16;

/// How long a line of a private key is at least, but for its last one: PEM has 64 characters a line (RFC 7468 section 2).
const KEY_LINE: usize = 40;
const LAST_KEY_LINE: usize = 16;

/// Words after which a shell runs the word that follows.
const RUNNERS: [&str; 12] = [
    "eval", "exec", "command", "then", "do", "else", "time", "env", "sudo", "nohup", "xargs", "builtin",
];

/// Whether a shell takes the character for nothing but itself, wherever it stands.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '=' | ',' | ':' | '@' | '%')
}

/// What the next run is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing is known of it.
    #[default]
    Any,
    /// A secret, in the next word.
    Secret,
    /// A secret, with nothing but quotes before it.
    QuotedSecret,
    /// A credential of at least so many characters.
    Credential(usize),
    /// `user:password`.
    Login,
}

/// How a program takes its password by `-p`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum PasswordFlag {
    /// It does not.
    #[default]
    None,
    /// Only as `-pSECRET`: a lone `-p` asks for it.
    Attached,
    /// Also as the next word.
    Separate,
}

/// Where a private key in PEM is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Pem {
    #[default]
    Outside,
    /// Behind `-----BEGIN`; whether of something private.
    Label(bool),
    /// Among the lines of the key; whether there was one.
    Key(bool),
}

/// Reads runs in order and remembers what the next one is.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    next: Next,
    password_flag: PasswordFlag,
    login_flag: bool,
    pem: Pem,
    /// The run before was the name of a secret, as in `"token": "x"`.
    named: bool,
}

/// One text and the spans found in it.
struct Found<'a> {
    text: &'a str,
    spans: Vec<Span>,
}

impl Found<'_> {
    /// Takes a secret. A path is none, and a shell can run it.
    fn secret(&mut self, span: Span) {
        let value = &self.text[span.clone()];
        if !value.is_empty() && !["/", "./", "../"].iter().any(|path| value.starts_with(path)) {
            self.spans.push(span);
        }
    }
}

impl Scanner {
    /// The secrets in a text, in order and apart.
    pub(super) fn scan(&mut self, text: &str) -> Vec<Span> {
        let mut found = Found {
            text,
            spans: Vec::new(),
        };
        let tokens = may_hold_token(text);
        let mut at = 0;
        while at < text.len() {
            let run = text[at..].find(is_plain).map_or(text.len(), |gap| at + gap);
            self.gap(&text[at..run]);
            let end = text[run..]
                .find(|c| !is_plain(c))
                .map_or(text.len(), |length| run + length);
            if run < end {
                if tokens {
                    shapes(text, run..end, &mut found.spans);
                }
                self.run(run..end, &mut found);
            }
            at = end;
        }
        merge(found.spans)
    }

    /// Begins the next argument of a command.
    pub(super) fn next_argument(&mut self, last: &str) {
        // What ends a script says nothing of the argument behind it, and `mysql -p` asks for the password.
        if last.contains(char::is_whitespace) || self.next == Next::QuotedSecret {
            self.next = Next::Any;
        }
        self.named = false;
        self.pem = Pem::Outside;
    }

    /// What stands between two runs: quotes and blanks lead on to a value, anything else does not.
    fn gap(&mut self, gap: &str) {
        let blank = gap.contains([' ', '\t']);
        let leads = gap.chars().all(|c| matches!(c, ' ' | '\t' | '\'' | '"' | '\\'));
        if !leads || (blank && self.next == Next::QuotedSecret) {
            self.next = Next::Any;
            self.named = false;
        }
        if gap.contains([';', '|', '&', '\n', '(', '`']) {
            self.password_flag = PasswordFlag::None;
            self.login_flag = false;
        }
    }

    fn run(&mut self, span: Span, found: &mut Found<'_>) {
        let run = &found.text[span.clone()];
        let named = std::mem::take(&mut self.named);
        if self.key(&span, run, found) {
            return;
        }
        match std::mem::take(&mut self.next) {
            Next::Secret | Next::QuotedSecret if is_scheme(run) => {
                self.next = Next::Credential(1);
                return;
            }
            // A flag where a value should be: the flag before has none.
            Next::Secret | Next::QuotedSecret if !run.starts_with('-') => return found.secret(span),
            Next::Credential(least) if run.len() >= least => return found.secret(span),
            Next::Login => return login(span, run, found),
            _ => {}
        }
        if is_scheme(run) {
            self.next = Next::Credential(BEARER_LENGTH);
            return;
        }
        if named && let Some(value) = run.strip_prefix([':', '=']) {
            if value.is_empty() {
                self.next = Next::Secret;
            } else {
                found.secret(span.end - value.len()..span.end);
            }
            return;
        }
        if self.assignment(&span, run, found) {
            return;
        }
        userinfo(&span, run, found);
        if run.starts_with('-') {
            return self.flag(&span, run, found);
        }
        self.program(run);
        self.named = is_secret_name(run);
    }

    /// Lines of a private key; only those are taken that are long enough to be one.
    fn key(&mut self, span: &Span, run: &str, found: &mut Found<'_>) -> bool {
        match self.pem {
            Pem::Outside if run.ends_with("-----BEGIN") => self.pem = Pem::Label(false),
            Pem::Label(_) if run == "PRIVATE" => self.pem = Pem::Label(true),
            Pem::Label(true) if run == "KEY-----" => self.pem = Pem::Key(false),
            Pem::Label(_) if run.ends_with("-----") => self.pem = Pem::Outside,
            Pem::Key(any) => {
                let base64 = run
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                let has = |of: fn(&u8) -> bool| run.bytes().any(|byte| of(&byte));
                let mixed =
                    has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
                if base64 && mixed && (run.len() >= KEY_LINE || (any && run.len() >= LAST_KEY_LINE)) {
                    found.spans.push(span.clone());
                    self.pem = Pem::Key(true);
                    return true;
                }
                self.pem = Pem::Outside;
            }
            _ => {}
        }
        false
    }

    /// `name=value` and `name:value`, also behind other such pairs: `--set=auth.password=x`.
    fn assignment(&mut self, span: &Span, run: &str, found: &mut Found<'_>) -> bool {
        let mut begin = 0;
        for (index, delimiter) in run.match_indices(['=', ':', ',', '/']) {
            let name = &run[begin..index];
            begin = index + 1;
            // `http://vault-token:8200` names a host and a port.
            let within = begin > name.len() + 1;
            if matches!(delimiter, "," | "/") || (within && delimiter == ":") || !is_secret_name(name) {
                continue;
            }
            let value = &run[begin..];
            if value.is_empty() {
                // `Authorization:` may have its value in the next word; `x=` has none there.
                self.next = if delimiter == ":" {
                    Next::Secret
                } else {
                    Next::QuotedSecret
                };
            } else if is_scheme(value) {
                self.next = Next::Credential(1);
            } else if !is_run(found.text, name) {
                found.secret(span.start + begin..span.end);
            }
            return true;
        }
        false
    }

    fn flag(&mut self, span: &Span, run: &str, found: &mut Found<'_>) {
        let flag = run.trim_start_matches('-');
        if let Some(long) = run.strip_prefix("--") {
            if self.login_flag && (long == "user" || long.starts_with("user=")) {
                match long.strip_prefix("user=") {
                    Some(value) => login(span.end - value.len()..span.end, value, found),
                    None => self.next = Next::Login,
                }
            } else if is_secret_name(flag) {
                self.next = Next::Secret;
            }
            return;
        }
        if let Some(value) = flag.strip_prefix('p') {
            match self.password_flag {
                PasswordFlag::Separate if value.is_empty() => self.next = Next::Secret,
                PasswordFlag::Attached if value.is_empty() => self.next = Next::QuotedSecret,
                PasswordFlag::None => {}
                _ => return found.secret(span.end - value.len()..span.end),
            }
        }
        if let Some(value) = flag.strip_prefix('u').filter(|_| self.login_flag) {
            match value {
                "" => self.next = Next::Login,
                value => return login(span.end - value.len()..span.end, value, found),
            }
        }
        // `-password x`, as openssl and Java programs have it.
        if flag.len() > 1 && is_secret_name(flag) {
            self.next = Next::Secret;
        }
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

/// The password of `user:password`.
fn login(span: Span, login: &str, found: &mut Found<'_>) {
    if let Some(colon) = login.find(':') {
        found.secret(span.start + colon + 1..span.end);
    }
}

/// The password of `scheme://user:password@host`.
fn userinfo(span: &Span, run: &str, found: &mut Found<'_>) {
    if let Some(at) = run.find('@')
        && let Some(scheme) = run[..at].find("://")
        && let Some(colon) = run[scheme + 3..at].find(':')
    {
        found.secret(span.start + scheme + 3 + colon + 1..span.start + at);
    }
}

/// Tokens that are known by their shape.
pub(super) fn shapes(text: &str, within: Span, spans: &mut Vec<Span>) {
    let mut start = within.start;
    for piece in text[within].split_inclusive(|c| !is_token_char(c)) {
        let word = piece.trim_end_matches(|c| !is_token_char(c) || c == '.');
        if let Some(offset) = token(word) {
            spans.push(start + offset..start + word.len());
        }
        start += piece.len();
    }
}

/// Whether a script runs what it put into this variable: `T=touch; $T /tmp/x`.
fn is_run(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(dollar, _)| {
        let rest = text[dollar + 1..].trim_start_matches('{');
        let is_it = rest
            .strip_prefix(name)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
        let before = text[..dollar].trim_end_matches([' ', '\t', '"', '\'']);
        let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next();
        is_it
            && (before.is_empty()
                || before.ends_with([';', '|', '&', '(', '`', '\n', '{', '!'])
                || word.is_some_and(|word| RUNNERS.contains(&word)))
    })
}

/// In order, and those that meet as one.
fn merge(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.start);
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}
