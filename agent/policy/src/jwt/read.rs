//! From the text of an `AuthenticationConfiguration` to its issuers.
//!
//! In: text. Out: an [`AuthenticationConfiguration`], or everything that is wrong in it with its place. What the API server
//! refuses in such a file is refused, and so are the fields that Picket cannot do anything with.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Uri;

use super::{AuthenticationConfiguration, ClaimRule, Extra, JwtIssuer, MAX_ISSUERS, Mapping, UserRule};
use crate::cel::Expression;
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::{Decoder, Diagnostic, Fields, Spanned, YamlNode, parse};

const KIND: &str = "AuthenticationConfiguration";

/// The versions that are read. They have the same fields.
const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];

pub(super) fn configuration(file: &str, text: &str) -> Result<AuthenticationConfiguration, Vec<Diagnostic>> {
    let documents = parse(file, text).map_err(|error| vec![error])?;
    let mut decoder = Decoder::new(file);
    let error = |line: u32, column: u32, reason: &str| {
        vec![Diagnostic {
            file: file.to_owned(),
            line,
            column,
            reason: reason.to_owned(),
        }]
    };
    let configuration = match documents.as_slice() {
        [document] => top(&mut decoder, document),
        [] => {
            return Err(error(
                1,
                1,
                "the file is empty; it must hold an AuthenticationConfiguration",
            ));
        }
        [_, second, ..] => {
            let reason = "a second document; an AuthenticationConfiguration is one";
            return Err(error(second.line, second.column, reason));
        }
    };
    // Nothing that is required is missing without an error that says so.
    decoder.finish(configuration)?.ok_or_else(Vec::new)
}

fn top(decoder: &mut Decoder, document: &YamlNode) -> Option<AuthenticationConfiguration> {
    let known = ["apiVersion", "kind", "jwt", "anonymous"];
    let top = decoder.fields(document, "", &known, &[])?;
    let words = VERSIONS.map(|version| (version, ()));
    if let Some(node) = decoder.required(&top, "apiVersion") {
        decoder.choice(node, "apiVersion", &words);
    }
    if let Some(node) = decoder.required(&top, "kind") {
        decoder.choice(node, "kind", &[(KIND, ())]);
    }
    // `anonymous` is about callers without a credential, whom Picket knows by their pod or not at all.
    let Some(node) = top.get("jwt") else {
        return Some(AuthenticationConfiguration::default());
    };
    let items = decoder.list(node, "jwt");
    if items.len() > MAX_ISSUERS {
        decoder.error_at(node, format!("field `jwt` has more than {MAX_ISSUERS} issuers"));
        return None;
    }
    let mut seen = Seen::default();
    let issuers: Vec<_> = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| authenticator(decoder, item, &format!("jwt[{index}]"), &mut seen))
        .map(Arc::new)
        .collect();
    Some(AuthenticationConfiguration { issuers })
}

/// What two issuers may not share.
#[derive(Default)]
struct Seen {
    urls: BTreeSet<String>,
    discovery_urls: BTreeSet<String>,
}

fn authenticator(decoder: &mut Decoder, node: &YamlNode, path: &str, seen: &mut Seen) -> Option<JwtIssuer> {
    let known = [
        "issuer",
        "claimValidationRules",
        "claimMappings",
        "userValidationRules",
    ];
    let fields = decoder.fields(node, path, &known, &[])?;
    let issuer = issuer(decoder, &fields, seen);
    let claim_rules = claim_rules(decoder, &fields);
    let user_rules = user_rules(decoder, &fields);
    let mappings = mappings(decoder, &fields);
    let (issuer, mappings) = (issuer?, mappings?);
    check_email(decoder, &fields, &mappings, &claim_rules);
    Some(JwtIssuer {
        url: issuer.url,
        discovery_url: issuer.discovery_url,
        audiences: issuer.audiences,
        certificate_authority: issuer.certificate_authority,
        claim_rules,
        username: mappings.username,
        groups: mappings.groups,
        uid: mappings.uid,
        extra: mappings.extra,
        user_rules,
    })
}

struct Issuer {
    url: String,
    discovery_url: Option<String>,
    audiences: Vec<String>,
    certificate_authority: Option<Spanned<String>>,
}

fn issuer(decoder: &mut Decoder, parent: &Fields<'_>, seen: &mut Seen) -> Option<Issuer> {
    let known = [
        "url",
        "discoveryURL",
        "certificateAuthority",
        "audiences",
        "audienceMatchPolicy",
        "egressSelectorType",
    ];
    let node = decoder.required(parent, "issuer")?;
    let fields = decoder.fields(node, &parent.path("issuer"), &known, &[])?;
    let url = decoder.required_text(&fields, "url");
    let url = url.and_then(|url| issuer_url(decoder, &fields, "url", url, &mut seen.urls));
    let discovery_url = text_unless_empty(decoder, &fields, "discoveryURL").and_then(|discovery| {
        let is_same = |url: &String| url.trim_end_matches('/') == discovery.value.trim_end_matches('/');
        if url.as_ref().is_some_and(is_same) {
            let path = fields.path("discoveryURL");
            decoder.error_at(&discovery.at, format!("field `{path}` must differ from `url`"));
        }
        issuer_url(
            decoder,
            &fields,
            "discoveryURL",
            discovery,
            &mut seen.discovery_urls,
        )
    });
    if let Some(node) = fields.get("egressSelectorType") {
        let path = fields.path("egressSelectorType");
        let reason = format!(
            "field `{path}` is of the API server's own network; Picket dials the issuer from the node"
        );
        decoder.error_at(node, reason);
    }
    let certificate_authority = text_unless_empty(decoder, &fields, "certificateAuthority");
    let audiences = audiences(decoder, &fields);
    Some(Issuer {
        url: url?,
        discovery_url,
        audiences,
        certificate_authority,
    })
}

fn issuer_url(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &str,
    url: Spanned<String>,
    seen: &mut BTreeSet<String>,
) -> Option<String> {
    let wrong = match url.value.parse::<Uri>() {
        Err(_) => "is no URL",
        Ok(uri) if uri.scheme_str() != Some("https") => "must begin with https://",
        Ok(uri)
            if uri
                .authority()
                .is_none_or(|authority| authority.as_str().contains('@')) =>
        {
            "must hold no user name and no password"
        }
        Ok(uri) if uri.query().is_some() => "must have no query",
        Ok(_) if url.value.contains('#') => "must have no fragment",
        Ok(_) if !seen.insert(url.value.clone()) => "is given twice; each issuer is one entry",
        Ok(_) => return Some(url.value),
    };
    decoder.error_at(&url.at, format!("field `{}` {wrong}", fields.path(name)));
    None
}

fn audiences(decoder: &mut Decoder, fields: &Fields<'_>) -> Vec<String> {
    let path = fields.path("audiences");
    let Some(node) = decoder.required(fields, "audiences") else {
        return Vec::new();
    };
    let mut audiences: Vec<String> = Vec::new();
    for (index, item) in decoder.list(node, &path).iter().enumerate() {
        let Some(audience) = decoder.filled_text(item, &format!("{path}[{index}]")) else {
            continue;
        };
        if audiences.contains(&audience.value) {
            decoder.error_at(item, format!("field `{path}[{index}]` is given twice"));
        }
        audiences.push(audience.value);
    }
    if matches!(&node.value, crate::yaml::Value::List(items) if items.is_empty()) {
        decoder.error_at(node, format!("field `{path}` must have at least one audience"));
    }
    let policy = text_unless_empty(decoder, fields, "audienceMatchPolicy");
    let path = fields.path("audienceMatchPolicy");
    match policy {
        Some(policy) if policy.value != "MatchAny" => {
            decoder.error_at(&policy.at, format!("field `{path}` can be MatchAny only"));
        }
        None if audiences.len() > 1 => {
            decoder.error_at(
                node,
                format!("field `{path}` must be MatchAny where there are several audiences"),
            );
        }
        _ => {}
    }
    audiences
}

fn claim_rules(decoder: &mut Decoder, parent: &Fields<'_>) -> Vec<ClaimRule> {
    let known = ["claim", "requiredValue", "expression", "message"];
    let mut seen = BTreeSet::new();
    rules(
        decoder,
        parent,
        "claimValidationRules",
        &known,
        |decoder, fields| {
            let (claim, expression) = (
                text_unless_empty(decoder, fields, "claim"),
                text_unless_empty(decoder, fields, "expression"),
            );
            let message = text_unless_empty(decoder, fields, "message");
            let required = text_unless_empty(decoder, fields, "requiredValue");
            match (claim, expression) {
                (Some(claim), None) => {
                    refuse_beside(decoder, fields, "message", message.as_ref(), "claim");
                    once(decoder, fields, "claim", &claim, &mut seen);
                    Some(ClaimRule::Required {
                        claim: claim.value,
                        value: required.map(|value| value.value).unwrap_or_default(),
                    })
                }
                (None, Some(text)) => {
                    refuse_beside(decoder, fields, "requiredValue", required.as_ref(), "expression");
                    once(decoder, fields, "expression", &text, &mut seen);
                    Some(ClaimRule::Expression {
                        expression: compile(decoder, fields, "expression", &text, "claims")?,
                        message: message.map(|message| message.value).unwrap_or_default(),
                    })
                }
                _ => {
                    one_of(decoder, fields);
                    None
                }
            }
        },
    )
}

fn user_rules(decoder: &mut Decoder, parent: &Fields<'_>) -> Vec<UserRule> {
    let known = ["expression", "message"];
    let mut seen = BTreeSet::new();
    rules(
        decoder,
        parent,
        "userValidationRules",
        &known,
        |decoder, fields| {
            let text = decoder.required_text(fields, "expression")?;
            let message = text_unless_empty(decoder, fields, "message");
            once(decoder, fields, "expression", &text, &mut seen);
            Some(UserRule {
                expression: compile(decoder, fields, "expression", &text, "user")?,
                message: message.map(|message| message.value).unwrap_or_default(),
            })
        },
    )
}

/// The entries of a list of mappings.
fn rules<T>(
    decoder: &mut Decoder,
    parent: &Fields<'_>,
    name: &str,
    known: &[&str],
    mut read: impl FnMut(&mut Decoder, &Fields<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(node) = parent.get(name) else {
        return Vec::new();
    };
    let path = parent.path(name);
    let mut found = Vec::new();
    for (index, item) in decoder.list(node, &path).iter().enumerate() {
        if let Some(fields) = decoder.fields(item, &format!("{path}[{index}]"), known, &[]) {
            found.extend(read(decoder, &fields));
        }
    }
    found
}

struct Mappings {
    username: Mapping,
    username_at: YamlPlace,
    groups: Option<Mapping>,
    uid: Option<Mapping>,
    extra: Vec<Extra>,
}

/// Where the username's mapping stands, for an error that is found later.
type YamlPlace = crate::yaml::SourceLocation;

fn mappings(decoder: &mut Decoder, parent: &Fields<'_>) -> Option<Mappings> {
    let node = decoder.required(parent, "claimMappings")?;
    let known = ["username", "groups", "uid", "extra"];
    let fields = decoder.fields(node, &parent.path("claimMappings"), &known, &[])?;
    let username_node = decoder.required(&fields, "username");
    let username = username_node.and_then(|node| mapping(decoder, &fields, "username", node, true));
    let groups = fields
        .get("groups")
        .and_then(|node| mapping(decoder, &fields, "groups", node, true));
    let uid = fields
        .get("uid")
        .and_then(|node| mapping(decoder, &fields, "uid", node, false));
    let mut seen = BTreeSet::new();
    let extra = rules(
        decoder,
        &fields,
        "extra",
        &["key", "valueExpression"],
        |decoder, fields| {
            let key = decoder.required_text(fields, "key");
            let text = decoder.required_text(fields, "valueExpression");
            let key = key?;
            extra_key(decoder, fields, &key);
            once(decoder, fields, "key", &key, &mut seen);
            let value = compile(decoder, fields, "valueExpression", &text?, "claims")?;
            Some(Extra {
                key: key.value,
                value,
            })
        },
    );
    Some(Mappings {
        username: username?,
        username_at: username_node?.location(&decoder.file),
        groups,
        uid,
        extra,
    })
}

fn mapping(
    decoder: &mut Decoder,
    parent: &Fields<'_>,
    name: &str,
    node: &YamlNode,
    has_prefix: bool,
) -> Option<Mapping> {
    let known: &[&str] = if has_prefix {
        &["claim", "prefix", "expression"]
    } else {
        &["claim", "expression"]
    };
    let fields = decoder.fields(node, &parent.path(name), known, &[])?;
    let claim = text_unless_empty(decoder, &fields, "claim");
    let expression = text_unless_empty(decoder, &fields, "expression");
    let prefix = fields.get("prefix");
    let prefix = prefix.and_then(|node| decoder.text(node, &fields.path("prefix")));
    match (claim, expression) {
        (Some(claim), None) => {
            if has_prefix && prefix.is_none() {
                let path = fields.path("prefix");
                let reason =
                    format!("field `{path}` is required with `claim`; an empty text stands for no prefix");
                decoder.error_at(&claim.at, reason);
            }
            Some(Mapping::Claim {
                name: claim.value,
                prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
            })
        }
        (None, Some(text)) => {
            refuse_beside(decoder, &fields, "prefix", prefix.as_ref(), "expression");
            compile(decoder, &fields, "expression", &text, "claims").map(Mapping::Expression)
        }
        _ => {
            one_of(decoder, &fields);
            None
        }
    }
}

/// A key is a domain, a slash and a path, in lower case, and not of Kubernetes' own domains.
fn extra_key(decoder: &mut Decoder, fields: &Fields<'_>, key: &Spanned<String>) {
    let path = fields.path("key");
    let (domain, rest) = key.value.split_once('/').unwrap_or_default();
    let reserved = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| domain == *own || domain.ends_with(&format!(".{own}")));
    let is_path = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte))
    };
    let wrong = if key.value != key.value.to_lowercase() {
        "must be in lower case"
    } else if reserved {
        "must not be of kubernetes.io or k8s.io, which Kubernetes keeps for itself"
    } else if !is_subdomain(domain) || !is_path(rest) {
        "must be a domain and a path, such as example.org/tenant"
    } else {
        return;
    };
    decoder.error_at(&key.at, format!("field `{path}` {wrong}"));
}

/// A user's name from `claims.email` needs a look at `claims.email_verified`.
fn check_email(decoder: &mut Decoder, fields: &Fields<'_>, mappings: &Mappings, rules: &[ClaimRule]) {
    let verified = |expression: &Expression| expression.selects("claims", "email_verified");
    let Mapping::Expression(username) = &mappings.username else {
        return;
    };
    let in_rules = rules.iter().any(|rule| match rule {
        ClaimRule::Expression { expression, .. } => verified(expression),
        ClaimRule::Required { .. } => false,
    });
    let in_extra = mappings.extra.iter().any(|extra| verified(&extra.value));
    if username.selects("claims", "email") && !verified(username) && !in_extra && !in_rules {
        let path = fields.path("claimMappings");
        let reason = format!(
            "field `{path}.username.expression` uses claims.email, so claims.email_verified must be used there, in \
             claimMappings.extra or in claimValidationRules"
        );
        decoder.error_at(&mappings.username_at, reason);
    }
}

/// A text; an empty one counts as left out, as with the API server.
fn text_unless_empty(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<Spanned<String>> {
    let text = decoder.text(fields.get(name)?, &fields.path(name))?;
    (!text.value.is_empty()).then_some(text)
}

fn compile(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &str,
    text: &Spanned<String>,
    variable: &str,
) -> Option<Expression> {
    match Expression::compile(&text.value, &[variable]) {
        Ok(expression) => Some(expression),
        Err(error) => {
            decoder.error_at(&text.at, format!("field `{}`: {error}", fields.path(name)));
            None
        }
    }
}

fn once(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &'static str,
    text: &Spanned<String>,
    seen: &mut BTreeSet<(&'static str, String)>,
) {
    if !seen.insert((name, text.value.clone())) {
        decoder.error_at(&text.at, format!("field `{}` is given twice", fields.path(name)));
    }
}

fn refuse_beside(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &str,
    text: Option<&Spanned<String>>,
    other: &str,
) {
    if let Some(text) = text {
        let path = fields.path(name);
        decoder.error_at(&text.at, format!("field `{path}` cannot stand beside `{other}`"));
    }
}

fn one_of(decoder: &mut Decoder, fields: &Fields<'_>) {
    let claim = fields.path("claim");
    let reason = format!("give either `{claim}` or `{}`", fields.path("expression"));
    decoder.error_at(fields.node, reason);
}
