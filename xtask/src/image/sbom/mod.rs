//! The bill of materials: an SPDX 2.3 document.
//!
//! In: cargo's graph of the crates, Cargo.lock, the toolchain and the image. Out: JSON with each crate that is linked into the
//! binary or into the kernel programs, the static libraries of the toolchain, and what depends on what. Crates that only build or
//! test are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};

use super::archive::ArchivedFiles;
use super::build::{Target, Toolchain};
use super::certificates;
use super::checkout::Checkout;
use super::layout::{Contents, Layout, REPOSITORY, hex};
use crate::sh;

/// The packages that are compiled into the image, and for what: none is the image's own target.
const ROOTS: [(&str, Option<&str>); 2] = [("picket", None), ("picket-ebpf", Some("bpfel-unknown-none"))];

/// A crate's name and version.
type Crate = (String, String);

/// The crates, and what is known of them.
#[derive(Debug)]
pub(super) struct Materials {
    crates: BTreeMap<Crate, Facts>,
    depends: BTreeSet<(Crate, Crate)>,
    glibc: String,
    gcc: String,
    rust: String,
}

/// What is known of one crate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    license: Option<String>,
    /// Of the archive on crates.io; a crate of the workspace has none.
    sha256: Option<String>,
}

impl Materials {
    /// Asks cargo.
    pub(super) fn read(checkout: &Checkout, target: &Target, toolchain: &Toolchain) -> Result<Self> {
        let mut linked = BTreeSet::new();
        for (package, other) in ROOTS {
            let triple = other.unwrap_or(target.triple);
            let mut cargo = sh::cargo(&["tree", "--locked", "--prefix=none", "--format={p}"]);
            cargo.args([
                "--edges=normal,no-proc-macro",
                "--package",
                package,
                "--target",
                triple,
            ]);
            linked.extend(crates_of_tree(&sh::output(cargo.current_dir(&checkout.root))?)?);
        }
        let mut cargo = sh::cargo(&["metadata", "--locked", "--format-version=1"]);
        let metadata = sh::output(cargo.current_dir(&checkout.root))?;
        let lock = checkout.root.join("Cargo.lock");
        let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
        let metadata: Value = serde_json::from_str(&metadata)?;
        // The certificates are data, so nothing links their crate.
        let of_certificates = packages(&metadata).find(|package| package.0.0 == certificates::CRATE);
        linked.insert(of_certificates.context("no crate has the certificates")?.0);
        let (crates, depends) = select(&linked, &metadata, &checksums(&lock))?;
        Ok(Self {
            crates,
            depends,
            glibc: toolchain.glibc.clone(),
            gcc: toolchain.gcc.clone(),
            rust: toolchain.rust.clone(),
        })
    }

    /// How many crates there are.
    pub(super) fn count(&self) -> usize {
        self.crates.len()
    }

    /// The document.
    pub(super) fn document(&self, of: &Contents, layout: &Layout) -> Result<Value> {
        let name = format!("picket-{}-linux-{}", of.version, of.architecture);
        let digest = layout.digest.trim_start_matches("sha256:");
        let mut packages = vec![image(of, layout)];
        packages.extend(self.crates.iter().map(|(id, facts)| package(id, facts)));
        packages.extend(self.libraries());
        let mut relations = vec![
            relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
            relation("SPDXRef-file-picket", "GENERATED_FROM", &self.id("picket")?),
            relation(&self.id("picket")?, "CONTAINS", &self.id("picket-ebpf")?),
            relation(
                &file_id(certificates::PATH),
                "GENERATED_FROM",
                &self.id(certificates::CRATE)?,
            ),
        ];
        relations.extend(
            of.files
                .keys()
                .map(|path| relation("SPDXRef-image", "CONTAINS", &file_id(path))),
        );
        relations.extend(
            self.depends
                .iter()
                .map(|(from, to)| relation(&crate_id(from), "DEPENDS_ON", &crate_id(to))),
        );
        let libraries = self.libraries();
        let ids = libraries.iter().filter_map(|library| library["SPDXID"].as_str());
        relations.extend(ids.map(|id| relation("SPDXRef-file-picket", "STATIC_LINK", id)));
        Ok(json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": name,
            "documentNamespace": format!("https://picket.dev/spdx/{name}-{digest}"),
            "creationInfo": {
                "created": of.created,
                "creators": [format!("Tool: picket-xtask-{}", env!("CARGO_PKG_VERSION"))],
            },
            "packages": packages,
            "files": files(&of.files),
            "relationships": relations,
        }))
    }

    /// The identifier of the crate of this name.
    fn id(&self, name: &str) -> Result<String> {
        let found = self.crates.keys().find(|id| id.0 == name);
        found
            .map(crate_id)
            .with_context(|| format!("no crate {name} is in the image"))
    }

    /// The static libraries of the toolchain.
    fn libraries(&self) -> [Value; 3] {
        [
            ("rust-std", &self.rust, "MIT OR Apache-2.0"),
            ("glibc", &self.glibc, "LGPL-2.1-or-later"),
            ("libgcc", &self.gcc, "GPL-3.0-or-later WITH GCC-exception-3.1"),
        ]
        .map(|(name, version, license)| {
            json!({
                "SPDXID": format!("SPDXRef-toolchain-{name}"),
                "name": name,
                "versionInfo": version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": false,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": license,
                "copyrightText": "NOASSERTION",
            })
        })
    }
}

/// The crates in what `cargo tree` prints: `name vVERSION`, then perhaps a path and `(*)`.
fn crates_of_tree(tree: &str) -> Result<BTreeSet<Crate>> {
    let lines = tree.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next();
            let version = words.next().and_then(|word| word.strip_prefix('v'));
            let both = name
                .zip(version)
                .map(|(name, version)| (name.to_owned(), version.to_owned()));
            both.with_context(|| format!("cargo tree prints `{line}`, which is no crate"))
        })
        .collect()
}

/// The crates in cargo's metadata.
fn packages(metadata: &Value) -> impl Iterator<Item = (Crate, &Value)> {
    let all = metadata["packages"].as_array().into_iter().flatten();
    all.map(|package| ((text(&package["name"]), text(&package["version"])), package))
}

/// The checksums in Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let field = |block: &str, name: &str| {
        let start = format!("{name} = \"");
        let line = block.lines().find_map(|line| line.strip_prefix(&start));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| {
            Some((
                (field(block, "name")?, field(block, "version")?),
                field(block, "checksum")?,
            ))
        })
        .collect()
}

/// What is known of the linked crates, and which needs which.
#[expect(clippy::type_complexity, reason = "the two parts of the materials")]
fn select(
    linked: &BTreeSet<Crate>,
    metadata: &Value,
    checksums: &BTreeMap<Crate, String>,
) -> Result<(BTreeMap<Crate, Facts>, BTreeSet<(Crate, Crate)>)> {
    let mut crates = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for (id, package) in packages(metadata) {
        if linked.contains(&id) {
            let facts = Facts {
                license: package["license"].as_str().map(spdx_license),
                sha256: checksums.get(&id).cloned(),
            };
            ensure!(
                facts.sha256.is_some() || package["source"].is_null(),
                "{} {} has no checksum in Cargo.lock",
                id.0,
                id.1
            );
            ids.insert(text(&package["id"]), id.clone());
            crates.insert(id, facts);
        }
    }
    if let Some((name, version)) = linked.iter().find(|id| !crates.contains_key(*id)) {
        anyhow::bail!("cargo's metadata lacks {name} {version}");
    }
    let mut depends = BTreeSet::new();
    for node in metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let Some(from) = ids.get(&text(&node["id"])) else {
            continue;
        };
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            let is_linked = kinds.any(|kind| kind["kind"].is_null());
            if let Some(to) = ids.get(&text(&dependency["pkg"])).filter(|_| is_linked) {
                depends.insert((from.clone(), to.clone()));
            }
        }
    }
    Ok((crates, depends))
}

/// The licence as SPDX writes it: old manifests have a slash for `OR`.
fn spdx_license(license: &str) -> String {
    license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

fn image(of: &Contents, layout: &Layout) -> Value {
    let hashes: BTreeSet<String> = of
        .files
        .values()
        .map(|file| hex(&SHA1_FOR_LEGACY_USE_ONLY, &file.content))
        .collect();
    // SPDX 2.3, clause 7.9: the files' SHA-1 in order, one after the other, hashed again.
    let code: String = hashes.into_iter().collect();
    let digest = layout.digest.trim_start_matches("sha256:");
    json!({
        "SPDXID": "SPDXRef-image",
        "name": REPOSITORY,
        "versionInfo": of.version,
        "downloadLocation": "NOASSERTION",
        "sourceInfo": format!("commit {}", of.revision),
        "primaryPackagePurpose": "CONTAINER",
        "filesAnalyzed": true,
        "packageVerificationCode": {"packageVerificationCodeValue": hex(&SHA1_FOR_LEGACY_USE_ONLY, code.as_bytes())},
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "externalRefs": [purl(&format!(
            "pkg:oci/picket@sha256%3A{digest}?arch={}&repository_url={REPOSITORY}&tag={}",
            of.architecture, of.version
        ))],
    })
}

fn package(id: &Crate, facts: &Facts) -> Value {
    let (name, version) = id;
    let mut package = json!({
        "SPDXID": crate_id(id),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": facts.license.as_deref().unwrap_or("NOASSERTION"),
        "copyrightText": "NOASSERTION",
    });
    if let Some(sha256) = &facts.sha256 {
        package["downloadLocation"] = Value::from(format!(
            "https://crates.io/api/v1/crates/{name}/{version}/download"
        ));
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
        // A plus sign would be read as a space.
        package["externalRefs"] = json!([purl(&format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")))]);
    }
    package
}

fn purl(locator: &str) -> Value {
    json!({"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator})
}

fn files(files: &ArchivedFiles) -> Vec<Value> {
    let file = |(path, file): (&String, &super::archive::ArchivedFile)| {
        json!({
            "SPDXID": file_id(path),
            "fileName": format!("./{path}"),
            "checksums": [
                {"algorithm": "SHA1", "checksumValue": hex(&SHA1_FOR_LEGACY_USE_ONLY, &file.content)},
                {"algorithm": "SHA256", "checksumValue": hex(&SHA256, &file.content)},
            ],
            "licenseConcluded": "NOASSERTION",
            "copyrightText": "NOASSERTION",
        })
    };
    files.iter().map(file).collect()
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn file_id(path: &str) -> String {
    format!("SPDXRef-file-{}", identifier(path))
}

fn crate_id((name, version): &Crate) -> String {
    format!("SPDXRef-crate-{}-{}", identifier(name), identifier(version))
}

/// The text in the characters that an SPDX identifier may have.
fn identifier(text: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '.';
    text.chars()
        .map(|character| if allowed(character) { character } else { '-' })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
