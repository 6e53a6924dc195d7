//! Globs with two wildcards: `*` for any run of characters, `?` for one.
//!
//! In: a pattern of a document, then names and texts of requests. Out: whether the glob matches.
//!
//! Matching takes at most len(pattern) x len(text) steps, so that no pattern or text can stall a decision.

use std::fmt;

/// Why a glob cannot stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GlobError {
    /// There is nothing in it.
    #[error("a glob must not be empty; `*` matches anything")]
    Empty,
    /// It asks for a wildcard of other tools.
    #[error("a glob has the wildcards * and ? only, not {0:?}")]
    Wildcard(char),
    /// It starts or ends with a blank, which no name has.
    #[error("a glob must not start or end with a blank")]
    Blank,
}

/// A compiled glob. Text is compared byte by byte; for [`Glob::folded`] in lower case.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Glob {
    /// Anything.
    Any,
    /// This text.
    Exact(Box<str>),
    /// Anything that starts so.
    Prefix(Box<str>),
    /// Anything that ends so.
    Suffix(Box<str>),
    /// Anything else.
    Pattern(Box<[u8]>),
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Pattern(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
        }
    }
}

impl Glob {
    /// A glob over names. Characters that are wildcards elsewhere are refused: a deny that silently matches nothing is
    /// worse than an error.
    pub(crate) fn name(pattern: &str) -> Result<Self, GlobError> {
        if let Some(char) = pattern.chars().find(|char| "[]{}\\!".contains(*char)) {
            return Err(GlobError::Wildcard(char));
        }
        Self::text(pattern)
    }

    /// A glob over free text such as a command line, in which brackets stand for themselves.
    pub(crate) fn text(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.trim() != pattern {
            return Err(GlobError::Blank);
        }
        if pattern.bytes().all(|byte| byte == b'*') {
            return Ok(Self::Any);
        }
        let wild = |text: &str| text.contains(['*', '?']);
        if !wild(pattern) {
            return Ok(Self::Exact(pattern.into()));
        }
        if let Some(prefix) = pattern.strip_suffix('*').filter(|prefix| !wild(prefix)) {
            return Ok(Self::Prefix(prefix.into()));
        }
        if let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| !wild(suffix)) {
            return Ok(Self::Suffix(suffix.into()));
        }
        Ok(Self::Pattern(pattern.bytes().collect()))
    }

    /// A glob over names that API servers write in lower case.
    pub(crate) fn folded(pattern: &str) -> Result<Self, GlobError> {
        Self::name(&pattern.to_ascii_lowercase())
    }

    /// The text it matches, if it is just one.
    pub(crate) fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes every match starts with, and whether a match must end there.
    pub(crate) fn head(&self) -> (&[u8], bool) {
        match self {
            Self::Any | Self::Suffix(_) => (&[], false),
            Self::Exact(text) => (text.as_bytes(), true),
            Self::Prefix(text) => (text.as_bytes(), false),
            Self::Pattern(bytes) => {
                let end = bytes
                    .iter()
                    .position(|byte| matches!(byte, b'*' | b'?'))
                    .unwrap_or(bytes.len());
                (&bytes[..end], false)
            }
        }
    }

    /// Whether some text that begins so matches: whatever follows the first star can still come.
    pub(crate) fn could_go_on_from(&self, start: &str) -> bool {
        match self {
            Self::Any | Self::Suffix(_) => true,
            Self::Exact(exact) => exact.starts_with(start),
            Self::Prefix(prefix) => prefix.starts_with(start) || start.starts_with(&**prefix),
            Self::Pattern(pattern) => {
                let (mut p, mut t, text) = (0, 0, start.as_bytes());
                while t < text.len() {
                    match pattern.get(p) {
                        Some(b'*') => return true,
                        Some(b'?') => t += width(text[t]),
                        Some(byte) if *byte == text[t] => t += 1,
                        _ => return false,
                    }
                    p += 1;
                }
                true
            }
        }
    }

    /// Whether a text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Pattern(pattern) => run(pattern, text.as_bytes()),
        }
    }
}

/// How many letters and digits the API server puts after a `generateName` (k8s.io/apiserver pkg/storage/names/generate.go).
const GENERATED: usize = 5;

impl Glob {
    /// Whether a name could match that the API server makes of this beginning. A pattern with inner wildcards counts as one that could.
    pub(crate) fn could_match_generated(&self, beginning: &str) -> bool {
        let could_be_made = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        // What of a text lies behind the beginning must be what is made.
        let continues = |text: &str| match text.strip_prefix(beginning) {
            Some(rest) => rest.len() <= GENERATED && could_be_made(rest),
            None => false,
        };
        match self {
            Self::Any | Self::Pattern(_) => true,
            Self::Exact(exact) => exact.len() == beginning.len() + GENERATED && continues(exact),
            Self::Prefix(prefix) => beginning.starts_with(&**prefix) || continues(prefix),
            Self::Suffix(suffix) => {
                let split = suffix.floor_char_boundary(suffix.len().saturating_sub(GENERATED));
                let (given, made) = suffix.split_at(split);
                could_be_made(made) && beginning.ends_with(given)
            }
        }
    }
}

/// Greedy matching that goes back to the last star alone, which is enough for this language.
fn run(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += width(text[t]);
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    p = after_star;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    t == text.len() && pattern[p.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

/// Bytes of the UTF-8 character that starts with this byte, so that `?` is one character.
fn width(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_api_server_makes_match_where_they_could() {
        for (pattern, beginning, could) in [
            ("*", "job-", true),
            ("job-abcde", "job-", true),
            ("job-abcd", "job-", false),
            ("job-ab-de", "job-", false),
            ("prod-abcde", "job-", false),
            ("job-*", "job-", true),
            ("j*", "job-", true),
            ("job-ab*", "job-", true),
            ("job-a-*", "job-", false),
            ("job-abcdef*", "job-", false),
            ("prod-*", "job-", false),
            ("*-prod", "job-", false),
            ("*prod", "job-", true),
            ("*b-prods", "job-", true),
            ("*c-prods", "job-", false),
            ("j?b-*x", "job-", true),
        ] {
            let glob = Glob::name(pattern).expect(pattern);
            assert_eq!(glob.could_match_generated(beginning), could, "{pattern}");
        }
    }

    #[test]
    fn globs_match_what_people_mean() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("**", "x", true),
            ("prod", "prod", true),
            ("prod", "prod-1", false),
            ("prod-*", "prod-", true),
            ("prod-*", "prod", false),
            ("*-prod", "eu-prod", true),
            ("*-prod", "eu-prod-2", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            ("*é?", "xéy", true),
            ("*a*a*a*b", &"a".repeat(200), false),
            ("?", "", false),
            ("sh -c *", "sh -c rm -rf /", true),
        ] {
            assert_eq!(
                Glob::text(pattern).expect(pattern).matches(text),
                matches,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn a_start_matches_what_a_longer_text_could() {
        for (pattern, start, could) in [
            ("*", "x", true),
            ("*x", "y", true),
            ("abc", "ab", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc", "b", false),
            ("ab*", "a", true),
            ("ab*", "abc", true),
            ("ab*", "b", false),
            ("a?c*d", "abcx", true),
            ("a?c*d", "aé", true),
            ("a?c*d", "axd", false),
            ("a?c", "abcd", false),
            ("a??", "a", true),
        ] {
            let glob = Glob::text(pattern).expect(pattern);
            assert_eq!(glob.could_go_on_from(start), could, "{pattern} on {start}");
            assert!(could || !glob.matches(start), "{pattern} on {start}");
        }
    }

    #[test]
    fn what_would_match_nothing_is_refused() {
        assert_eq!(Glob::name(""), Err(GlobError::Empty));
        assert_eq!(Glob::name(" a"), Err(GlobError::Blank));
        for pattern in ["prod-[ab]", "{a,b}", "!prod", "a\\*"] {
            assert!(
                matches!(Glob::name(pattern), Err(GlobError::Wildcard(_))),
                "{pattern}"
            );
        }
        assert!(
            Glob::text("sh -c {a,b} [x]")
                .expect("text")
                .matches("sh -c {a,b} [x]")
        );
        assert_eq!(Glob::folded("Prod-*"), Ok(Glob::Prefix("prod-".into())));
    }
}
