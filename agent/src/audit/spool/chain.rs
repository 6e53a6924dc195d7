//! The hash chain that binds each stored line to the one before, and its verification.
//!
//! In: events to store, or the lines of a spool. Out: lines that carry their place in the chain, or a [`Report`] of whole lines
//! and each [`Break`].
//!
//! A line ends with `"integrity":{"bootID":B,"seq":N,"prevHash":P,"hash":H}}` and a newline. `H` is the lower-case hex SHA-256
//! of the line's stored bytes before `,"hash":"`: the line without its last 76 bytes and newline. A shell can recompute it:
//! `printf %s "$line" | head -c -76 | sha256sum`. `P` is the `H` of the line before. It is among the hashed bytes, so that no
//! line can be changed, moved or taken out without a break.
//!
//! A chain is one life of the writer. `B` is the kernel's boot id, `/`, and the chain's start in microseconds since 1970; `N`
//! counts from 1. The first line of a chain carries the hash of the last whole line in the spool, so chains are bound to each
//! other too. Where there was none it carries sixty-four zeros. A chain goes on over the ends of segments: the first line of a
//! segment carries the hash of the last line of the one before. The chain alone cannot show that lines are missing at the very
//! end, or segments at the beginning.
//!
//! A piece that a crash left is the beginning of a line, and so no whole JSON. Anything else between the lines that a reader of
//! JSON would take for a record is a break.

use std::fmt;
use std::io::{self, BufRead};

use jiff::Timestamp;
use ring::digest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::audit::event::Event;
use crate::audit::invisible::escape_json;
use crate::audit::line::{Integrity, Line};

/// What stands between the hashed bytes and the hash.
const BEFORE_HASH: &[u8] = b",\"hash\":\"";
/// What stands before the hash of the line before, the last of the hashed bytes.
const BEFORE_PREVIOUS: &[u8] = b",\"prevHash\":\"";
/// What follows the hash.
const AFTER_HASH: &[u8] = b"\"}}";
/// Length of the hash, in hex digits.
const HASH_LENGTH: usize = 64;
/// All that a line has after its hashed bytes, but for the newline.
const TRAILER: usize = BEFORE_HASH.len() + HASH_LENGTH + AFTER_HASH.len();

/// A line's hash, as hex text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; HASH_LENGTH]);

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl Hash {
    /// Stands where there is no line before.
    pub(in crate::audit) const NONE: Hash = Hash([b'0'; HASH_LENGTH]);

    fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let mut hex = [0; HASH_LENGTH];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest.as_ref()) {
            pair[0] = digit(byte >> 4);
            pair[1] = digit(byte & 15);
        }
        Self(hex)
    }

    /// The hash as it stands in a line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// A hash that was written down.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hash = <[u8; HASH_LENGTH]>::try_from(text.as_bytes()).ok()?;
        hash.iter().all(u8::is_ascii_hexdigit).then_some(Self(hash))
    }

    /// The hash that a stored line carries, if it is one of ours.
    #[must_use]
    pub fn stored(line: &[u8]) -> Option<Self> {
        let rest = line.strip_suffix(AFTER_HASH)?;
        let (rest, hash) = rest.split_last_chunk::<HASH_LENGTH>()?;
        (rest.ends_with(BEFORE_HASH) && hash.iter().all(u8::is_ascii_hexdigit)).then_some(Self(*hash))
    }

    /// The hash of the line before, as a stored line carries it. The line is not read as JSON.
    pub(in crate::audit) fn previous(line: &[u8]) -> Option<Self> {
        let hashed = line.get(..line.len().checked_sub(TRAILER)?)?;
        let rest = hashed.strip_suffix(b"\"")?;
        let (rest, hash) = rest.split_last_chunk::<HASH_LENGTH>()?;
        rest.ends_with(BEFORE_PREVIOUS).then_some(Self(*hash))
    }
}

fn digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

/// The writer's end of a chain.
#[derive(Clone)]
pub(in crate::audit) struct Chain {
    boot_id: String,
    seq: u64,
    last: Hash,
}

impl Chain {
    /// A new chain behind `last`, the hash of the last whole line of the file.
    pub(in crate::audit) fn start(last: Hash) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = format!("{}/{}", boot.trim(), Timestamp::now().as_microsecond());
        Self {
            boot_id,
            seq: 0,
            last,
        }
    }

    /// Where the chain stands.
    pub(in crate::audit) fn mark(&self) -> (u64, Hash) {
        (self.seq, self.last)
    }

    /// Goes back to a mark, when lines after it were not stored.
    pub(in crate::audit) fn reset(&mut self, mark: (u64, Hash)) {
        (self.seq, self.last) = mark;
    }

    /// Appends the event's line, with its newline, to `out`.
    pub(in crate::audit) fn append(
        &mut self,
        event: &Event,
        node: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let start = out.len();
        let seq = self.seq + 1;
        let integrity = Integrity {
            boot_id: &self.boot_id,
            seq,
            prev_hash: self.last.as_str(),
        };
        if let Err(error) = serde_json::to_writer(&mut *out, &Line::new(event, node, integrity)) {
            out.truncate(start);
            return Err(error);
        }
        // Whoever looks at the stored line sees all of it.
        escape_json(out, start);
        // The two braces that close `integrity` and the line come back behind the hash.
        out.truncate(out.len() - 2);
        self.last = Hash::of(&out[start..]);
        self.seq = seq;
        out.extend_from_slice(BEFORE_HASH);
        out.extend_from_slice(&self.last.0);
        out.extend_from_slice(AFTER_HASH);
        out.push(b'\n');
        Ok(())
    }
}

/// The hash of the last whole line in `tail`, the end of a file. A line that a crash left without its newline alone is
/// whole.
pub(in crate::audit) fn last_whole(tail: &[u8]) -> Option<Hash> {
    tail.rsplit(|byte| *byte == b'\n').find_map(Hash::stored)
}

/// A line that does not fit its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// Line number, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Break {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => out.write_str(&self.reason),
            line => write!(out, "line {line}: {}", self.reason),
        }
    }
}

/// What a verification found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// All lines.
    pub lines: u64,
    /// Lines whose hash and place are right.
    pub good: u64,
    /// Chains that begin in the file.
    pub chains: u64,
    /// The first line's number in its chain; above 1 when the file continues an earlier one.
    pub first_seq: Option<u64>,
    /// Pieces of lines that a crash cut short. They belong to no chain and hide nothing: a whole line that was
    /// damaged shows as a break at the next one.
    pub torn: u64,
    /// Lines that do not fit.
    pub breaks: Vec<Break>,
}

impl Report {
    /// Whether the file can stand: nothing in it breaks a chain, and it holds a record if it holds anything.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.breaks.is_empty() && (self.good > 0 || self.torn == 0)
    }
}

#[derive(Deserialize)]
struct Stored {
    integrity: StoredIntegrity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredIntegrity {
    #[serde(rename = "bootID")]
    boot_id: String,
    seq: u64,
    prev_hash: String,
}

impl Stored {
    /// A stored line, with the hash it carries.
    fn read(line: &[u8]) -> Option<(Self, Hash)> {
        Some((serde_json::from_slice(line).ok()?, Hash::stored(line)?))
    }
}

/// Whether a line is as the agent stored it, wherever it stands: a record whose hash is that of its bytes.
#[must_use]
pub fn is_record(line: &[u8]) -> bool {
    Stored::read(line).is_some_and(|(_, hash)| hash_of(line) == hash)
}

/// The hash that a stored line should carry.
fn hash_of(line: &[u8]) -> Hash {
    Hash::of(&line[..line.len().saturating_sub(TRAILER)])
}

/// Whether a line is a piece that a crash left. What looks like a stored line is not read.
pub(super) fn is_piece(line: &[u8]) -> bool {
    Hash::stored(line).is_none() && is_torn(line)
}

/// Whether a line that is no stored one can be a piece that a crash left.
fn is_torn(line: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(line).into_iter::<IgnoredAny>();
    Hash::stored(line).is_none() && !matches!(values.next(), Some(Ok(_)))
}

/// A stored line's place in its chain, as checkpoints tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPlace {
    /// The chain.
    pub boot_id: String,
    /// The line's number in it.
    pub seq: u64,
    /// The line's hash.
    pub hash: Hash,
}

impl ChainPlace {
    /// The place of a stored line, if it is one.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        let (Stored { integrity }, hash) = Stored::read(line)?;
        Some(Self {
            boot_id: integrity.boot_id,
            seq: integrity.seq,
            hash,
        })
    }
}

/// Verifies files of one node in the order they were written, the oldest first.
#[derive(Default)]
pub struct Verifier {
    before: Option<(StoredIntegrity, Hash)>,
}

impl Verifier {
    /// Verifies the next file. The first line of the first file is taken as it is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(&mut self, mut file: impl BufRead) -> io::Result<Report> {
        let mut report = Report::default();
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                return Ok(report);
            }
            number += 1;
            report.lines = number;
            let whole = line.strip_suffix(b"\n");
            self.line(number, whole.unwrap_or(&line), &mut report);
        }
    }

    fn line(&mut self, number: u64, line: &[u8], report: &mut Report) {
        if line.is_empty() {
            return;
        }
        let mut wrong = |reason: String| report.breaks.push(Break { line: number, reason });
        let Some((Stored { integrity }, hash)) = Stored::read(line) else {
            if is_torn(line) {
                report.torn += 1;
            } else {
                wrong("it belongs to no chain: the agent stored no such line".to_owned());
            }
            return;
        };
        let mut good = true;
        if hash_of(line) != hash {
            wrong("the line was changed: its hash does not match its bytes".to_owned());
            good = false;
        }
        let begins = integrity.seq == 1;
        match &self.before {
            None => {}
            Some((_, last)) if integrity.prev_hash != last.as_str() => {
                let place = match &self.before {
                    Some((before, _)) if before.boot_id == integrity.boot_id => {
                        format!(
                            "it is number {} of its chain, the line before is number {}",
                            integrity.seq, before.seq
                        )
                    }
                    _ => "it begins another chain that is not bound to the line before".to_owned(),
                };
                let between = match number {
                    1 => {
                        "; a segment is missing between this file and the one before, or lines at the end of that one"
                    }
                    _ => "",
                };
                wrong(format!(
                    "lines are missing, moved or changed before it: {place}{between}"
                ));
                good = false;
            }
            Some((before, _)) => {
                let follows =
                    before.boot_id == integrity.boot_id && before.seq.checked_add(1) == Some(integrity.seq);
                let restarts = before.boot_id != integrity.boot_id && begins;
                if !follows && !restarts {
                    wrong(format!(
                        "number {} cannot follow number {}",
                        integrity.seq, before.seq
                    ));
                    good = false;
                }
            }
        }
        report.good += u64::from(good);
        report.chains += u64::from(begins);
        report.first_seq.get_or_insert(integrity.seq);
        self.before = Some((integrity, hash));
    }
}

/// An event's JSON as the agent would store it, for tests of those who read the log.
#[cfg(test)]
pub(crate) fn stored(event: &str, seq: u64) -> String {
    let body = format!(
        "{},\"integrity\":{{\"bootID\":\"b\",\"seq\":{seq},\"prevHash\":\"{}\"",
        event.strip_suffix('}').expect("an object"),
        Hash::NONE.as_str()
    );
    format!("{body},\"hash\":\"{}\"}}}}", Hash::of(body.as_bytes()).as_str())
}
