//! The result of tests as JUnit XML, which CI systems read.
//!
//! In: a [`Report`]. Out: the text of one `testsuites` document (https://github.com/testmoapp/junitxml, the common subset).

use std::fmt::Write as _;

use super::test::Report;

/// The document.
pub(super) fn document(report: &Report) -> String {
    let cases = || report.tests.iter().flat_map(|test| &test.cases);
    let failed = |failed: usize| format!("failures=\"{failed}\"");
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "<testsuites name=\"picket policy test\" tests=\"{}\" {} errors=\"{}\">",
        cases().count(),
        failed(cases().filter(|case| !case.passed).count()),
        report.errors().count(),
    );
    for test in &report.tests {
        let failures = test.cases.iter().filter(|case| !case.passed).count();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" file=\"{}\" tests=\"{}\" {}>",
            escaped(&test.name),
            escaped(&test.file),
            test.cases.len(),
            failed(failures),
        );
        for case in &test.cases {
            let _ = write!(
                text,
                "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" line=\"{}\"",
                escaped(&test.name),
                escaped(&case.name),
                escaped(&case.file),
                case.line,
            );
            if case.passed {
                text.push_str("/>\n");
                continue;
            }
            let _ = writeln!(
                text,
                ">\n      <failure message=\"{}\">{}:{}:{}</failure>\n    </testcase>",
                escaped(&case.failures.join("; ")),
                escaped(&case.file),
                case.line,
                case.column,
            );
        }
        text.push_str("  </testsuite>\n");
    }
    if report.errors().next().is_some() {
        let count = report.errors().count();
        let _ = writeln!(
            text,
            "  <testsuite name=\"files\" tests=\"{count}\" errors=\"{count}\">"
        );
        for error in report.errors() {
            let error = escaped(&error);
            let _ = writeln!(
                text,
                "    <testcase name=\"{error}\"><error message=\"{error}\"/></testcase>"
            );
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

/// Text as XML has it. Characters that XML 1.0 cannot hold (section 2.2) become a replacement character.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            char if (char as u32) < 0x20 || matches!(char, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}')
            }
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_attribute() {
        assert_eq!(
            escaped("a\"><b>&'\n\u{1b}"),
            "a&quot;&gt;&lt;b&gt;&amp;'&#10;\u{fffd}"
        );
    }
}
