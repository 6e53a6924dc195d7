//! Any text, as a script, as arguments and as a URI: no panic, and no redaction takes a character that means something to a shell.
#![no_main]

#[path = "../../../agent/src/audit/redact/mod.rs"]
#[allow(dead_code, unused_imports)]
mod redact;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static REDACTOR: LazyLock<redact::Redactor> = LazyLock::new(|| redact::Redactor::new(&[7; 32]));

/// Characters that stand for more than themselves somewhere in a shell, in order.
fn others(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+/=,:@%*".contains(c);
    text.chars().filter(|c| !plain(*c)).collect()
}

fuzz_target!(|text: &str| {
    let script = REDACTOR.arguments(&["sh", "-c", text]);
    assert_eq!(others(&script[2]), others(text));
    let arguments: Vec<&str> = text.split('\0').collect();
    let clean = REDACTOR.arguments(&arguments);
    assert_eq!(clean.len(), arguments.len());
    for (clean, argument) in clean.iter().zip(&arguments) {
        assert_eq!(others(clean), others(argument));
    }
    let _clean = REDACTOR.text(text);
    let uri = REDACTOR.uri(text);
    assert_eq!(uri.matches('&').count(), text.matches('&').count());
});
