//! Which events `picket audit tail` shows.
//!
//! In: the command's options, and stored lines. Out: a [`Verdict`] for each line: shown, skipped, forged, or older than asked
//! for.

use clap::{Args, ValueEnum};
use jiff::{SpanRelativeTo, Timestamp};
use serde::Deserialize;

use crate::audit::spool::chain::is_record;

/// Options that choose events. All that are given must hold; an option given twice, or with commas, is a choice.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only requests of these agent identities, and denied connections of pods that are one by themselves.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    identity: Vec<String>,
    /// Only these outcomes; `allow` finds `masked` too, and `unknown`, which is what was sent and has no known result.
    #[arg(long, value_enum, value_delimiter = ',')]
    outcome: Vec<Shown>,
    /// Only these verbs, such as `get`, `delete` or `connect`.
    #[arg(long, value_delimiter = ',')]
    verb: Vec<String>,
    /// Only requests about objects in these namespaces, or from pods in them.
    #[arg(long, value_delimiter = ',')]
    namespace: Vec<String>,
    /// Only requests from these pods: `NAME` or `NAMESPACE/NAME`.
    #[arg(long, value_delimiter = ',')]
    pod: Vec<String>,
    /// Only the request of this `Audit-Id`, as the client's answer has it, or those whose id begins so.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    audit_id: Vec<String>,
    /// Only records after this time: `90s`, `10m`, `2h`, `1d` ago, or `2026-01-02T03:04:05Z`.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// Show the first line of writes and sessions too, stored before they took effect.
    #[arg(long)]
    all_stages: bool,
}

/// Outcomes that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    Allow,
    Deny,
    // A word of the log's format for what this version does not do: taken, and not offered.
    #[value(hide = true)]
    Pending,
    Masked,
    Error,
    Unknown,
}

impl Shown {
    /// Whether a record of this outcome is asked for. What has an unknown outcome was permitted and may have been carried out,
    /// so whoever looks for what was done must see it, as what was answered in part.
    fn takes(self, outcome: &str) -> bool {
        let done = [Shown::Unknown, Shown::Masked].map(Shown::as_str);
        self.as_str() == outcome || (self == Shown::Allow && done.contains(&outcome))
    }

    fn as_str(self) -> &'static str {
        match self {
            Shown::Unknown => "unknown",
            Shown::Allow => "allow",
            Shown::Deny => "deny",
            Shown::Pending => "pending",
            Shown::Masked => "masked",
            Shown::Error => "error",
        }
    }
}

/// What to do with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It matches.
    Show,
    /// It does not, or is no event.
    Skip,
    /// It would match, but is not as the agent stored it.
    Forged,
    /// It is older than asked for, and so are those before it.
    TooOld,
}

/// What the filter reads of an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default, rename = "auditID")]
    audit_id: String,
    #[serde(default)]
    stage: String,
    #[serde(default)]
    verb: String,
    stage_timestamp: Option<Timestamp>,
    object_ref: Option<Object>,
    agent: Option<Agent>,
    decision: Option<Decision>,
}

#[derive(Deserialize)]
struct Object {
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Agent {
    identity: Option<String>,
    pod: Option<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Decision {
    outcome: Option<String>,
}

impl Filter {
    /// Whether the filter itself bounds how far back to look.
    pub(super) fn is_bounded(&self) -> bool {
        self.since.is_some()
    }

    /// What to do with a stored line.
    pub(super) fn judge(&self, line: &[u8]) -> Verdict {
        let Ok(facts) = serde_json::from_slice::<Facts<'_>>(line) else {
            return Verdict::Skip;
        };
        if facts.kind != "Event" {
            return Verdict::Skip;
        }
        let verdict = match (self.since, facts.stage_timestamp) {
            (Some(since), Some(at)) if at < since => Verdict::TooOld,
            _ if self.shows(&facts) => Verdict::Show,
            _ => return Verdict::Skip,
        };
        // Neither shown nor the end of the search: a made-up time would hide all lines before it.
        if is_record(line) { verdict } else { Verdict::Forged }
    }

    fn shows(&self, facts: &Facts<'_>) -> bool {
        let agent = facts.agent.as_ref();
        let pod = agent.and_then(|agent| agent.pod.as_ref());
        let identity = agent.and_then(|agent| agent.identity.as_deref());
        let outcome = facts
            .decision
            .as_ref()
            .and_then(|decision| decision.outcome.as_deref());
        let object_namespace = facts
            .object_ref
            .as_ref()
            .and_then(|object| object.namespace.as_deref());
        let pod_namespace = pod.map(|pod| pod.namespace.as_str());
        (self.all_stages || facts.stage != "RequestReceived")
            && among(&self.audit_id, |id| facts.audit_id.starts_with(id))
            && among(&self.identity, |name| identity == Some(name))
            && (self.outcome.is_empty()
                || self
                    .outcome
                    .iter()
                    .any(|shown| outcome.is_some_and(|outcome| shown.takes(outcome))))
            && among(&self.verb, |verb| verb.eq_ignore_ascii_case(&facts.verb))
            && among(&self.namespace, |name| {
                object_namespace == Some(name) || pod_namespace == Some(name)
            })
            && among(&self.pod, |name| {
                pod.is_some_and(|pod| match name.split_once('/') {
                    Some((namespace, name)) => pod.namespace == namespace && pod.name == name,
                    None => pod.name == name,
                })
            })
    }
}

/// Whether one of the choices holds; no choices hold always.
fn among(choices: &[String], holds: impl Fn(&str) -> bool) -> bool {
    choices.is_empty() || choices.iter().any(|choice| holds(choice))
}

/// A moment in the past, or a time before now.
///
/// # Errors
/// Where the text is neither.
pub(in crate::cli) fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || {
        format!("`{text}` is neither a time span such as 10m or 1d nor a time such as 2026-01-02T03:04:05Z")
    };
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let ago = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    Timestamp::now().checked_sub(ago.abs()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::audit::spool::chain::stored;

    const EVENT: &str = r#"{"kind":"Event","auditID":"1f0c77a4-5b","stage":"ResponseComplete","verb":"delete","stageTimestamp":"2026-01-02T03:04:05.000001Z",
        "objectRef":{"resource":"pods","namespace":"prod"},"agent":{"identity":"reader","pod":{"namespace":"agents","name":"reader-0","uid":"u"}},
        "decision":{"outcome":"deny"}}"#;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn judge(filter: &Filter, event: &str) -> Verdict {
        filter.judge(stored(event, 1).as_bytes())
    }

    fn shows(filter: &Filter) -> bool {
        judge(filter, EVENT) == Verdict::Show
    }

    #[test]
    fn every_option_must_hold() {
        assert!(shows(&Filter::default()));
        assert!(shows(&Filter {
            identity: words(&["x", "reader"]),
            verb: words(&["DELETE"]),
            ..Filter::default()
        }));
        assert!(!shows(&Filter {
            identity: words(&["reader"]),
            verb: words(&["get"]),
            ..Filter::default()
        }));
        assert!(shows(&Filter {
            outcome: vec![Shown::Deny, Shown::Error],
            ..Filter::default()
        }));
        assert!(!shows(&Filter {
            outcome: vec![Shown::Allow],
            ..Filter::default()
        }));
        for (id, shown) in [("1f0c77a4-5b", true), ("1f0c", true), ("1f0d", false)] {
            let audit_id = words(&[id]);
            let filter = Filter {
                audit_id,
                ..Filter::default()
            };
            assert_eq!(shows(&filter), shown, "{id}");
        }
        for namespace in ["prod", "agents"] {
            assert!(shows(&Filter {
                namespace: words(&[namespace]),
                ..Filter::default()
            }));
        }
        assert!(!shows(&Filter {
            namespace: words(&["other"]),
            ..Filter::default()
        }));
        for (pod, shown) in [
            ("reader-0", true),
            ("agents/reader-0", true),
            ("prod/reader-0", false),
            ("reader", false),
        ] {
            assert_eq!(
                shows(&Filter {
                    pod: words(&[pod]),
                    ..Filter::default()
                }),
                shown,
                "{pod}"
            );
        }
    }

    #[test]
    fn what_may_have_been_carried_out_is_among_what_was_allowed() {
        let masked = EVENT.replace("deny", "masked");
        let filter = Filter {
            outcome: vec![Shown::Allow],
            ..Filter::default()
        };
        assert_eq!(judge(&filter, &masked), Verdict::Show);
        let event = EVENT.replace("deny", "unknown");
        for (shown, verdict) in [
            (Shown::Allow, Verdict::Show),
            (Shown::Unknown, Verdict::Show),
            (Shown::Deny, Verdict::Skip),
            (Shown::Error, Verdict::Skip),
        ] {
            let filter = Filter {
                outcome: vec![shown],
                ..Filter::default()
            };
            assert_eq!(judge(&filter, &event), verdict, "{shown:?}");
        }
    }

    #[test]
    fn first_stages_and_other_lines_are_left_out() {
        let first = EVENT.replace("ResponseComplete", "RequestReceived");
        assert_eq!(judge(&Filter::default(), &first), Verdict::Skip);
        let all = Filter {
            all_stages: true,
            ..Filter::default()
        };
        assert_eq!(judge(&all, &first), Verdict::Show);
        for line in ["", "a log line", "{}", "[]", r#"{"kind":"Pod"}"#] {
            assert_eq!(Filter::default().judge(line.as_bytes()), Verdict::Skip, "{line}");
        }
    }

    #[test]
    fn what_the_agent_did_not_store_is_not_shown() {
        let good = stored(EVENT, 1);
        let changed = good.replace("\"delete\"", "\"get\"");
        for line in [EVENT, &changed, &good.replace("\"hash\"", "\"cash\"")] {
            assert_eq!(
                Filter::default().judge(line.as_bytes()),
                Verdict::Forged,
                "{line}"
            );
        }
        let others = Filter {
            identity: words(&["other"]),
            ..Filter::default()
        };
        assert_eq!(others.judge(EVENT.as_bytes()), Verdict::Skip);
    }

    #[test]
    fn since_is_a_span_or_a_time() {
        let early = Filter {
            since: Some(parse_since("2026-01-02T03:04:05Z").expect("a time")),
            ..Filter::default()
        };
        assert!(shows(&early));
        let late = Filter {
            since: Some(parse_since("2026-01-02T03:04:06Z").expect("a time")),
            ..Filter::default()
        };
        assert_eq!(judge(&late, EVENT), Verdict::TooOld);
        // A line that somebody put there does not end the search.
        assert_eq!(late.judge(EVENT.as_bytes()), Verdict::Forged);
        let now = Timestamp::now();
        for (text, span) in [
            ("90s", 90.seconds()),
            ("10m", 10.minutes()),
            ("2h", 2.hours()),
            ("1d", 24.hours()),
        ] {
            let since = parse_since(text).expect(text);
            let off = since
                .duration_since(now.checked_sub(span).expect("in range"))
                .abs();
            assert!(off.as_secs() < 5, "{text}: {since}");
        }
        assert!(parse_since("yesterday").expect_err("no time").contains("10m"));
    }
}
