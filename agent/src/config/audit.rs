//! The section `audit`: where the spool is, how large it gets, and which sinks copy its records.
//!
//! In: a configuration's fields. Out: an [`AuditConfig`], or what is wrong in it with its place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use picket_policy::yaml::{Decoder, Fields, Value, YamlNode};

use super::reference::{REPLACED, Replaced, fields_of};
use super::texts::optional_path;
use crate::audit::{AuditConfig, SinkConfig, SinkTarget};

/// The kinds of sinks.
const KINDS: [&str; 2] = ["file", "stdout"];

/// The smallest segment: a few batches of lines, and far more than one line.
const MIN_SEGMENT: u64 = 1024 * 1024;

/// The shortest life of a segment.
const MIN_AGE: Duration = Duration::from_secs(60);

/// The longest name of a sink: it is part of the names of files and threads.
const MAX_NAME: usize = 63;

/// Units of sizes, as Kubernetes writes quantities.
const SIZES: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

/// Units of durations, the longest first.
const TIMES: [(&str, u64); 3] = [("h", 3600), ("m", 60), ("s", 1)];

pub(super) fn read(decoder: &mut Decoder, top: &Fields<'_>, node_name: &str) -> AuditConfig {
    let mut audit = AuditConfig {
        node: node_name.to_owned(),
        ..AuditConfig::default()
    };
    let Some(section) = top.get("audit") else {
        return audit;
    };
    let known: Vec<&str> = fields_of("audit")
        .into_iter()
        .chain(REPLACED.map(|field| name_of(&field)))
        .collect();
    let Some(fields) = decoder.fields(section, "audit", &known, &[]) else {
        return audit;
    };
    refuse_replaced(decoder, section);
    if let Some(directory) = optional_path(decoder, &fields, "directory") {
        audit.directory = directory;
        absolute(decoder, &fields, "directory", &audit.directory);
    }
    let [segment, total] = ["maxSegmentSize", "maxTotalSize"].map(|name| size(decoder, &fields, name));
    audit.max_segment_size = segment.unwrap_or(audit.max_segment_size);
    audit.max_total_size = total.unwrap_or(audit.max_total_size);
    audit.max_segment_age = age(decoder, &fields).unwrap_or(audit.max_segment_age);
    bounds(decoder, &fields, &audit);
    audit.sinks = sinks(decoder, &fields, &audit.directory);
    audit
}

fn refuse_replaced(decoder: &mut Decoder, section: &YamlNode) {
    let Value::Map(entries) = &section.value else {
        return;
    };
    for (key, _) in entries {
        let replaced = REPLACED
            .iter()
            .find(|field| matches!(&key.value, Value::Text(name) if name == name_of(field)));
        if let Some(Replaced { old, advice, .. }) = replaced {
            decoder.error_at(key, format!("field `{old}` is gone: {advice}"));
        }
    }
}

fn name_of(field: &Replaced) -> &'static str {
    field.old.trim_start_matches("audit.")
}

fn absolute(decoder: &mut Decoder, fields: &Fields<'_>, name: &str, path: &Path) {
    if let Some(node) = fields.get(name)
        && !path.is_absolute()
    {
        decoder.error_at(
            node,
            format!("field `{}` must be an absolute path", fields.path(name)),
        );
    }
}

fn size(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<u64> {
    let node = fields.get(name)?;
    let read = match &node.value {
        Value::Text(text) | Value::Number(text) => quantity(text),
        _ => None,
    };
    if read.is_none() {
        decoder.error_at(
            node,
            format!(
                "field `{}` must be a quantity of bytes: a whole number with Ki, Mi or Gi, such as 64Mi, not {}",
                fields.path(name),
                shown(node)
            ),
        );
    }
    read
}

/// A whole number of bytes with a unit of Kubernetes' quantities.
fn quantity(text: &str) -> Option<u64> {
    let (_, unit, number) = SIZES
        .iter()
        .find_map(|(suffix, unit)| Some((suffix, unit, text.strip_suffix(suffix)?)))?;
    digits(number)?.checked_mul(*unit)
}

fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn age(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<Duration> {
    let node = fields.get("maxSegmentAge")?;
    let read = match &node.value {
        Value::Text(text) => duration(text),
        _ => None,
    };
    match read {
        Some(age) if age >= MIN_AGE => return Some(age),
        Some(_) => decoder.error_at(node, "field `audit.maxSegmentAge` must be at least 1m"),
        None => decoder.error_at(
            node,
            format!(
                "field `audit.maxSegmentAge` must be a duration in h, m and s, such as 24h or 1h30m, not {}",
                shown(node)
            ),
        ),
    }
    None
}

/// A duration as Kubernetes writes it, in whole units: `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds, mut units) = (text, 0_u64, TIMES.iter());
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, after) = rest.split_at(end);
        let (unit, length) = units.find(|(unit, _)| after.starts_with(unit))?;
        seconds = seconds.checked_add(digits(number).filter(|_| end > 0)?.checked_mul(*length)?)?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

fn shown(node: &YamlNode) -> String {
    match &node.value {
        Value::Text(text) => format!("{text:?}"),
        other => other.describe(),
    }
}

fn bounds(decoder: &mut Decoder, fields: &Fields<'_>, audit: &AuditConfig) {
    let section = fields.node;
    if audit.max_segment_size < MIN_SEGMENT {
        decoder.error_at(
            fields.get("maxSegmentSize").unwrap_or(section),
            "field `audit.maxSegmentSize` must be at least 1Mi",
        );
    } else if audit.max_total_size / 2 < audit.max_segment_size {
        let at = fields.get("maxTotalSize").or(fields.get("maxSegmentSize"));
        decoder.error_at(
            at.unwrap_or(section),
            "field `audit.maxTotalSize` must be at least twice `audit.maxSegmentSize`, since only whole segments are removed",
        );
    }
}

fn sinks(decoder: &mut Decoder, fields: &Fields<'_>, spool: &Path) -> Vec<SinkConfig> {
    let Some(node) = fields.get("sinks") else {
        return Vec::new();
    };
    let mut sinks: Vec<SinkConfig> = Vec::new();
    for (index, item) in decoder.list(node, "audit.sinks").iter().enumerate() {
        let path = format!("audit.sinks[{index}]");
        let Some(sink) = sink(decoder, item, &path) else {
            continue;
        };
        if let Some(same) = sinks.iter().find(|same| same.name == sink.name) {
            decoder.error_at(
                item,
                format!("field `{path}.name`: two sinks are called {:?}", same.name),
            );
        } else if let Some(same) = sinks.iter().find(|same| is_same(&same.target, &sink.target)) {
            decoder.error_at(
                item,
                format!(
                    "field `{path}`: sink `{}` writes to {} already",
                    same.name, sink.target
                ),
            );
        }
        if matches!(&sink.target, SinkTarget::File { path } if resolved(path).starts_with(resolved(spool))) {
            decoder.error_at(
                item,
                format!("field `{path}.file.path` must not be in `audit.directory`, which holds the agent's own files"),
            );
        }
        sinks.push(sink);
    }
    sinks
}

/// Whether two targets are one, whatever they are called.
fn is_same(one: &SinkTarget, other: &SinkTarget) -> bool {
    let (SinkTarget::File { path: one }, SinkTarget::File { path: other }) = (one, other) else {
        return one == other;
    };
    let file = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    resolved(one) == resolved(other) || file(one).is_some_and(|one| file(other) == Some(one))
}

/// Where a path leads: symbolic links are followed as far as there is something, and what is not there yet is taken by its name.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir => {}
            part => resolved.push(part),
        }
        // Before the next part: a `..` leads above what a link leads to.
        if let Ok(there) = fs::canonicalize(&resolved) {
            resolved = there;
        }
    }
    resolved
}

fn sink(decoder: &mut Decoder, item: &YamlNode, path: &str) -> Option<SinkConfig> {
    let fields = decoder.fields(item, path, &fields_of("audit.sinks[]"), &[])?;
    let name = decoder.required_text(&fields, "name");
    if let Some(name) = &name
        && !is_name(&name.value)
    {
        decoder.error_at(
            &name.at,
            format!(
                "field `{path}.name`: {:?} must consist of lower-case letters, digits and -, {MAX_NAME} at most",
                name.value
            ),
        );
    }
    let given: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| fields.get(kind).is_some())
        .collect();
    let target = match given.as_slice() {
        ["file"] => file(decoder, &fields),
        ["stdout"] => {
            let node = fields.get("stdout")?;
            decoder.fields(node, &fields.path("stdout"), &[], &[])?;
            Some(SinkTarget::Stdout)
        }
        _ => {
            decoder.error_at(
                item,
                format!("field `{path}` must have one target: file: {{path: FILE}} or stdout: {{}}"),
            );
            None
        }
    };
    Some(SinkConfig {
        name: name?.value,
        target: target?,
    })
}

fn file(decoder: &mut Decoder, sink: &Fields<'_>) -> Option<SinkTarget> {
    let node = sink.get("file")?;
    let fields = decoder.fields(node, &sink.path("file"), &fields_of("audit.sinks[].file"), &[])?;
    let path = PathBuf::from(decoder.required_text(&fields, "path")?.value);
    absolute(decoder, &fields, "path", &path);
    Some(SinkTarget::File { path })
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sinks_file_is_where_its_path_leads() {
        let held = tempfile::tempdir().expect("a folder");
        let at = |path: &str| held.path().join(path);
        fs::create_dir_all(at("spool/deep")).expect("folders");
        fs::create_dir(at("logs")).expect("a folder");
        for (link, to) in [
            ("by-link", "spool"),
            ("into", "spool/deep"),
            ("old.jsonl", "logs/copy.jsonl"),
        ] {
            std::os::unix::fs::symlink(at(to), at(link)).expect("a link");
        }
        fs::write(at("logs/copy.jsonl"), "").expect("a file");
        fs::hard_link(at("logs/copy.jsonl"), at("logs/other.jsonl")).expect("another name");
        let file = |path: &str| SinkTarget::File { path: at(path) };
        for (one, other, same) in [
            ("logs/new.jsonl", "logs/./x/../new.jsonl", true),
            ("logs/copy.jsonl", "old.jsonl", true),
            ("logs/copy.jsonl", "logs/other.jsonl", true),
            ("by-link/new.jsonl", "spool/new.jsonl", true),
            ("into/../new.jsonl", "spool/new.jsonl", true),
            ("into/../new.jsonl", "new.jsonl", false),
            ("logs/new.jsonl", "logs/newer.jsonl", false),
        ] {
            assert_eq!(is_same(&file(one), &file(other)), same, "{one} {other}");
        }
        assert!(is_same(&SinkTarget::Stdout, &SinkTarget::Stdout));
        let twice = |one: &str, other: &str| {
            let sink = |name, path| format!("{{name: {name}, file: {{path: {}}}}}", at(path).display());
            let text = format!(
                "nodeName: n\naudit: {{sinks: [{}, {}]}}\n",
                sink("a", one),
                sink("b", other)
            );
            let error = crate::config::Config::parse("f", &text).expect_err("fields are missing");
            error.to_string().contains("sink `a` writes to")
        };
        assert!(twice("logs/copy.jsonl", "old.jsonl") && twice("logs/copy.jsonl", "logs/other.jsonl"));
        assert!(!twice("logs/copy.jsonl", "logs/new.jsonl"));
        let refused = |path: &str| {
            let text = format!(
                "nodeName: n\naudit: {{directory: {}, sinks: [{{name: a, file: {{path: {}}}}}]}}\n",
                at("spool").display(),
                at(path).display()
            );
            let error = crate::config::Config::parse("f", &text).expect_err("fields are missing");
            error.to_string().contains("must not be in `audit.directory`")
        };
        for inside in ["spool/a", "logs/../spool/a", "by-link/a", "into/a", "into/../a"] {
            assert!(refused(inside), "{inside}");
        }
        assert!(!refused("logs/a") && !refused("spool/../a"));
    }

    #[test]
    fn quantities_and_durations_are_those_of_kubernetes() {
        for (text, bytes) in [
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("500M", Some(500_000_000)),
            ("4096", Some(4096)),
            ("10k", Some(10_000)),
            ("", None),
            ("Mi", None),
            ("1.5Gi", None),
            ("-1Mi", None),
            ("+1Mi", None),
            ("64MB", None),
            ("64 Mi", None),
            ("99999999999Ti", None),
        ] {
            assert_eq!(quantity(text), bytes, "{text}");
        }
        for (text, seconds) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5_400)),
            ("90s", Some(90)),
            ("1h1m1s", Some(3_661)),
            ("", None),
            ("24", None),
            ("h", None),
            ("1d", None),
            ("1m1h", None),
            ("1.5h", None),
            ("1h 1m", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
