//! Takes secrets out of what is written down.
//!
//! In: request URIs, commands and free text that a client chose, and the node's key. Out: the same text with a mark in place of
//! each secret that was found.
//!
//! These are found:
//! * the value of a query parameter, flag or assignment whose name speaks of a secret (`access_token=`, `--password=`, `--token
//!   x`, `PGPASSWORD=`, `"client_secret": "x"`, `Authorization: ...`);
//! * tokens known by their shape: JWTs, AWS access keys, and the prefixes of well-known issuers;
//! * what follows `Bearer` and `Basic`, the password in `scheme://user:password@host`, the lines of private keys in PEM;
//! * `-p` of the database clients and `sshpass`, `-u user:password` of `curl` and its like.
//!
//! A mark is `***LENGTH:DIGEST***`. The digest is keyed: equal secrets of one node have equal marks, and nobody without the key
//! can try out what a secret was.
//!
//! It is a detector, not a proof: a secret without a name or a shape passes. A command must not be able to hide by looking like
//! a secret. So where the detector is unsure it takes nothing, and it never takes a character that means something to a shell
//! ([`scan`]).

mod names;
mod scan;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Write as _;

use ring::hmac;

use names::is_secret_name;
use scan::{Scanner, Span, is_plain};

/// Bytes of a digest that a mark shows: enough that two secrets of a node do not meet, too few to serve as anything else.
const DIGEST_BYTES: usize = 8;

/// Shells whose arguments behind a script are the script's own.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "zsh", "ksh"];

/// Takes secrets out, with the key of its marks.
pub struct Redactor {
    key: hmac::Key,
}

impl Redactor {
    /// Whether a field, parameter or variable of this name holds a secret.
    #[must_use]
    pub fn names_secret(name: &str) -> bool {
        is_secret_name(name)
    }

    /// A redactor whose marks are made with this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Redactor {
        Redactor {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// Takes secrets out of a request's path and query. What holds none stays byte for byte as it was sent.
    #[must_use]
    pub fn uri<'a>(&self, uri: &'a str) -> Cow<'a, str> {
        let (path, query) = match uri.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (uri, None),
        };
        let mut spans = Vec::new();
        if names::may_hold_token(path) {
            scan::shapes(path, 0..path.len(), &mut spans);
        }
        let mut changed = !spans.is_empty();
        let mut clean = String::with_capacity(uri.len());
        self.apply(path, &spans, &mut clean);
        let commands = query.map(|query| self.commands(query)).unwrap_or_default();
        let mut commands = commands.into_iter();
        for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            clean.push(if index == 0 { '?' } else { '&' });
            let value = self.pair(pair, &mut commands);
            match value {
                Some(value) => {
                    changed = true;
                    clean.push_str(&pair[..pair.find('=').map_or(pair.len(), |at| at + 1)]);
                    percent_encode(&value, &mut clean);
                }
                None => clean.push_str(pair),
            }
        }
        if changed {
            Cow::Owned(clean)
        } else {
            Cow::Borrowed(uri)
        }
    }

    /// Takes tokens out of a name, which is a piece of a path.
    #[must_use]
    pub fn name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if !names::may_hold_token(name) {
            return Cow::Borrowed(name);
        }
        let mut spans = Vec::new();
        scan::shapes(name, 0..name.len(), &mut spans);
        if spans.is_empty() {
            return Cow::Borrowed(name);
        }
        let mut clean = String::with_capacity(name.len());
        self.apply(name, &spans, &mut clean);
        Cow::Owned(clean)
    }

    /// Takes secrets out of a command's arguments, the program first.
    #[must_use]
    pub fn arguments<T: AsRef<str>>(&self, arguments: &[T]) -> Vec<String> {
        let mut scanner = Scanner::default();
        let mut own = arguments.len();
        let mut clean = Vec::with_capacity(arguments.len());
        for (index, argument) in arguments.iter().enumerate() {
            let argument = argument.as_ref();
            if index > own {
                // A script may do anything with its arguments, so none says what the next one is.
                scanner = Scanner::default();
            } else if index > 0
                && argument.starts_with('-')
                && argument.contains('c')
                && is_shell(&arguments[..index])
            {
                own = own.min(index + 1);
            }
            let spans = scanner.scan(argument);
            scanner.next_argument(argument);
            let mut text = String::with_capacity(argument.len());
            self.apply(argument, &spans, &mut text);
            clean.push(text);
        }
        clean
    }

    /// Takes secrets out of free text.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        // A text without any of these holds nothing that is searched for.
        if !text.contains([' ', '=', ':', '-']) && !names::may_hold_token(text) {
            return Cow::Borrowed(text);
        }
        let spans = Scanner::default().scan(text);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = String::with_capacity(text.len());
        self.apply(text, &spans, &mut clean);
        Cow::Owned(clean)
    }

    /// The arguments of an exec's query, decoded and without secrets.
    fn commands(&self, query: &str) -> Vec<(String, bool)> {
        let words: Vec<Cow<'_, str>> = query
            .split('&')
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (percent_decode(name) == "command").then(|| percent_decode(value))
            })
            .collect();
        let clean = self.arguments(&words);
        let changed = words.iter().zip(clean).map(|(word, clean)| {
            let changed = *word != clean;
            (clean, changed)
        });
        changed.collect()
    }

    /// The value of a pair without its secrets, where it holds any. `commands` has those of an exec's arguments, in order.
    fn pair(&self, pair: &str, commands: &mut impl Iterator<Item = (String, bool)>) -> Option<String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode(name);
        if name == "command" {
            return commands
                .next()
                .and_then(|(clean, changed)| changed.then_some(clean));
        }
        let value = percent_decode(value);
        if is_secret_name(&name) {
            // No shell sees it, so all of it is the secret.
            let spans = runs(&value);
            return (!spans.is_empty()).then(|| {
                let mut clean = String::new();
                self.apply(&value, &spans, &mut clean);
                clean
            });
        }
        match self.text(&value) {
            Cow::Borrowed(_) => None,
            Cow::Owned(clean) => Some(clean),
        }
    }

    /// The text with marks in place of the spans.
    fn apply(&self, text: &str, spans: &[Span], clean: &mut String) {
        let mut at = 0;
        for span in spans {
            clean.push_str(&text[at..span.start]);
            self.mark(&text[span.clone()], clean);
            at = span.end;
        }
        clean.push_str(&text[at..]);
    }

    /// What stands for a secret. Its characters need no escape in a query.
    fn mark(&self, secret: &str, clean: &mut String) {
        let digest = hmac::sign(&self.key, secret.as_bytes());
        let _infallible = write!(clean, "***{}:", secret.len());
        for byte in digest.as_ref().iter().take(DIGEST_BYTES) {
            let _infallible = write!(clean, "{byte:02x}");
        }
        clean.push_str("***");
    }
}

/// Whether a command's first words are a shell, or `busybox sh`, or `env sh`.
fn is_shell<T: AsRef<str>>(words: &[T]) -> bool {
    words.iter().any(|word| {
        let word = word.as_ref();
        SHELLS.contains(&word.rsplit('/').next().unwrap_or(word))
    })
}

/// All runs of plain characters.
fn runs(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (index, _) in text.char_indices().filter(|(_, c)| is_plain(*c)) {
        match spans.last_mut() {
            Some(last) if last.end == index => last.end = index + 1,
            _ => spans.push(index..index + 1),
        }
    }
    spans
}

/// Undoes percent-encoding for the search; what is malformed stays as it is.
pub(crate) fn percent_decode(text: &str) -> Cow<'_, str> {
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

/// Encodes what is not unreserved (RFC 3986 section 2.3), but for marks.
fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~*/:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
}
