//! Files that `picket reference` writes: JSON Schemas and CRDs of the objects, and the reference pages of the manual.
//!
//! In: the built agent, whose types are their source. Out: with `cargo xtask generate`, the files below `deploy/`; in the
//! check, a finding for each file that differs, is missing, or is written no more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use crate::agent::{Profile, build};
use crate::sh;

/// Where they are; nothing else is there.
const FOLDERS: [&str; 4] = [
    "deploy/schemas",
    "deploy/crds",
    "deploy/charts/picket/crds",
    "deploy/docs/reference",
];

/// Files that the chart has too, since Helm takes CRDs from a folder of the chart only.
const CRDS: &str = "crds/";

/// Whether a file is one of them.
pub(crate) fn owns(path: &str) -> bool {
    FOLDERS.iter().any(|folder| Path::new(path).starts_with(folder))
}

/// Writes them anew.
pub(crate) fn write() -> Result<()> {
    let files = rendered()?;
    for folder in FOLDERS {
        let _ = fs::remove_dir_all(sh::root().join(folder));
    }
    for (path, text) in &files {
        let file = sh::root().join(path);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        println!("{path}");
    }
    Ok(())
}

/// Those that are not as they would be written.
pub(super) fn stale() -> Result<Vec<Finding>> {
    let mut present = BTreeMap::new();
    for folder in FOLDERS {
        read(&sh::root(), Path::new(folder), &mut present)?;
    }
    Ok(compare(&rendered()?, &present))
}

fn compare(rendered: &BTreeMap<String, String>, present: &BTreeMap<String, String>) -> Vec<Finding> {
    let finding = |path: &String, line: usize, message: &str| Finding {
        file: path.clone(),
        line,
        message: format!("{message}; run `cargo xtask generate`"),
    };
    let mut found = Vec::new();
    for (path, wanted) in rendered {
        match present.get(path) {
            None => found.push(finding(path, 1, "this generated file is missing")),
            Some(text) if text != wanted => {
                let same = text
                    .lines()
                    .zip(wanted.lines())
                    .take_while(|(one, other)| one == other);
                found.push(finding(
                    path,
                    same.count() + 1,
                    "this generated file is not current",
                ));
            }
            Some(_) => {}
        }
    }
    for path in present.keys().filter(|path| !rendered.contains_key(*path)) {
        found.push(finding(
            path,
            1,
            "this file is among the generated ones, and nothing generates it",
        ));
    }
    found
}

/// What the agent's types say, by paths relative to the root of the repository.
fn rendered() -> Result<BTreeMap<String, String>> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let picket = build(Profile::Dev)?;
    sh::run(
        sh::command(&picket.to_string_lossy())
            .arg("reference")
            .arg(folder.path()),
    )?;
    let mut files = BTreeMap::new();
    read(folder.path(), Path::new(""), &mut files)?;
    Ok(placed(files))
}

/// The files of `picket reference` by where they go.
fn placed(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let of_chart = files.iter().filter(|(path, _)| path.starts_with(CRDS));
    let mut all: BTreeMap<_, _> = of_chart
        .map(|(path, text)| (format!("deploy/charts/picket/{path}"), text.clone()))
        .collect();
    all.extend(
        files
            .into_iter()
            .map(|(path, text)| (format!("deploy/{path}"), text)),
    );
    all
}

/// Every file below `folder` of `root`, by its path relative to `root`.
fn read(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return Ok(());
    };
    for entry in entries {
        let path: PathBuf = folder.join(entry?.file_name());
        if root.join(&path).is_dir() {
            read(root, &path, files)?;
        } else {
            let text =
                fs::read_to_string(root.join(&path)).with_context(|| format!("read {}", path.display()))?;
            files.insert(path.to_string_lossy().into_owned(), text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{compare, owns, placed};

    #[test]
    fn what_differs_is_missing_or_left_over_is_found() {
        let files = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter()
                .map(|&(path, text)| (path.to_owned(), text.to_owned()))
                .collect()
        };
        let rendered = files(&[("a", "1\n2\n"), ("b", ""), ("c", "same\n")]);
        let present = files(&[("a", "1\n3\n"), ("c", "same\n"), ("d", "")]);
        let found: Vec<String> = compare(&rendered, &present)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "a:2: this generated file is not current; run `cargo xtask generate`",
                "b:1: this generated file is missing; run `cargo xtask generate`",
                "d:1: this file is among the generated ones, and nothing generates it; run `cargo xtask generate`",
            ]
        );
        assert_eq!(compare(&rendered, &rendered), []);
    }

    #[test]
    fn the_chart_has_the_crds_too() {
        let files = ["crds/a.yaml", "schemas/a.json"].map(|path| (path.to_owned(), String::new()));
        let all = placed(files.into_iter().collect());
        assert_eq!(
            all.keys().collect::<Vec<_>>(),
            [
                "deploy/charts/picket/crds/a.yaml",
                "deploy/crds/a.yaml",
                "deploy/schemas/a.json"
            ]
        );
        assert!(all.keys().all(|path| owns(path)));
    }

    #[test]
    fn only_whole_folders_are_generated() {
        assert!(owns("deploy/docs/reference/cli.md") && owns("deploy/schemas/agentpolicy.json"));
        assert!(owns("deploy/crds/picket.dev_agentpolicies.yaml"));
        assert!(!owns("deploy/charts/picket/values.yaml"));
        assert!(!owns("deploy/docs/policy.md") && !owns("deploy/docs/reference.md"));
    }
}
