//! YAML bodies are what the API server's reader makes of them.
//!
//! In: texts that are put together at random from pieces at which readers of YAML differ. Out: the texts that both readers take, with one
//! value. What Picket refuses and the other takes is no difference: whoever sends such a text is told what to write instead.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_policy::body::{MediaType, read};
use picket_tests::build::GoProgram;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::random::Random;

pub(crate) const TESTS: &[Test] = tests! {
    texts_that_both_readers_take_have_one_value,
};

/// So many texts are read, and at least so many are taken by both.
const TEXTS: usize = 200_000;
const TAKEN_BY_BOTH: usize = 5_000;

/// No more differences than these are told.
const TOLD: usize = 20;

/// How a text begins.
#[rustfmt::skip]
const BEGINNINGS: [&str; 12] = [
    "a: ", "m:\n  a: ", "a: b\nc: ", "l:\n- ", "l:\n- a: ", "f: {", "f: [", "s: |\n  ", "s: >\n  ", "s: \"", "s: '", "",
];

/// What may follow, up to seven of them.
#[rustfmt::skip]
const PIECES: [&str; 124] = [
    "a", "b", "x: y", "key", "- ", "-", "\n", "\n ", "\n  ", "\n\n", "  ", "\t", " \t", ":", ": ", "'", "\"", "\\", "\\/",
    "\\n", "\\x41", "\\u0041", "\\e", "\\ ", "\\\n  ", "#", " #", "# c\n", "|", "|-", "|+", ">", ">-", ">+", "|2\n", "{",
    "}", "[", "]", ",", "?", "? ", "!", "&a", "*a", "~", "null", "true", "1", "1.0", "1e3", "--- ", "---\n", "...\n", "...",
    "%", "@", "`", "\u{e9}", "\u{a0}", "\r", "\r\n", "''", "\"\"", "0x1", "1:2", "::", "=", "<<", ": [1]\n", " - c\n",
    "{a: 1}", "[a, b]", "a:b", "{a:1}", "{\"a\":1}", "\"a\":1", "a: {b\n: c}", "\u{3000}", "\u{b}", "\u{200b}",
    "a: |\n  x\n  y\n", "a: >\n  x\n  y\n\n  z\n", "a: 'x\n  y'\n", "a: \"x\n  y\"\n", "a: x\n  y\n", " ", "- a\n- b\n",
    "a:\n- b\n", "a:\n  b: c\n", "b: d\n", "c: {d: e,}\n", "e: [f,]\n", "g: |\n\n  x\n", "h: |1\n  x\n",
    "i: >\n   x\n  y\n", "j: a # b\n", "k: a#b\n", "l: 'a''b'\n", "m: \"a\\tb\"\n", "n: -1\n", "o: - 1\n", "p: ? a\n",
    "q: @a\n", "r: %a\n", "s: a: b\n", "t: [a: b]\n", "u: {a, b}\n", "v: {a: b, c}\n", "? a\n: b\n", "w: !!str 1\n",
    "\"a b\": c\n", "'a': c\n", "x: \"\\\n  a\"\n", "y1: |\n\tx\n", "z: \tx\n", "aa: x\t\n", "ab: x \n",
    "ac: \"x \n  y\"\n", "ad: |\n  x  \n", "ae: >\n  x\n    y\n  z\n", "af: >\n\n  x\n", "ag: |+\n  x\n\n",
    "ah: >-\n  x\n\n\n",
];

/// How it ends.
#[rustfmt::skip]
const ENDS: [&str; 6] = [
    "", "\n", "\"", "'", "}", "]",
];

fn text(random: &mut Random) -> String {
    let mut text = random.word(&BEGINNINGS).to_owned();
    for _ in 0..=random.below(7) {
        text.push_str(random.word(&PIECES));
    }
    text.push_str(random.word(&ENDS));
    text
}

/// What the API server's reader makes of each text: JSON, or nothing where it takes none.
fn answers(texts: &[String]) -> Result<Vec<Option<Value>>> {
    let mut oracle = Command::new(GoProgram::ProtobufOracle.path()?)
        .arg("yaml")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = oracle.stdin.take().context("a pipe")?;
    let lines: String = texts.iter().map(|text| STANDARD.encode(text) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = oracle.wait_with_output()?;
    ensure!(output.status.success(), "the oracle ended with {}", output.status);
    writer.join().ok().context("a thread that writes")??;
    let answers = String::from_utf8(output.stdout)?;
    let read = |line| match line {
        "-" => Ok(None),
        line => serde_json::from_str(line).map(Some),
    };
    Ok(answers.lines().map(read).collect::<Result<_, _>>()?)
}

fn texts_that_both_readers_take_have_one_value() -> Result<()> {
    let mut random = Random::new(7);
    let texts: Vec<_> = (0..TEXTS).map(|_| text(&mut random)).collect();
    let answers = answers(&texts)?;
    ensure!(answers.len() == texts.len(), "{} answers", answers.len());
    let (mut both, mut differ) = (0, Vec::new());
    for (text, theirs) in texts.iter().zip(answers) {
        let (Ok(ours), Some(theirs)) = (read(MediaType::Yaml, text.as_bytes()), theirs) else {
            continue;
        };
        both += 1;
        if ours != theirs {
            differ.push(format!("{text:?}: {ours} and not {theirs}"));
        }
    }
    eprintln!("YAML: both readers take {both} of {TEXTS} texts");
    ensure!(
        differ.is_empty(),
        "{} differ, such as {:#?}",
        differ.len(),
        &differ[..differ.len().min(TOLD)]
    );
    ensure!(both >= TAKEN_BY_BOTH, "both take {both} texts only");
    Ok(())
}
