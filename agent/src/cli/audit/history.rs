//! What agents did, from audit logs: the newest record first, within bounds.
//!
//! In: spools or files with records, and how far back to look. Out: each record that the agent stored, until the caller has
//! enough; and a [`Reach`], which says how far the reading went.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use jiff::Timestamp;
use picket_policy::body::MediaType;
use picket_policy::{KubeRequest, Verb};
use serde::Deserialize;

use super::read::Source;
use crate::audit::spool::chain::is_record;
use crate::cli::output::moment;

/// Most bytes of records that are read of one log: a second or two of work.
pub(in crate::cli) const READ_LIMIT: u64 = 1 << 30;

/// What is read of a record.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Act<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow, rename = "auditID")]
    audit_id: Cow<'a, str>,
    #[serde(default, borrow)]
    stage: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(in crate::cli) verb: Cow<'a, str>,
    #[serde(default, borrow, rename = "requestURI")]
    uri: Cow<'a, str>,
    stage_timestamp: Option<Timestamp>,
    object_ref: Option<Object>,
    #[serde(borrow)]
    agent: Option<Agent<'a>>,
    #[serde(default, borrow)]
    pub(in crate::cli) decision: Decided<'a>,
    session: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Object {
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Agent<'a> {
    #[serde(borrow)]
    identity: Option<Cow<'a, str>>,
}

/// What was decided.
#[derive(Debug, Default, Deserialize)]
pub(in crate::cli) struct Decided<'a> {
    #[serde(default, borrow)]
    pub(in crate::cli) outcome: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::cli) policy: Option<Cow<'a, str>>,
}

/// A request of a record, as it was judged but for what only its headers said.
#[derive(Debug)]
pub(in crate::cli) struct PastRequest {
    /// The request.
    pub(in crate::cli) request: KubeRequest,
    /// Likewise as a server-side apply, which takes the right to create: where a patch may have been one.
    pub(in crate::cli) as_apply: Option<KubeRequest>,
}

impl Act<'_> {
    /// Whose it is.
    pub(in crate::cli) fn identity(&self) -> Option<&str> {
        self.agent.as_ref()?.identity.as_deref()
    }

    /// When its line was written.
    pub(in crate::cli) fn at(&self) -> Option<Timestamp> {
        self.stage_timestamp
    }

    /// Whether it went to the API server, whatever became of it there. Of an error that is not known.
    pub(in crate::cli) fn was_sent(&self) -> bool {
        matches!(&*self.decision.outcome, "allow" | "masked" | "unknown")
    }

    /// Whether it may have gone there.
    pub(in crate::cli) fn may_be_sent(&self) -> bool {
        self.was_sent() || self.decision.outcome == "error"
    }

    /// The request, read anew. `None` where the record does not hold enough of it.
    pub(in crate::cli) fn request(&self) -> Option<PastRequest> {
        let (path, query) = self.uri.split_once('?').unwrap_or((&*self.uri, ""));
        // A path that was cut is another path; a query that was cut still has its verb and name in the record.
        let target = match (self.uri.ends_with(CUT), query.is_empty()) {
            (true, true) => return None,
            (true, false) => path,
            (false, _) => &*self.uri,
        };
        let uri: Uri = target.parse().ok()?;
        let verb = Verb::parse(&self.verb)?;
        let method = method(verb);
        let mut request = KubeRequest::read(&method, &uri, &HeaderMap::new()).ok()?;
        request.verb = verb;
        if let picket_policy::Target::Resource { name, .. } = &mut request.target
            && name.is_none()
        {
            *name = self.object_ref.as_ref().and_then(|object| object.name.clone());
        }
        let may_apply = verb == Verb::Patch && (query.contains(MANAGER) || self.uri.ends_with(CUT));
        let as_apply = may_apply.then(|| {
            let apply = HeaderValue::from_static(MediaType::ApplyYaml.name());
            let headers = HeaderMap::from_iter([(HeaderName::from_static("content-type"), apply)]);
            KubeRequest::read(&method, &uri, &headers).ok()
        });
        Some(PastRequest {
            request,
            as_apply: as_apply.flatten(),
        })
    }
}

/// What a URI ends in where the record does not hold all of it.
const CUT: &str = "...TRUNCATED";

/// Each server-side apply has this key in its query.
const MANAGER: &str = "fieldManager=";

/// A method of requests with this verb.
fn method(verb: Verb) -> Method {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => Method::GET,
        Verb::Head => Method::HEAD,
        Verb::Create | Verb::Post => Method::POST,
        Verb::Update | Verb::Put => Method::PUT,
        Verb::Patch => Method::PATCH,
        Verb::Delete | Verb::DeleteCollection => Method::DELETE,
        Verb::Options => Method::OPTIONS,
    }
}

/// What to do away from a node: whoever reads logs here reads files of theirs beside them.
const ELSEWHERE: &str = "--audit names another directory or file. `kubectl picket audit tail --node NAME --since 30d -o json > FILE` copies \
                         the log of a node where the chart runs the agent";

/// A log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}{}", .log.display(), super::hint(.log, .error, ELSEWHERE))]
pub(in crate::cli) struct Unreadable {
    log: PathBuf,
    error: io::Error,
}

impl Unreadable {
    /// What is wrong, without what to do.
    pub(in crate::cli) fn fault(&self) -> String {
        format!("{}: {}", self.log.display(), self.error)
    }
}

/// How far a reading went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli) struct Reach {
    /// The oldest record that was seen, of anybody.
    pub(in crate::cli) oldest: Option<Timestamp>,
    /// The reading ended at [`READ_LIMIT`].
    pub(in crate::cli) cut: bool,
    /// Lines that are not as the agent stored them, which were left out.
    pub(in crate::cli) forged: u64,
}

impl Reach {
    /// What people are told of it.
    pub(in crate::cli) fn sentence(self) -> String {
        let mut sentence = match self.oldest {
            None => "It has no record of that time.".to_owned(),
            Some(at) => format!("It was read back to {}.", moment(at)),
        };
        if self.cut {
            sentence.push_str(&format!(
                " It goes on before that; {} MiB of it were read.",
                READ_LIMIT >> 20
            ));
        }
        if self.forged > 0 {
            sentence.push_str(&format!(
                " {} of its lines are not as the agent stored them, and were left out: run `picket audit verify`.",
                self.forged
            ));
        }
        sentence
    }

    fn with(self, other: Reach) -> Reach {
        Reach {
            // All logs reach back to the latest of their beginnings.
            oldest: self.oldest.max(other.oldest),
            cut: self.cut || other.cut,
            forged: self.forged + other.forged,
        }
    }
}

/// Gives the records of each log since a moment, the newest first, until `each` breaks, which ends that log. Lines of before a
/// request took effect are left out, and so are those of a session's beginning where its end is there.
///
/// # Errors
/// Where a log cannot be read.
pub(in crate::cli) fn read(
    logs: &[PathBuf],
    since: Option<Timestamp>,
    mut each: impl FnMut(&Act<'_>, &[u8]) -> ControlFlow<()>,
) -> anyhow::Result<Reach> {
    let mut reach: Option<Reach> = None;
    for log in logs {
        let this = read_log(log, since, &mut each)?;
        reach = Some(reach.map_or(this, |before| before.with(this)));
    }
    Ok(reach.unwrap_or_default())
}

fn read_log(
    log: &Path,
    since: Option<Timestamp>,
    each: &mut impl FnMut(&Act<'_>, &[u8]) -> ControlFlow<()>,
) -> anyhow::Result<Reach> {
    let failed = |error| Unreadable {
        log: log.to_owned(),
        error,
    };
    let mut source = Source::open(log).map_err(failed)?;
    let (mut reach, mut bytes, mut ended) = (Reach::default(), 0_u64, HashSet::new());
    let read = source.backwards(|line| {
        bytes += line.len() as u64;
        if bytes > READ_LIMIT {
            reach.cut = true;
            return false;
        }
        let Ok(act) = serde_json::from_slice::<Act<'_>>(&line) else {
            return true;
        };
        if act.kind != "Event" || act.stage == "RequestReceived" {
            return true;
        }
        // A made-up time would end the search, and a made-up record would widen a right.
        if !is_record(&line) {
            reach.forged += 1;
            return true;
        }
        if let Some(at) = act.at() {
            if since.is_some_and(|since| at < since) {
                reach.oldest = since;
                return false;
            }
            reach.oldest = Some(reach.oldest.map_or(at, |oldest| oldest.min(at)));
        }
        if act.session.is_some() {
            let id = act.audit_id.clone().into_owned();
            if act.stage == "ResponseStarted" && ended.contains(&id) {
                return true;
            }
            ended.insert(id);
        }
        each(&act, &line).is_continue()
    });
    read.map_err(failed)?;
    Ok(reach)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::spool::chain::stored;
    use crate::cli::audit::testing::Scratch;

    fn record(at: &str, more: &str) -> String {
        let event = format!(
            r#"{{"kind":"Event","stageTimestamp":"2026-01-02T03:04:{at}.000000Z",{more},"agent":{{"identity":"a"}}}}"#
        );
        stored(&event, 1)
    }

    fn all(text: &str, since: Option<&str>) -> (Vec<String>, Reach) {
        let scratch = Scratch::new();
        let file = scratch.file("log.jsonl", text);
        let since = since.map(|since| since.parse().expect("a moment"));
        let mut seen = Vec::new();
        let reach = read(&[file], since, |act, _| {
            seen.push(format!("{} {}", act.verb, act.stage));
            ControlFlow::Continue(())
        });
        (seen, reach.expect("reads"))
    }

    fn moment(at: &str) -> Option<Timestamp> {
        Some(format!("2026-01-02T03:04:{at}Z").parse().expect("a moment"))
    }

    #[test]
    fn the_newest_comes_first_and_a_session_once() {
        let lines = [
            record("01", r#""stage":"ResponseComplete","verb":"get""#),
            record(
                "02",
                r#""stage":"ResponseStarted","verb":"watch","auditID":"w","session":{}"#,
            ),
            record("03", r#""stage":"RequestReceived","verb":"delete","auditID":"d""#),
            record(
                "04",
                r#""stage":"ResponseComplete","verb":"delete","auditID":"d""#,
            ),
            record(
                "05",
                r#""stage":"ResponseComplete","verb":"watch","auditID":"w","session":{}"#,
            ),
            record(
                "06",
                r#""stage":"ResponseStarted","verb":"watch","auditID":"still","session":{}"#,
            ),
        ];
        let text = lines.join("\n") + "\n";
        let (seen, reach) = all(&text, None);
        let wanted = [
            "watch ResponseStarted",
            "watch ResponseComplete",
            "delete ResponseComplete",
            "get ResponseComplete",
        ];
        assert_eq!(seen, wanted);
        assert_eq!(reach.oldest, moment("01"));
        let (seen, reach) = all(&text, Some("2026-01-02T03:04:05Z"));
        assert_eq!(seen, wanted[..2]);
        // Older records are there, so that all since then was seen.
        assert_eq!(reach.oldest, moment("05"));
    }

    #[test]
    fn a_log_that_is_not_there_is_told_with_the_option_that_names_another() {
        let said = |path: &str| {
            let read = read(&[path.into()], None, |_, _| ControlFlow::Continue(()));
            read.expect_err("no log").to_string()
        };
        assert!(said("/nonexistent/log").ends_with("(os error 2)"));
        let usual = Unreadable {
            log: crate::audit::DEFAULT_DIRECTORY.into(),
            error: io::Error::from(io::ErrorKind::NotFound),
        };
        let words = "(does the agent run on this node? If it does not, --audit names another directory or file. `kubectl picket audit tail";
        assert!(usual.to_string().contains(words), "{usual}");
        assert!(!usual.fault().contains("--audit"), "{}", usual.fault());
    }

    #[test]
    fn a_made_up_record_is_left_out_and_counted() {
        let good = record("02", r#""stage":"ResponseComplete","verb":"get""#);
        let made_up = record("01", r#""stage":"ResponseComplete","verb":"get""#).replace("get", "delete");
        let (seen, reach) = all(&format!("{made_up}\n{good}\n"), None);
        assert_eq!(seen, ["get ResponseComplete"]);
        assert_eq!((reach.forged, reach.oldest), (1, moment("02")));
    }

    #[test]
    fn a_request_is_read_anew_from_its_record() {
        let request = |verb: &str, uri: &str, name: &str| {
            let text = format!(
                r#"{{"kind":"Event","verb":"{verb}","requestURI":"{uri}","objectRef":{{"name":"{name}"}},"decision":{{"outcome":"allow"}}}}"#
            );
            let act: Act<'_> = serde_json::from_str(&text).expect("a record");
            act.request()
        };
        let words = |verb: &str, uri: &str| request(verb, uri, "x").expect("a request").request.words();
        assert_eq!(
            words("watch", "/api/v1/namespaces/n/pods?watch=true"),
            "watch pods \"x\" in namespace \"n\""
        );
        assert_eq!(words("get", "/metrics"), "get /metrics");
        let cut = format!("/api/v1/pods?labelSelector=a{CUT}");
        assert_eq!(words("watch", &cut), "watch pods \"x\"");
        assert!(request("get", &format!("/api/v1/namespaces/{CUT}"), "x").is_none());
        assert!(request("connect", "", "x").is_none());
        let applied = request(
            "patch",
            "/api/v1/namespaces/n/pods/x?fieldManager=me&force=true",
            "x",
        )
        .expect("a request");
        assert!(applied.as_apply.is_some_and(|apply| apply.apply) && !applied.request.apply);
        let plain = request("patch", "/api/v1/namespaces/n/pods/x", "x").expect("a request");
        assert!(plain.as_apply.is_none());
    }
}
