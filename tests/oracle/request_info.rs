//! Requests mean the same: Picket's one reading of a request is the API server's (`RequestInfo`), or there is none.
//!
//! In: request lines, chosen by hand and generated out of words that parsers stumble over. Out: more than 100,000 that both read
//! alike, or that Picket refuses for a reason that is counted.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::judge::{Question, RequestLine, judge};
use crate::random::Random;
use crate::tally::{Tally, read, same_reading};

pub(crate) const TESTS: &[Test] = tests! {
    chosen_requests,
    generated_requests,
};

/// Generated requests, and how many of them are asked about at once.
const GENERATED: usize = 240_000;
const AT_ONCE: usize = 4_000;
/// As many at least are read by both.
const READ: usize = 100_000;

const METHODS: [&str; 10] = [
    "GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
];

/// How a path begins. The rest is of [`SEGMENTS`].
const STARTS: [&str; 12] = [
    "/api/v1",
    "/api/v1",
    "/apis/apps/v1",
    "/apis/example.com/v1beta1",
    "/api/v1/namespaces/n",
    "/api/v1/watch",
    "/apis/apps/v1/watch/namespaces/n",
    "/api",
    "/apis",
    "/API/v1",
    "/healthz",
    "",
];

const SEGMENTS: [&str; 36] = [
    "namespaces",
    "pods",
    "pods",
    "nodes",
    "deployments",
    "web",
    "n",
    "exec",
    "log",
    "status",
    "finalize",
    "proxy",
    "watch",
    "scale",
    "api",
    "v1",
    "Pods",
    "https:web:443",
    "system:node",
    "a.b",
    "a~b",
    "a@b",
    "a=b",
    "a;b",
    "a,b",
    "*",
    "%70ods",
    "a%20b",
    "%C3%A9",
    "a+b",
    "a%2Bb",
    "a&b",
    "'",
    "$x",
    "a%3Ab",
    "(x)",
];

/// Segments that Picket reads no path with.
const REFUSED_SEGMENTS: [&str; 11] = [
    "", ".", "..", "%2e", "%2E%2e", "a%2fb", "%25", "a%00", "%zz", "%ff", "a%5Cb",
];

const KEYS: [&str; 16] = [
    "watch",
    "watch",
    "fieldSelector",
    "fieldSelector",
    "fieldSelector",
    "labelSelector",
    "limit",
    "timeoutSeconds",
    "resourceVersion",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "continue",
    "dryRun",
    "Watch",
    "x",
    "w%61tch",
];

const VALUES: [&str; 40] = [
    "",
    "1",
    "0",
    "true",
    "false",
    "FALSE",
    "no",
    "5",
    "-1",
    "%2B3",
    "5s",
    "0x1",
    "9999999999999999999",
    "a%3Db",
    "a+in+(b,c)",
    "!a",
    "a!%3Db",
    ")",
    "a,",
    "All",
    "metadata.name%3Dweb",
    "metadata.name=web",
    "metadata.name%3D%3Dweb",
    "metadata.name!%3Dweb",
    "metadata.name%3Dweb,spec.x%3Dy",
    "spec.x%3Dy,metadata.name%3Dweb",
    "metadata.name%3Dweb,metadata.name%3Da",
    "metadata.name%3Da%5C%2Cb",
    "metadata.name%3Da%5C",
    "metadata.name%3Da%5Cx",
    "metadata.name%3D..",
    "metadata.name%3Da/b",
    "metadata.name%3Da%2525",
    "metadata.name%3D",
    "metadata.name",
    "+metadata.name%3Dweb",
    "metadata.name+%3Dweb",
    "metadata.name%3D+web",
    ",metadata.name%3Dweb,,",
    "metadata.name%3Dw%C3%A9b",
];

/// Each is a request of a real client, or one that a reader has taken for another one before.
const CHOSEN: [&str; 44] = [
    "GET /",
    "GET /api",
    "GET /api/",
    "GET /api/v1",
    "GET /api/v1/",
    "GET /apis/apps",
    "GET /apis/apps/v1",
    "GET /apis/apps/v1/",
    "GET /version",
    "GET /openapi/v3/apis/apps/v1?hash=ABC",
    "HEAD /healthz",
    "POST /healthz/",
    "OPTIONS /livez",
    "GET /api/v1/namespaces",
    "GET /api/v1/namespaces/",
    "GET /api/v1/namespaces/n",
    "PUT /api/v1/namespaces/n/finalize",
    "PATCH /api/v1/namespaces/n/status",
    "GET /api/v1/namespaces/n/finalizers",
    "GET /api/v1/namespaces/namespaces/namespaces",
    "GET /api/v1/namespaces/n/namespaces/x",
    "GET /api/v1/namespaces/n/pods",
    "GET /api/v1/namespaces/n/pods?limit=500",
    "GET /api/v1/namespaces/n/pods/web?watch=true",
    "GET /api/v1/namespaces/n/pods?watch",
    "GET /api/v1/watch/namespaces/n/pods/web",
    "GET /api/v1/watch/pods?fieldSelector=metadata.name%3Dweb",
    "POST /api/v1/namespaces/n/pods/web/exec?command=sh&stdin=true",
    "GET /api/v1/namespaces/n/pods/web/exec/more/of/it",
    "POST /api/v1/namespaces/n/pods/web/eviction",
    "GET /api/v1/namespaces/n/services/https:web:443/proxy/a/b?x=y",
    "GET /api/v1/nodes/n1/proxy/stats/summary",
    "DELETE /api/v1/namespaces/n/pods",
    "DELETE /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dweb",
    "DELETE /api/v1/namespaces/n",
    "DELETE /api/v1/namespaces",
    "PUT /api/v1/pods",
    "PATCH /apis/example.com/v1/widgets/x/scale",
    "GET /apis/example.com/v1/widgets/x/y/z",
    "GET /apis/v1/pods/web",
    "GET /api/v1/%70ods",
    "GET /API/v1/pods",
    "HEAD /api/v1/pods?fieldSelector=metadata.name=web",
    "GET /api/v1/pods?fieldSelector=metadata.name%3Dweb&labelSelector=app+in+(a,b)&limit=5",
];

fn chosen_requests() -> Result<()> {
    let lines = CHOSEN.iter().map(|text| {
        let (method, target) = text.split_once(' ').context("no target")?;
        Ok(RequestLine {
            method,
            target: target.to_owned(),
            apply: false,
        })
    });
    let tally = compare(vec![lines.collect::<Result<_>>()?])?;
    ensure!(tally.agreed == CHOSEN.len(), "{tally}");
    Ok(())
}

fn generated_requests() -> Result<()> {
    let mut random = Random::new(3);
    let chunks = (0..GENERATED / AT_ONCE).map(|_| (0..AT_ONCE).map(|_| request(&mut random)).collect());
    let tally = compare(chunks.collect())?;
    eprintln!("requests: {tally}");
    ensure!(tally.agreed >= READ, "too few are read: {tally}");
    Ok(())
}

fn request(random: &mut Random) -> RequestLine {
    let mut target = random.word(&STARTS).to_owned();
    for _ in 0..random.below(6) {
        let refused = random.once_in(60);
        let segment = if refused {
            random.word(&REFUSED_SEGMENTS)
        } else {
            random.word(&SEGMENTS)
        };
        target.push('/');
        target.push_str(segment);
    }
    if target.is_empty() || random.once_in(12) {
        target.push('/');
    }
    let pairs = random.below(4);
    for number in 0..pairs {
        target.push(if number == 0 { '?' } else { '&' });
        target.push_str(random.word(&KEYS));
        if !random.once_in(12) {
            target.push('=');
            target.push_str(random.word(&VALUES));
        }
    }
    RequestLine {
        method: random.word(&METHODS),
        target,
        apply: false,
    }
}

/// Reads every request, and fails at the first that both read, and not alike.
fn compare(chunks: Vec<Vec<RequestLine>>) -> Result<Tally> {
    let question = |requests| Question {
        rules: Vec::new(),
        namespaces: Vec::new(),
        requests,
    };
    let questions: Vec<_> = chunks.into_iter().map(question).collect();
    let mut tally = Tally::default();
    judge(&questions, |question, verdicts| {
        for (line, verdict) in question.requests.iter().zip(verdicts) {
            tally.requests += 1;
            match read(line)? {
                Err(reason) => {
                    *tally
                        .differences
                        .entry(format!("not read: {reason}"))
                        .or_default() += 1
                }
                Ok(request) => {
                    let alike = if verdict.error.is_empty() {
                        same_reading(request.kube(), verdict)
                    } else {
                        Err(anyhow::anyhow!("the API server reads none"))
                    };
                    alike.with_context(|| format!("{} {}: {verdict:?}", line.method, line.target))?;
                    tally.agreed += 1;
                }
            }
        }
        Ok(())
    })?;
    Ok(tally)
}
