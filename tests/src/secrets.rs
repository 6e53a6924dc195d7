//! The secrets that tests use, and the search for them in what others can read.
//!
//! In: secrets by name, and outputs. Out: where a secret stands in an output, in any of the forms that encoders and printers give it.
//!
//! A long secret is searched for in pieces, so that a shortened or wrapped one is found too. Besides the secrets that are known,
//! everything that is shaped like a JWT counts, since pods and their tokens come and go.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// The shortest secret: a shorter one would be found in what has nothing to do with it.
const SHORTEST: usize = 12;

/// How long the pieces of a long secret are, in bytes.
const PIECE: usize = 24;

/// How much of an output a finding shows on both sides, in bytes.
const CONTEXT: usize = 80;

/// Findings of one output that are told; one line of code that leaks does so thousands of times.
const TOLD: usize = 5;

/// How long a private key of P-256 is in PKCS #8 (RFC 5958), how it begins, and where its secret is. The public key follows.
const KEY_LENGTH: usize = 138;
const KEY_START: [u8; 7] = [0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30];
const PRIVATE_NUMBER: Range<usize> = 36..68;

/// The bytes that the first line of PEM holds (RFC 7468).
const FIRST_LINE: usize = 48;

/// Where a secret must not stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere.
    Everywhere,
    /// In nothing that Picket writes. The client wrote it into the request's target, which reaches the API server as it was sent.
    OfRequest,
}

/// Who wrote an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Picket.
    Picket,
    /// The API server.
    ApiServer,
}

/// A text that others than the secrets' owners read.
#[derive(Clone)]
pub struct Output {
    /// For people.
    pub name: String,
    /// Who wrote it.
    pub writer: Writer,
    /// All of it.
    pub text: Vec<u8>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.text.len())
    }
}

/// A secret in an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The secret.
    pub secret: String,
    /// The output.
    pub output: String,
    /// What stands around it, with the secret's bytes left out.
    pub around: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in {}: {}", self.secret, self.output, self.around)
    }
}

/// The secrets of a suite.
#[derive(Default)]
pub struct Secrets(Mutex<Vec<Secret>>);

#[derive(Clone, PartialEq, Eq)]
struct Secret {
    name: String,
    value: Vec<u8>,
    reach: Reach,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} secrets", known.len())
    }
}

impl Secrets {
    /// Notes a secret. Of a JWT the signature alone is searched for: it is the part that nobody can guess.
    ///
    /// # Errors
    /// It is too short to be told from other text.
    pub fn add(&self, name: &str, value: impl AsRef<[u8]>, reach: Reach) -> Result<()> {
        let value = signature(value.as_ref()).to_vec();
        ensure!(
            value.len() >= SHORTEST,
            "{name} has {} bytes, and a secret of tests has {SHORTEST} at least",
            value.len()
        );
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|one| one.value == value) {
            known.push(Secret {
                name: name.to_owned(),
                value,
                reach,
            });
        }
        Ok(())
    }

    /// Notes the private key of a PEM file: one of P-256, as all keys of the tests are. It is noted in two pieces, since PEM breaks
    /// the line between them.
    ///
    /// # Errors
    /// The text is no such key.
    pub fn add_key(&self, name: &str, pem: &str) -> Result<()> {
        let (_, rest) = pem.split_once("PRIVATE KEY-----").unwrap_or_default();
        let (body, _) = rest.split_once("-----END").unwrap_or_default();
        let key = STANDARD.decode(body.split_ascii_whitespace().collect::<String>())?;
        let is_p256 = key.len() == KEY_LENGTH && key.starts_with(&KEY_START);
        ensure!(is_p256, "{name} is no private key of P-256 in PEM");
        let (first, second) = key[PRIVATE_NUMBER].split_at(FIRST_LINE - PRIVATE_NUMBER.start);
        self.add(name, first, Reach::Everywhere)?;
        self.add(name, second, Reach::Everywhere)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where secrets, and anything shaped like a JWT, stand in these outputs.
    ///
    /// # Errors
    /// There are more secrets than can be searched for.
    pub fn search(&self, outputs: &[Output]) -> Result<Vec<Leak>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut needles: Vec<(Vec<u8>, usize)> = Vec::new();
        for (index, secret) in known.iter().enumerate() {
            needles.extend(forms(&secret.value).into_iter().map(|form| (form, index)));
        }
        let automaton = AhoCorasick::new(needles.iter().map(|(form, _)| form))?;
        let mut findings = Vec::new();
        for output in outputs {
            let told = findings.len() + TOLD;
            let tell = |secret: &str, range: Range<usize>, findings: &mut Vec<Leak>| {
                if findings.len() < told {
                    findings.push(Leak {
                        secret: secret.to_owned(),
                        output: output.name.clone(),
                        around: around(&output.text, range),
                    });
                }
            };
            for found in automaton.find_iter(&output.text) {
                let (_, index) = needles[found.pattern().as_usize()];
                let secret = &known[index];
                if secret.reach == Reach::OfRequest && output.writer == Writer::ApiServer {
                    continue;
                }
                tell(&secret.name, found.range(), &mut findings);
            }
            for range in tokens(&output.text) {
                tell("a JWT", range, &mut findings);
            }
        }
        Ok(findings)
    }
}

/// The signature of a JWT; anything else as it is.
fn signature(value: &[u8]) -> &[u8] {
    let value = match value.starts_with(b"eyJ") {
        true => value.trim_ascii_end(),
        false => value,
    };
    if !value.starts_with(b"eyJ") || value.iter().filter(|&&byte| byte == b'.').count() != 2 {
        return value;
    }
    let start = value.iter().rposition(|&byte| byte == b'.');
    start.map_or(value, |dot| &value[dot + 1..])
}

/// A secret in pieces, and each piece as encoders write it.
fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms: Vec<Vec<u8>> = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        // A short piece at the end would be found in other text, and belongs to the one before.
        let length = if rest.len() < PIECE + SHORTEST {
            rest.len()
        } else {
            PIECE
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        forms.push(piece.to_vec());
        forms.push(escaped(piece));
        forms.push(percent(piece, false));
        forms.push(percent(piece, true));
        forms.push(piece.iter().fold(String::new(), hex).into_bytes());
        for shift in 0..3 {
            forms.push(inside(
                &STANDARD.encode(shifted(piece, shift)),
                piece.len(),
                shift,
            ));
            forms.push(inside(
                &URL_SAFE_NO_PAD.encode(shifted(piece, shift)),
                piece.len(),
                shift,
            ));
        }
        // The bytes as Rust prints a vector of them.
        forms.push(format!("{piece:?}").trim_matches(['[', ']']).as_bytes().to_vec());
    }
    forms.sort();
    forms.dedup();
    forms
}

fn hex(mut text: String, byte: &u8) -> String {
    // Writing to a String does not fail.
    let _ = write!(text, "{byte:02x}");
    text
}

/// As JSON and Rust's `Debug` write text.
fn escaped(piece: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(piece).into_owned();
    let written = serde_json::Value::String(text).to_string();
    written.trim_matches('"').as_bytes().to_vec()
}

/// Percent-encoded: what must be (RFC 3986), or every byte.
fn percent(piece: &[u8], all: bool) -> Vec<u8> {
    let mut written = String::new();
    for &byte in piece {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let _ = match plain && !all {
            true => write!(written, "{}", char::from(byte)),
            false => write!(written, "%{byte:02X}"),
        };
    }
    written.into_bytes()
}

fn shifted(piece: &[u8], shift: usize) -> Vec<u8> {
    [&vec![0; shift][..], piece].concat()
}

/// Of base64 those characters that are the piece's alone, whatever stands before and behind it.
fn inside(encoded: &str, length: usize, shift: usize) -> Vec<u8> {
    let start = (shift * 8).div_ceil(6);
    let end = (shift + length) * 8 / 6;
    encoded.as_bytes()[start..end].to_vec()
}

/// What is shaped like a whole JWT: three parts in base64url, the first two of them JSON objects.
fn tokens(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find(&text[from..], b"eyJ") {
        let start = from + at;
        let in_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let length = text[start..].iter().take_while(|byte| in_token(byte)).count();
        let mut parts = text[start..start + length].split(|&byte| byte == b'.');
        let (header, payload, signed) = (parts.next(), parts.next(), parts.next());
        if header.is_some_and(|part| part.len() >= SHORTEST)
            && payload.is_some_and(|part| part.len() >= SHORTEST && part.starts_with(b"eyJ"))
            && signed.is_some_and(|part| part.len() >= PIECE)
        {
            found.push(start..start + length);
        }
        from = start + length.max(1);
    }
    found
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// The text on both sides of a secret, for people.
fn around(text: &[u8], found: Range<usize>) -> String {
    let line = |byte: &u8| *byte == b'\n';
    let before = &text[found.start.saturating_sub(CONTEXT)..found.start];
    let after = &text[found.end..text.len().min(found.end + CONTEXT)];
    let before = before.rsplit(line).next().unwrap_or_default();
    let after = after.split(line).next().unwrap_or_default();
    format!(
        "{}<{} bytes>{}",
        String::from_utf8_lossy(before),
        found.len(),
        String::from_utf8_lossy(after)
    )
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod unit;
