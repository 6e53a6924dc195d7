//! `picket crds`: the CustomResourceDefinitions that this version reads, for a cluster that keeps the objects.
//!
//! In: nothing. Out: YAML on standard output, which `kubectl apply --server-side -f -` takes.

use std::io::Write as _;
use std::process::ExitCode;

use picket_policy::api::crd_files;

/// Shown below the command's meaning.
pub(super) const HELP: &str = "\
Examples:
  picket crds | kubectl apply --server-side -f -
  picket crds | kubectl diff --server-side -f -

Exit codes: 0 success, 1 the output cannot be written, 2 wrong usage.";

pub(super) fn run() -> ExitCode {
    match std::io::stdout().write_all(text().as_bytes()) {
        // A reader that has seen enough, such as `head`, is no fault.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            super::fail(&anyhow::Error::new(error).context("cannot write"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// All of them as one file.
pub(super) fn text() -> String {
    let documents: Vec<_> = crd_files().into_iter().map(|(_, text)| text).collect();
    documents.join("---\n")
}

#[cfg(test)]
mod tests {
    use picket_policy::yaml::parse;

    #[test]
    fn the_crds_are_four_documents_of_one_file() {
        assert_eq!(parse("crds.yaml", &super::text()).expect("YAML").len(), 4);
    }
}
