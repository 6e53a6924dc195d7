//! `picket policy schema`: the JSON Schema of the objects, for editors and for checks without Picket.
//!
//! In: a kind, or none for all kinds. Out: its schema on standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use picket_policy::api::{any_object_schema, object_schemas};
use picket_policy::testing::test_schema;
use serde_json::Value;

use crate::cli::output;

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy schema > objects.json
  picket policy schema AgentPolicy

An editor with the YAML language server checks a file against the schema that the file's first line names:
  # yaml-language-server: $schema=objects.json

A schema cannot say all that `picket policy check` checks.

Exit codes: 0 success, 1 the schema cannot be printed, 2 wrong usage.";

/// Print a schema.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// The kind, an object's or AgentPolicyTest. Without it: one schema that takes an object of any kind.
    #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(kinds()), ignore_case = true)]
    kind: Option<String>,
}

fn kinds() -> Vec<&'static str> {
    all().map(|(kind, _)| kind).collect()
}

/// Every kind with its schema: the objects, and test files.
fn all() -> impl Iterator<Item = (&'static str, Value)> {
    object_schemas().into_iter().chain([test_schema()])
}

/// The schema that is asked for.
fn schema(kind: Option<&str>) -> Value {
    let wanted = |kind: &str| all().find(|(known, _)| known.eq_ignore_ascii_case(kind));
    kind.and_then(wanted)
        .map_or_else(any_object_schema, |(_, schema)| schema)
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &SchemaArgs) -> ExitCode {
    match writeln!(io::stdout().lock(), "{:#}", schema(args.kind.as_deref())) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            output::warn(format_args!("picket: cannot print the schema: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_its_own_schema_and_none_has_that_of_all() {
        for kind in kinds() {
            assert_eq!(schema(Some(&kind.to_lowercase()))["title"], kind);
        }
        let all = schema(None);
        assert_eq!(
            all["oneOf"].as_array().map(Vec::len),
            Some(object_schemas().len())
        );
    }
}
