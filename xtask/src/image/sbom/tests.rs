//! The bill of materials against cargo's own words for a small graph.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::archive::ArchivedFile;
use super::{Contents, Crate, Facts, Layout, Materials, checksums, crates_of_tree, select, spdx_license};

fn id(name: &str, version: &str) -> Crate {
    (name.to_owned(), version.to_owned())
}

const LOCK: &str = r#"version = 4

[[package]]
name = "linked"
version = "1.0.0+upstream"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "aaaa"
dependencies = [
 "builds",
]

[[package]]
name = "builds"
version = "2.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "bbbb"

[[package]]
name = "picket"
version = "0.1.0"
"#;

/// Cargo's metadata: picket and its kernel programs link `linked`, and `builds` only builds.
fn metadata() -> Value {
    let package = |name: &str, version: &str, license: &str, source: Option<&str>| {
        let facts = json!({"id": name, "name": name, "version": version});
        let mut facts = facts.as_object().cloned().unwrap();
        facts.insert("license".to_owned(), json!(license));
        facts.insert("source".to_owned(), json!(source));
        Value::Object(facts)
    };
    let deps = |of: &[(&str, Option<&str>)]| -> Value {
        of.iter()
            .map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]}))
            .collect()
    };
    json!({
        "packages": [
            package("picket", "0.1.0", "Apache-2.0", None),
            package("picket-ebpf", "0.1.0", "MIT OR GPL-2.0-only", None),
            package("linked", "1.0.0+upstream", "MIT/Apache-2.0", Some("registry")),
            package("builds", "2.0.0", "MIT", Some("registry")),
            package("webpki-root-certs", "1.0.0", "CDLA-Permissive-2.0", Some("registry")),
        ],
        "resolve": {"nodes": [
            {"id": "picket", "deps": deps(&[("linked", None), ("builds", None)])},
            {"id": "picket-ebpf", "deps": deps(&[("linked", Some("build"))])},
            {"id": "builds", "deps": deps(&[("linked", None)])},
        ]},
    })
}

fn linked() -> BTreeSet<Crate> {
    BTreeSet::from([
        id("picket", "0.1.0"),
        id("picket-ebpf", "0.1.0"),
        id("linked", "1.0.0+upstream"),
    ])
}

fn materials() -> Materials {
    let mut linked = linked();
    linked.insert(id("webpki-root-certs", "1.0.0"));
    let mut sums = checksums(LOCK);
    sums.insert(id("webpki-root-certs", "1.0.0"), "cccc".to_owned());
    let (crates, depends) = select(&linked, &metadata(), &sums).unwrap();
    let [glibc, gcc, rust] = ["2.36 (Debian)", "12.2.0", "1.95.0"].map(str::to_owned);
    Materials {
        crates,
        depends,
        glibc,
        gcc,
        rust,
    }
}

fn contents() -> Contents {
    let file = |content: &str| ArchivedFile {
        mode: 0o644,
        content: content.as_bytes().to_vec(),
    };
    Contents {
        files: [("picket", "abc"), ("etc/ssl/certs/ca-certificates.crt", "")]
            .map(|(path, content)| (path.to_owned(), file(content)))
            .into(),
        architecture: "amd64",
        version: "0.1.0".to_owned(),
        revision: "c0ffee".to_owned(),
        epoch: 0,
        created: "1970-01-01T00:00:00Z".to_owned(),
        source: None,
    }
}

#[test]
fn the_tree_of_cargo_is_read() {
    let tree = "picket v0.1.0 (/root/picket/agent)\nlinked v1.0.0+upstream\nlinked v1.0.0+upstream (*)\n\n";
    assert_eq!(
        crates_of_tree(tree).unwrap(),
        BTreeSet::from([id("picket", "0.1.0"), id("linked", "1.0.0+upstream")])
    );
    let error = crates_of_tree("[build-dependencies]\n").unwrap_err();
    assert!(error.to_string().contains("no crate"), "{error}");
}

#[test]
fn the_lock_file_gives_checksums() {
    let sums = checksums(LOCK);
    assert_eq!(sums[&id("linked", "1.0.0+upstream")], "aaaa");
    assert_eq!(sums.get(&id("picket", "0.1.0")), None);
}

#[test]
fn only_linked_crates_and_their_links_are_taken() {
    let (crates, depends) = select(&linked(), &metadata(), &checksums(LOCK)).unwrap();
    assert_eq!(crates.keys().cloned().collect::<BTreeSet<_>>(), linked());
    let facts = Facts {
        license: Some("MIT OR Apache-2.0".to_owned()),
        sha256: Some("aaaa".to_owned()),
    };
    assert_eq!(crates[&id("linked", "1.0.0+upstream")], facts);
    assert_eq!(
        depends,
        BTreeSet::from([(id("picket", "0.1.0"), id("linked", "1.0.0+upstream"))])
    );
}

#[test]
fn a_crate_that_is_not_known_is_an_error_and_not_left_out() {
    let mut more = linked();
    more.insert(id("unknown", "1.0.0"));
    let error = select(&more, &metadata(), &checksums(LOCK)).unwrap_err();
    assert!(error.to_string().contains("unknown 1.0.0"), "{error}");
    let error = select(&linked(), &metadata(), &checksums("")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("linked 1.0.0+upstream has no checksum"),
        "{error}"
    );
}

#[test]
fn an_old_licence_becomes_an_expression() {
    assert_eq!(spdx_license("MIT/Apache-2.0"), "MIT OR Apache-2.0");
    assert_eq!(spdx_license("Apache-2.0 AND ISC"), "Apache-2.0 AND ISC");
}

#[test]
fn the_document_names_each_part_and_nothing_that_is_not_there() {
    let of = contents();
    let layout = Layout::new(&of).unwrap();
    let document = materials().document(&of, &layout).unwrap();
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let namespace = document["documentNamespace"].as_str().unwrap();
    assert!(
        namespace.ends_with(layout.digest.trim_start_matches("sha256:")),
        "{namespace}"
    );
    let list = |name: &str| document[name].as_array().unwrap().clone();
    let mut ids: Vec<String> = vec!["SPDXRef-DOCUMENT".to_owned()];
    for element in list("packages").iter().chain(&list("files")) {
        ids.push(element["SPDXID"].as_str().unwrap().to_owned());
    }
    let known: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(known.len(), ids.len(), "an identifier is there twice: {ids:?}");
    for id in &ids {
        let rest = id.strip_prefix("SPDXRef-").unwrap();
        assert!(
            rest.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'),
            "{id}"
        );
    }
    let mut touched = BTreeSet::new();
    for relation in list("relationships") {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let end = relation[end].as_str().unwrap().to_owned();
            assert!(known.contains(&end), "{relation} names what is not there");
            touched.insert(end);
        }
    }
    assert_eq!(touched.len(), ids.len(), "something is in no relationship");
    let linked = list("packages")
        .into_iter()
        .find(|package| package["name"] == "linked")
        .unwrap();
    assert_eq!(
        linked["externalRefs"][0]["referenceLocator"],
        "pkg:cargo/linked@1.0.0%2Bupstream"
    );
    assert_eq!(
        linked["checksums"],
        json!([{"algorithm": "SHA256", "checksumValue": "aaaa"}])
    );
    assert_eq!(linked["licenseDeclared"], "MIT OR Apache-2.0");
}

#[test]
fn the_files_and_the_verification_code_are_hashed_as_spdx_says() {
    let of = contents();
    let document = materials().document(&of, &Layout::new(&of).unwrap()).unwrap();
    let file = &document["files"][1];
    assert_eq!(file["fileName"], "./picket");
    assert_eq!(
        file["checksums"][0]["checksumValue"],
        "a9993e364706816aba3e25717850c26c9cd0d89d"
    );
    // sha1sum of "a9993e364706816aba3e25717850c26c9cd0d89d" and "da39a3ee5e6b4b0d3255bfef95601890afd80709" together.
    let code = &document["packages"][0]["packageVerificationCode"]["packageVerificationCodeValue"];
    assert_eq!(code, "29d0dbdfff975c93e2d75e5024fe8b650ec847af");
}
