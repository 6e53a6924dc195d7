//! The query as Go's `net/url.ParseQuery` reads it.
//!
//! In: the raw query of a request's target. Out: its pairs, or a [`ReadError`] for what Go would drop or read twice.

use super::error::ReadError;

/// Keys that the API server reads once, so that another second value would be read by some and ignored by others. The same
/// value again is none: kubectl up to 1.9 sends `container` twice.
const SINGLE: [&str; 22] = [
    "watch",
    "fieldSelector",
    "labelSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "timeoutSeconds",
    "timeout",
    "limit",
    "continue",
    "container",
    "stdin",
    "stdout",
    "stderr",
    "tty",
    "follow",
    "previous",
    "propagationPolicy",
    "gracePeriodSeconds",
    "orphanDependents",
    "fieldManager",
];

/// Most pairs that are read, empty ones included. Go's `ParseQuery` gives up above 10,000 (`urlmaxqueryparams` of
/// GODEBUG) and returns no pair at all, `URL.Query` hides that, and the API server then acts as if no query had been
/// sent. Real requests have a dozen pairs; this leaves room for a server that is set lower.
const MAX_PAIRS: usize = 1_000;

/// Likewise of an exec, which has a pair for each argument. Its pod is named in its path, so a server that reads no pair
/// finds no command and refuses it.
const MAX_EXEC_PAIRS: usize = 10_000;

/// What a query belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// `pods/exec`.
    Exec,
    /// Anything else.
    Any,
}

impl Pairs {
    fn limit(self) -> (usize, ReadError) {
        match self {
            Pairs::Exec => (MAX_EXEC_PAIRS, ReadError::Query("has more than 10000 pairs")),
            Pairs::Any => (MAX_PAIRS, ReadError::Query("has more than 1000 pairs")),
        }
    }
}

/// Decoded pairs in the order they came.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the raw query. A semicolon, a bad escape or bytes that are not UTF-8 are refused: Go drops such a pair
    /// without a word, and another parser may not. So are too many pairs, of which Go drops every one. What is skipped
    /// here, pairs with nothing in them, Go skips as well.
    pub(super) fn read(raw: &str, kind: Pairs) -> Result<Self, ReadError> {
        // Counted as Go counts, before anything is skipped.
        let (limit, error) = kind.limit();
        if raw.bytes().filter(|byte| *byte == b'&').count() >= limit {
            return Err(error);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        // Where the value of each single key came first. Others are compared with that one alone, however many there are.
        let mut firsts = [None; SINGLE.len()];
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err(ReadError::Query("has a semicolon outside an escape"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescape(key)?, unescape(value)?);
            if let Some(single) = SINGLE.iter().position(|single| *single == key) {
                let first = *firsts[single].get_or_insert(pairs.len());
                if pairs.get(first).is_some_and(|(_, other)| *other != value) {
                    return Err(ReadError::RepeatedQuery(key));
                }
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The first value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(seen, _)| seen == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every key, once.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let pairs = self.0.iter().enumerate();
        let is_first = |(place, (key, _)): &(usize, &(String, String))| {
            !self.0[..*place].iter().any(|(before, _)| before == key)
        };
        pairs.filter(is_first).map(|(_, (key, _))| key.as_str())
    }

    /// Every value of a key.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(seen, _)| seen == key)
            .map(|(_, value)| value.as_str())
    }

    /// A flag as `Convert_Slice_string_To_bool` of k8s.io/apimachinery reads it: present and neither `0` nor `false`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// Undoes `%XX` and `+`.
fn unescape(text: &str) -> Result<String, ReadError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(
                    super::path::escape(bytes, at).ok_or(ReadError::Query("has a broken percent-escape"))?,
                );
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| ReadError::Query("is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_the_api_servers_conversion() {
        for (query, watch) in [
            ("watch=true", true),
            ("watch=1", true),
            ("watch", true),
            ("watch=", true),
            ("watch=yes", true),
            ("watch=no", true),
            ("watch=0", false),
            ("watch=false", false),
            ("watch=FALSE", false),
            ("Watch=true", false),
            ("%77atch=true", true),
            ("", false),
        ] {
            assert_eq!(
                Query::read(query, Pairs::Any).expect(query).flag("watch"),
                watch,
                "{query}"
            );
        }
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for query in [
            "a=1;watch=true",
            "watch=0&watch=1",
            "watch=0&%77atch=1",
            "a=%zz",
            "a=%2",
            "%ff=1",
            "tty=1&tty=0",
            // Go keeps what is around such a pair and drops the pair.
            "watch=1&a;b",
            "a;b&watch=1",
            "watch=1;",
            ";",
            "watch%=1",
            "watch=1%",
            "watch=%+1",
            "fieldSelector=metadata.name=a%&watch=1",
        ] {
            assert!(Query::read(query, Pairs::Any).is_err(), "{query}");
        }
        let query = Query::read("command=sh&command=-c&command=a+b%3Bc&&x", Pairs::Any).expect("valid");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b;c"]);
    }

    #[test]
    fn a_single_key_may_come_again_with_its_first_value_alone() {
        let many = "tty=1&".repeat(MAX_EXEC_PAIRS - 1);
        for (last, refused) in [
            ("tty=1", false),
            ("tty=0", true),
            ("tty", true),
            ("command=x", false),
        ] {
            let query = Query::read(&format!("{many}{last}"), Pairs::Exec);
            let expected = refused.then(|| ReadError::RepeatedQuery("tty".to_owned()));
            assert_eq!(query.err(), expected, "{last}");
        }
        // Each key has a first value of its own.
        assert!(Query::read("stdin=1&stdout=0&stdin=1&tty=0&stdout=0", Pairs::Exec).is_ok());
        let query = Query::read("stdin=1&stdout=0&stdin=1&tty=0&stdout=0&stdout=1", Pairs::Exec);
        assert_eq!(query.err(), Some(ReadError::RepeatedQuery("stdout".to_owned())));
    }

    #[test]
    fn more_pairs_than_go_reads_are_refused_however_empty_they_are() {
        let with =
            |filler: &str, count: usize| format!("fieldSelector=metadata.name=a{}", filler.repeat(count));
        for filler in ["&", "&a", "&command=x", "&="] {
            let most = Query::read(&with(filler, MAX_PAIRS - 1), Pairs::Any).expect(filler);
            assert_eq!(most.get("fieldSelector"), Some("metadata.name=a"));
            for count in [MAX_PAIRS, 10_000] {
                assert_eq!(
                    Query::read(&with(filler, count), Pairs::Any).err(),
                    Some(ReadError::Query("has more than 1000 pairs")),
                    "{filler} {count}"
                );
            }
        }
        assert!(Query::read(&"&".repeat(MAX_PAIRS), Pairs::Any).is_err());
        // An exec has one for each argument, as many as Go reads.
        let most = Query::read(&with("&command=x", MAX_EXEC_PAIRS - 1), Pairs::Exec).expect("an exec");
        assert_eq!(most.all("command").count(), MAX_EXEC_PAIRS - 1);
        assert_eq!(
            Query::read(&with("&command=x", MAX_EXEC_PAIRS), Pairs::Exec).err(),
            Some(ReadError::Query("has more than 10000 pairs"))
        );
        // An escaped ampersand parts nothing.
        assert!(Query::read(&format!("command={}", "%26".repeat(MAX_PAIRS)), Pairs::Any).is_ok());
    }
}
