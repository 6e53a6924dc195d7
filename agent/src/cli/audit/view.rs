//! How an event looks to people: a line of aligned columns that a terminal of 120 columns holds.
//!
//! In: an event as JSON. Out: a line of text, with colours for a terminal.
//!
//! Names, paths and commands that an agent chose are printed with invisible characters escaped. So an event cannot move the
//! cursor, pretend to be another one or hide a part of itself.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::audit::redact::percent_decode;
use crate::cli::output::clean;

/// Widths of the columns, in characters; what is longer is cut in its middle. The last column has no end.
const IDENTITY: usize = 12;
const VERB: usize = 7;
const OBJECT: usize = 30;
const FROM: usize = 18;
const TOOK: usize = 6;
const OUTCOME: usize = 7;

/// Formats events.
pub(super) struct View {
    colour: bool,
    /// Whether cells are shown whole: longer ones move what follows.
    wide: bool,
    zone: TimeZone,
}

impl View {
    /// `colour` marks outcomes by ANSI colours, `wide` cuts no cell. Times are of the machine's own zone.
    pub(super) fn new(colour: bool, wide: bool) -> Self {
        Self {
            colour,
            wide,
            zone: TimeZone::system(),
        }
    }

    /// The columns' names.
    pub(super) fn header(&self) -> String {
        self.columns([
            "TIME          ",
            &pad("OUTCOME", OUTCOME),
            "IDENTITY",
            "VERB",
            "OBJECT",
            "FROM",
            "TOOK",
            "WHY",
        ])
    }

    /// One event.
    pub(super) fn line(&self, event: &Value) -> String {
        let text = |at: &str| clean(event.pointer(at).and_then(Value::as_str).unwrap_or(""));
        let outcome = text("/decision/outcome");
        let padded = pad(&outcome, OUTCOME);
        let outcome = match colour(&outcome).filter(|_| self.colour) {
            Some(code) => format!("\u{1b}[{code}m{padded}\u{1b}[0m"),
            None => padded,
        };
        let identity = or_dash(text("/agent/identity"));
        // A caller of the gateway is no pod.
        let from = match (text("/agent/pod/namespace"), text("/agent/pod/name")) {
            (_, name) if name.is_empty() => or_dash(text("/sourceIPs/0")),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        let took = match event
            .pointer("/decision/latencyMicros/total")
            .and_then(Value::as_u64)
        {
            Some(micros) => took(micros),
            None => "-".to_owned(),
        };
        self.columns([
            &self.time(event),
            &outcome,
            &identity,
            &text("/verb"),
            &object(event),
            &from,
            &took,
            &clean(&why(event)),
        ])
    }

    fn time(&self, event: &Value) -> String {
        let stamp = event
            .pointer("/stageTimestamp")
            .and_then(Value::as_str)
            .unwrap_or("");
        match stamp.parse::<Timestamp>() {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%m-%d %H:%M:%S")
                .to_string(),
            Err(_) => pad("-", 14),
        }
    }

    /// Joins the cells; those of time and outcome have their width already.
    fn columns(&self, [time, outcome, identity, verb, object, from, took, why]: [&str; 8]) -> String {
        let cell = match self.wide {
            true => pad,
            false => fit,
        };
        let line = format!(
            "{time} {outcome} {} {} {} {} {} {why}",
            cell(identity, IDENTITY),
            cell(verb, VERB),
            cell(object, OBJECT),
            cell(from, FROM),
            format_args!("{took:>TOOK$}"),
        );
        line.trim_end().to_owned()
    }
}

fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

/// Brings a cell to its width. The middle goes first: pods differ at their end, and begin with what people know.
fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return pad(text, width);
    }
    let kept = width - 1;
    let head: String = text.chars().take(kept - kept / 2).collect();
    let tail: String = text.chars().skip(length - kept / 2).collect();
    format!("{head}…{tail}")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn colour(outcome: &str) -> Option<&'static str> {
    match outcome {
        "allow" => Some("32"),
        "deny" => Some("1;31"),
        "pending" => Some("33"),
        "masked" => Some("36"),
        "error" => Some("35"),
        "unknown" => Some("1;33"),
        _ => None,
    }
}

fn took(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..10_000 => format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100),
        10_000..1_000_000 => format!("{}ms", micros / 1_000),
        1_000_000..60_000_000 => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", micros / 60_000_000, micros / 1_000_000 % 60),
        _ => format!("{}h{:02}m", micros / 3_600_000_000, micros / 60_000_000 % 60),
    }
}

/// What the request is about: `pods/exec prod/web`, `deployments.apps prod/`, a path, or the address dialled.
pub(in crate::cli) fn object(event: &Value) -> String {
    let text = |at: &str| clean(event.pointer(at).and_then(Value::as_str).unwrap_or(""));
    let resource = text("/objectRef/resource");
    if resource.is_empty() {
        let address = text("/kernel/address");
        return match address.is_empty() {
            false => address,
            true => or_dash(text("/requestURI").split('?').next().unwrap_or("").to_owned()),
        };
    }
    let mut words = resource.clone();
    for (mark, part) in [
        ('/', text("/objectRef/subresource")),
        ('.', text("/objectRef/apiGroup")),
    ] {
        if !part.is_empty() {
            words.push(mark);
            words.push_str(&part);
        }
    }
    let (namespace, name) = (text("/objectRef/namespace"), text("/objectRef/name"));
    match (namespace.is_empty() || resource == "namespaces", name.is_empty()) {
        (true, true) => words,
        (true, false) => format!("{words} {name}"),
        (false, _) => format!("{words} {namespace}/{name}"),
    }
}

/// What rules hid of an answer.
fn hidden(event: &Value) -> Option<String> {
    let counts = event.pointer("/masking/counts")?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or_default();
    let rules = event.pointer("/masking/rules")?.as_array()?;
    let rules: Vec<_> = rules.iter().filter_map(Value::as_str).collect();
    Some(format!(
        "{} of {} hidden by {}",
        count("hidden"),
        count("items"),
        rules.join(", ")
    ))
}

/// The last column: rule and message of a refusal, findings, a session's state, an exec's command.
pub(in crate::cli) fn why(event: &Value) -> String {
    let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or("");
    let mut parts = Vec::new();
    let person = text("/agent/onBehalfOf/username");
    if !person.is_empty() {
        parts.push(format!("for {person}"));
    }
    let outcome = text("/decision/outcome");
    if outcome == "masked" {
        parts.extend(hidden(event));
    } else if outcome != "allow" {
        let rule = rule(text("/decision/policy"), text("/decision/rule"));
        // The rule of what is unknown is the grant that permitted it.
        let reason = if rule.is_empty() || outcome == "unknown" {
            text("/decision/reason").to_owned()
        } else {
            rule
        };
        let message = text("/decision/message");
        parts.push(match (reason.is_empty(), message.is_empty()) {
            (false, false) => format!("{reason}: {message}"),
            _ => format!("{reason}{message}"),
        });
    } else if !text("/decision/reason").is_empty() {
        parts.push(format!(
            "cut short ({}: {})",
            text("/decision/reason"),
            text("/decision/message")
        ));
    } else if let Some(code) = event
        .pointer("/responseStatus/code")
        .and_then(Value::as_u64)
        .filter(|code| *code >= 400)
    {
        parts.push(format!("answered {code}"));
    }
    for (at, word) in [
        ("/decision/wouldDeny", "would deny"),
        ("/decision/warnings", "warned"),
    ] {
        for finding in event.pointer(at).and_then(Value::as_array).into_iter().flatten() {
            let field = |name: &str| finding.get(name).and_then(Value::as_str).unwrap_or("");
            parts.push(format!("{word}: {}", rule(field("policy"), field("rule"))));
        }
    }
    let protocol = text("/session/protocol");
    match (text("/stage"), text("/session/endReason")) {
        ("RequestReceived", _) => parts.push("about to be sent".to_owned()),
        ("ResponseStarted", _) => parts.push(format!("{protocol} started")),
        (_, end) if event.pointer("/session").is_some() && !end.is_empty() => {
            let bytes = ["fromClient", "toClient"].map(|way| {
                event
                    .pointer(&format!("/session/bytes/{way}"))
                    .and_then(Value::as_u64)
                    .unwrap_or(0)
            });
            let cause = text("/session/endCause");
            let separator = if cause.is_empty() { "" } else { ": " };
            parts.push(format!(
                "{protocol} ended ({end}{separator}{cause}), {} B in, {} B out",
                bytes[0], bytes[1]
            ));
        }
        _ => {}
    }
    if text("/objectRef/subresource") == "exec" {
        let command = command(event);
        if !command.is_empty() {
            parts.push(format!("$ {command}"));
        }
    }
    parts.retain(|part| !part.is_empty());
    let last = parts.pop().unwrap_or_default();
    let mut why = String::new();
    for part in parts {
        // A message ends like a sentence, and the line goes on.
        why.push_str(part.trim_end_matches('.'));
        why.push_str("; ");
    }
    why + &last
}

fn rule(policy: &str, rule: &str) -> String {
    match (policy.is_empty(), rule.is_empty()) {
        // The name of a built-in deny begins with its policy's.
        (false, false) if rule.split('/').next() == Some(policy) => rule.to_owned(),
        (false, false) => format!("{policy}/{rule}"),
        _ => format!("{policy}{rule}"),
    }
}

/// The command of an exec: as it was judged, or from the query of a record without it.
fn command(event: &Value) -> String {
    let words: Vec<Cow<'_, str>> = match event.pointer("/exec/command").and_then(Value::as_array) {
        Some(words) => words
            .iter()
            .filter_map(Value::as_str)
            .map(Cow::Borrowed)
            .collect(),
        None => {
            let uri = event.pointer("/requestURI").and_then(Value::as_str).unwrap_or("");
            let query = uri.split_once('?').map_or("", |(_, query)| query);
            let pairs = query
                .split('&')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            // A key may be encoded as well as a value.
            pairs
                .filter(|(name, _)| percent_decode(name) == "command")
                .map(|(_, value)| percent_decode(value))
                .collect()
        }
    };
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// An argument as a shell would be given it, so that its ends can be seen.
fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_.+/=,:@%*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(colour: bool) -> View {
        View {
            colour,
            wide: false,
            zone: TimeZone::UTC,
        }
    }

    fn denial() -> Value {
        json!({
            "kind": "Event", "stage": "ResponseComplete", "stageTimestamp": "2026-01-02T03:04:05.123456Z",
            "verb": "delete", "requestURI": "/api/v1/namespaces/prod",
            "objectRef": {"resource": "namespaces", "namespace": "prod", "name": "prod", "apiVersion": "v1"},
            "agent": {"identity": "reader", "pod": {"namespace": "agents", "name": "reader-7d9f8b6c5d-x2x4z"}},
            "decision": {"outcome": "deny", "policy": "guard", "rule": "no-delete", "message": "ask a person",
                "latencyMicros": {"total": 412}},
        })
    }

    #[test]
    fn for_whom_an_agent_asked_is_shown() {
        let mut event = denial();
        event["agent"]["onBehalfOf"] =
            json!({"username": "ann", "issuer": "https://i.example", "subject": "1"});
        assert!(view(false).line(&event).contains("for ann"));
    }

    #[test]
    fn a_denial_is_one_aligned_line() {
        let line = view(false).line(&denial());
        assert_eq!(
            line,
            "01-02 03:04:05 deny    reader       delete  namespaces prod                agents/re…5d-x2x4z  412µs \
             guard/no-delete: ask a person"
        );
        let header = view(false).header();
        for (name, cell) in [
            ("OUTCOME", "deny"),
            ("IDENTITY", "reader"),
            ("VERB", "delete"),
            ("OBJECT", "namespaces"),
            ("FROM", "agents/"),
        ] {
            assert_eq!(header.find(name), line.find(cell), "{name}");
        }
        let before_why = line.find("guard").expect("why");
        assert!(
            line[..before_why].chars().count() <= 101,
            "leaves room for the reason in 120 columns"
        );
    }

    #[test]
    fn a_caller_of_the_gateway_has_its_address() {
        let mut event = denial();
        event["agent"] = json!({"identity": "ci"});
        event["sourceIPs"] = json!(["192.0.2.7", "10.0.0.1"]);
        let line = view(false).line(&event);
        let header = view(false).header();
        assert_eq!(header.find("FROM"), line.find("192.0.2.7 "), "{line}");
        event["sourceIPs"] = json!([]);
        assert!(view(false).line(&event).contains(" -  "));
    }

    #[test]
    fn wide_lines_cut_nothing() {
        let mut event = denial();
        event["objectRef"] =
            json!({"resource": "selfsubjectaccessreviews", "apiGroup": "authorization.k8s.io"});
        let wide = View {
            wide: true,
            ..view(false)
        };
        let line = wide.line(&event);
        for whole in [
            " selfsubjectaccessreviews.authorization.k8s.io ",
            " agents/reader-7d9f8b6c5d-x2x4z ",
        ] {
            assert!(line.contains(whole), "{line}");
        }
        assert!(view(false).line(&event).contains('…'));
        // What fits stands as it does otherwise.
        assert_eq!(wide.header(), view(false).header());
    }

    #[test]
    fn only_outcomes_are_coloured_and_only_when_asked() {
        assert!(!view(false).line(&denial()).contains('\u{1b}'));
        let line = view(true).line(&denial());
        assert!(line.contains("\u{1b}[1;31mdeny   \u{1b}[0m reader"), "{line}");
    }

    #[test]
    fn objects_read_as_people_write_them() {
        for (object, want) in [
            (json!({"resource": "pods", "namespace": "a"}), "pods a/"),
            (json!({"resource": "nodes"}), "nodes"),
            (
                json!({"resource": "deployments", "apiGroup": "apps", "namespace": "a", "name": "b"}),
                "deployments.apps a/b",
            ),
            (
                json!({"resource": "pods", "subresource": "log", "namespace": "a", "name": "b"}),
                "pods/log a/b",
            ),
        ] {
            assert_eq!(super::object(&json!({"objectRef": object})), want);
        }
        assert_eq!(object(&json!({"requestURI": "/version?x=1"})), "/version");
        assert_eq!(
            object(&json!({"requestURI": "", "kernel": {"address": "10.0.0.1:10250"}})),
            "10.0.0.1:10250"
        );
    }

    #[test]
    fn sessions_findings_and_failures_have_their_reason() {
        let exec = json!({
            "stage": "ResponseComplete", "requestURI": "/x/exec?command=sh&command=-c&command=ls%20-l&stdin=1",
            "objectRef": {"resource": "pods", "subresource": "exec"},
            "session": {"protocol": "SPDY/3.1", "bytes": {"fromClient": 1, "toClient": 2}, "endReason": "clientClosed"},
            "decision": {"outcome": "allow", "wouldDeny": [{"policy": "p", "rule": "r"}]},
        });
        assert_eq!(
            why(&exec),
            "would deny: p/r; SPDY/3.1 ended (clientClosed), 1 B in, 2 B out; $ sh -c 'ls -l'"
        );
        let killed = json!({
            "stage": "ResponseComplete", "decision": {"outcome": "allow"},
            "session": {"protocol": "watch", "endReason": "terminated", "endCause": "session_killed"},
        });
        assert_eq!(
            why(&killed),
            "watch ended (terminated: session_killed), 0 B in, 0 B out"
        );
        let cut = json!({"decision": {"outcome": "allow", "reason": "no_longer_permitted", "message": "revoked"},
            "responseStatus": {"code": 200}});
        assert_eq!(why(&cut), "cut short (no_longer_permitted: revoked)");
        let denied = json!({"decision": {"outcome": "deny", "policy": "builtin", "rule": "builtin/nodes-proxy",
            "message": "Not so.", "wouldDeny": [{"policy": "p", "rule": "r"}]}});
        assert_eq!(why(&denied), "builtin/nodes-proxy: Not so; would deny: p/r");
        let answered = json!({"decision": {"outcome": "allow"}, "responseStatus": {"code": 404}});
        assert_eq!(why(&answered), "answered 404");
        let failed = json!({"decision": {"outcome": "error", "reason": "upstream", "message": "refused"}});
        assert_eq!(why(&failed), "upstream: refused");
        let unknown = json!({"decision": {"outcome": "unknown", "policy": "g", "rule": "rules[0]",
            "reason": "unanswered", "message": "sent"}});
        assert_eq!(why(&unknown), "unanswered: sent");
        let masked = json!({"decision": {"outcome": "masked", "policy": "g", "rule": "rules[0]"},
            "masking": {"rules": ["p/r"], "counts": {"items": 9, "hidden": 2}}});
        assert_eq!(why(&masked), "2 of 9 hidden by p/r");
    }

    #[test]
    fn every_argument_of_a_command_is_shown_however_its_key_is_written() {
        let exec = |query: &str| command(&json!({"requestURI": format!("/x/exec?{query}")}));
        assert_eq!(
            exec("command=sh&%63ommand=-c&c%6fmmand=touch+%2Ftmp%2Fx&container=c"),
            "sh -c 'touch /tmp/x'"
        );
        assert_eq!(exec("command&command=a%27b"), r"'' 'a'\''b'");
        let judged = json!({"requestURI": "/x/exec?command=cut...TRUNCATED", "exec": {"command": ["sh", "-c", "a b"]}});
        assert_eq!(command(&judged), "sh -c 'a b'");
    }

    #[test]
    fn nothing_of_a_command_is_invisible() {
        let hidden = "echo\u{2028}\u{2029}\u{202e}\u{2066}\u{ad}\u{e0041}\u{200b} x";
        let mut event = denial();
        event["decision"] = json!({"outcome": "allow"});
        event["objectRef"]["subresource"] = json!("exec");
        event["exec"] = json!({"command": [hidden]});
        let line = view(false).line(&event);
        assert!(!line.contains(crate::audit::invisible::is_invisible), "{line:?}");
        assert!(
            line.ends_with(r"$ 'echo\u{2028}\u{2029}\u{202e}\u{2066}\u{ad}\u{e0041}\u{200b} x'"),
            "{line:?}"
        );
    }

    #[test]
    fn agents_cannot_write_to_the_terminal() {
        let mut event = denial();
        event["decision"]["message"] = json!("a\u{1b}[2J\u{202e}b\r\nc");
        event["verb"] = json!("get\u{7}");
        event["objectRef"]["name"] = json!("\u{9b}31m");
        let line = view(false).line(&event);
        assert!(
            !line.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
        assert!(line.ends_with(r"a\u{1b}[2J\u{202e}b\r\nc"), "{line:?}");
        for event in [json!(null), json!([]), json!({"decision": 1, "agent": "x"})] {
            let _shown = view(false).line(&event);
        }
    }

    #[test]
    fn times_are_short() {
        for (micros, want) in [
            (0, "0µs"),
            (999, "999µs"),
            (1_250, "1.2ms"),
            (45_000, "45ms"),
            (1_500_000, "1.5s"),
            (61_000_000, "1m01s"),
            (7_260_000_000, "2h01m"),
        ] {
            assert_eq!(took(micros), want);
        }
    }
}
