//! What secrets are called and look like.
//!
//! In: the name of a parameter or variable, or a word of a text. Out: whether the name speaks of a secret, and how long a known
//! token at the word's start is.

/// Parts of names whose values are secrets, in lower case without `-` and `_`.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "signature",
    "cookie",
];

/// Whole names that are too short to look for inside others.
const SECRET_SHORT_NAMES: [&str; 5] = ["pwd", "pass", "pw", "sig", "jwt"];

/// Names that hold a word of [`SECRET_NAMES`] and no secret: Kubernetes' own query parameters and common flags.
const PLAIN_NAMES: [&str; 5] = [
    "continuetoken",
    "secretname",
    "secretref",
    "tokenfile",
    "passwordfile",
];

/// What tokens of well-known issuers begin with: GitHub, GitLab, Slack, Google, Vault, npm, OpenAI and Anthropic.
const TOKEN_PREFIXES: [&str; 19] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "AIza",
    "ya29.",
    "hvs.",
    "npm_",
    "sk-ant-api",
    "sk-proj-",
    "ASIA",
    "AKIA",
];

/// So many characters must follow a prefix: fewer and it is a word that happens to begin so.
const TOKEN_LENGTH: usize = 16;

/// A name is short; a long piece before a `=` is something else, and its cost is bounded here.
const NAME_LENGTH: usize = 128;

/// Whether a parameter, flag or variable of this name holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    if name.is_empty() || name.len() > NAME_LENGTH {
        return false;
    }
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let one = plain.strip_suffix('s').unwrap_or(&plain);
    !PLAIN_NAMES.iter().any(|word| one.ends_with(word))
        && (SECRET_SHORT_NAMES.contains(&&*plain) || SECRET_NAMES.iter().any(|word| one.ends_with(word)))
}

/// Whether the word is an HTTP authentication scheme, after which the credential stands.
pub(super) fn is_scheme(word: &str) -> bool {
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

/// Whether a text may hold a token that is known by its shape.
pub(super) fn may_hold_token(text: &str) -> bool {
    text.contains("eyJ") || TOKEN_PREFIXES.iter().any(|prefix| text.contains(prefix))
}

/// Where the token begins in a word of token characters, if it holds one.
pub(super) fn token(word: &str) -> Option<usize> {
    // A JWT's parts are base64url; its header is a JSON object, `{"` (RFC 7519 section 3). Prefixes may stand before it,
    // as in `base64url.bearer.authorization.k8s.io.`.
    if let Some(start) = word.find("eyJ") {
        let mut parts = word[start..].split('.');
        if let (Some(header), Some(payload)) = (parts.next(), parts.next())
            && header.len() >= 8
            && payload.len() >= 8
        {
            return Some(start);
        }
    }
    let known = TOKEN_PREFIXES.iter().any(|prefix| {
        word.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() >= TOKEN_LENGTH)
    });
    known.then_some(0)
}

/// A character of such a token.
pub(super) fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}
