//! What is wrong with files as SARIF 2.1.0 (OASIS), which code scanning and editors read.
//!
//! In: [`Finding`]s. Out: one document.

use serde_json::{Value as Json, json};

use super::error_report::ErrorReport;

/// The schema of the document (SARIF 2.1.0, section 3.13.3).
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    id: &'static str,
    level: &'static str,
    description: &'static str,
}

/// A file or an object is not valid.
pub(super) const INVALID: Rule = Rule {
    id: "not-valid",
    level: "error",
    description: "The object is not valid: no agent puts it in force.",
};

/// Something that the files name and do not have.
pub(super) const NOT_IN_FILES: Rule = Rule {
    id: "not-in-files",
    level: "warning",
    description: "The files name something that they do not have.",
};

/// Rights that lead past Picket.
pub(super) const LEADS_PAST: Rule = Rule {
    id: "leads-past-picket",
    level: "warning",
    description: "The grants give a right by which an agent can act without Picket.",
};

/// A file that no agent reads.
pub(super) const NOT_READ: Rule = Rule {
    id: "not-read",
    level: "warning",
    description: "No agent reads the file.",
};

const RULES: [&Rule; 4] = [&INVALID, &NOT_IN_FILES, &LEADS_PAST, &NOT_READ];

/// Something to say of a file.
#[derive(Debug)]
pub(super) struct Finding {
    /// Of which kind.
    pub(super) rule: &'static Rule,
    /// What is said.
    pub(super) message: String,
    /// The file.
    pub(super) file: Option<String>,
    /// From 1.
    pub(super) line: Option<u32>,
    /// In characters, from 1.
    pub(super) column: Option<u32>,
}

impl Finding {
    /// What an error or a warning says.
    pub(super) fn of(rule: &'static Rule, report: &ErrorReport) -> Self {
        Self {
            rule,
            message: without_level(&report.reason).to_owned(),
            file: report.file.clone(),
            line: report.line,
            column: report.column,
        }
    }

    fn result(&self) -> Json {
        let mut result = json!({
            "ruleId": self.rule.id,
            "ruleIndex": RULES.iter().position(|rule| *rule == self.rule),
            "level": self.rule.level,
            "message": {"text": self.message},
        });
        if let Some(file) = &self.file {
            let mut place = json!({"artifactLocation": {"uri": uri(file)}});
            // Lines and columns begin with 1 (section 3.30.5).
            if let Some(line) = self.line.filter(|line| *line > 0) {
                place["region"] = json!({"startLine": line});
                if let Some(column) = self.column.filter(|column| *column > 0) {
                    place["region"]["startColumn"] = column.into();
                }
            }
            result["locations"] = json!([{"physicalLocation": place}]);
        }
        result
    }
}

/// A message without the word that text has in front of a warning. A finding has its level.
pub(super) fn without_level(message: &str) -> &str {
    message.strip_prefix("warning: ").unwrap_or(message)
}

/// The document.
pub(super) fn document(findings: &[Finding]) -> Json {
    let rules = RULES.map(|rule| {
        json!({
            "id": rule.id,
            "shortDescription": {"text": rule.description},
            "defaultConfiguration": {"level": rule.level},
        })
    });
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "picket policy check",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(Finding::result).collect::<Vec<_>>(),
        }],
    })
}

/// A path as a URI reference (RFC 3986): relative paths stay relative, to where the command ran.
fn uri(path: &str) -> String {
    let mut uri = match path.starts_with('/') {
        true => "file://".to_owned(),
        false => String::new(),
    };
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(file: Option<&str>, place: Option<(u32, u32)>) -> Finding {
        Finding::of(
            &INVALID,
            &ErrorReport {
                file: file.map(str::to_owned),
                line: place.map(|(line, _)| line),
                column: place.map(|(_, column)| column),
                reason: "field `spec.x` is unknown".to_owned(),
            },
        )
    }

    /// What the schema of SARIF 2.1.0 demands of the objects that the document has.
    fn holds_to_the_schema(document: &Json) {
        assert_eq!(document["version"], "2.1.0");
        let runs = document["runs"].as_array().expect("runs: required");
        for run in runs {
            let driver = &run["tool"]["driver"];
            assert!(driver["name"].is_string(), "tool.driver.name: required");
            let kinds = ["utf16CodeUnits", "unicodeCodePoints"];
            assert!(kinds.contains(&run["columnKind"].as_str().expect("text")));
            let rules = driver["rules"].as_array().expect("rules");
            let mut ids: Vec<_> = rules
                .iter()
                .map(|rule| rule["id"].as_str().expect("id: required"))
                .collect();
            for rule in rules {
                assert!(
                    rule["shortDescription"]["text"].is_string(),
                    "text or id: required"
                );
            }
            for result in run["results"].as_array().expect("results") {
                assert!(
                    result["message"]["text"].is_string(),
                    "message.text or id: required"
                );
                let levels = ["none", "note", "warning", "error"];
                assert!(levels.contains(&result["level"].as_str().expect("a level")));
                let index = result["ruleIndex"].as_u64().expect("an index");
                assert_eq!(rules[index as usize]["id"], result["ruleId"]);
                for location in result["locations"].as_array().into_iter().flatten() {
                    let place = &location["physicalLocation"];
                    let uri = place["artifactLocation"]["uri"]
                        .as_str()
                        .expect("address or artifactLocation");
                    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:%".contains(&byte);
                    assert!(uri.bytes().all(fits), "{uri}: a uri-reference");
                    for field in ["startLine", "startColumn"] {
                        assert!(
                            place["region"]
                                .get(field)
                                .is_none_or(|number| number.as_u64() >= Some(1))
                        );
                    }
                }
            }
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), rules.len(), "rules: uniqueItems");
        }
    }

    #[test]
    fn the_document_has_what_its_schema_demands() {
        let findings = [
            finding(Some("objects/a b.yaml"), Some((7, 10))),
            finding(Some("/etc/picket/p.yaml"), Some((0, 0))),
            finding(None, None),
        ];
        let document = document(&findings);
        holds_to_the_schema(&document);
        let results = &document["runs"][0]["results"];
        let place = &results[0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "objects/a%20b.yaml");
        assert_eq!(place["region"], json!({"startLine": 7, "startColumn": 10}));
        let place = &results[1]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "file:///etc/picket/p.yaml");
        assert!(place.get("region").is_none());
        assert!(results[2].get("locations").is_none());
        holds_to_the_schema(&super::document(&[]));
    }

    #[test]
    fn a_warning_says_so_by_its_level_alone() {
        let report = ErrorReport::plain("warning: no AgentIdentity is named \"x\"".to_owned());
        let result = Finding::of(&NOT_IN_FILES, &report).result();
        assert_eq!(result["message"]["text"], "no AgentIdentity is named \"x\"");
        assert_eq!(result["level"], "warning");
    }
}
