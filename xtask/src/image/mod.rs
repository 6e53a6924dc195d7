//! `cargo xtask image`: the container image, made without a container daemon.
//!
//! In: the commit that is checked out, a target and a profile. Out: a folder with the image as an OCI layout and as a tar, its SBOM,
//! the program and the symbols that were taken out of it; and a summary with the sizes.
//!
//! The same commit gives the same bits in any folder, with the same toolchain; `--check` builds it twice and compares.

mod archive;
mod build;
mod certificates;
mod checkout;
mod layout;
mod sbom;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;
use archive::ArchivedFile;
use build::{Target, Toolchain};
use checkout::Checkout;
use layout::{Contents, Layout, digest};
use sbom::Materials;

/// The path of the program in the image.
const PROGRAM: &str = "picket";

const HELP: &str = "\
The image holds /picket, a static program, and /etc/ssl/certs/ca-certificates.crt. Both the OCI layout and the tar are in the folder
target/image/linux-ARCHITECTURE. A release build takes 6 to 15 minutes on two cores.

Examples:
  cargo xtask image                                     the image for this machine's architecture
  cargo xtask image --profile dev                       a quick and large one, for trying out
  cargo xtask image --target aarch64-unknown-linux-gnu  for another architecture
  cargo xtask image --check                             build the commit twice and compare each byte
  ctr -n k8s.io images import target/image/linux-amd64/picket-0.1.0-linux-amd64.tar
  docker load --input target/image/linux-amd64/picket-0.1.0-linux-amd64.tar";

/// What to build.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct ImageArgs {
    /// The folder for the results; target/image when it is not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Cargo's profile; `dev` builds quicker and is larger
    #[arg(long, default_value = "release", value_name = "NAME")]
    profile: String,
    /// The architecture, as rustc calls it; this machine's own when it is not given
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Build the commit twice, in two clones, and compare the results; changes that are not committed are not in them
    #[arg(long)]
    check: bool,
}

/// One finished image.
struct Made {
    folder: PathBuf,
    layout: Layout,
    contents: Contents,
    name: String,
    crates: usize,
}

/// Runs it.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => sh::target().join("image"),
    };
    let target = Target::find(args.target.as_deref())?;
    let toolchain = Toolchain::find(&target)?;
    let checkout = Checkout::read(&sh::root(), &sh::target())?;
    if args.check {
        return check(&checkout, &target, &toolchain, &args.profile, &out.join("check"));
    }
    if checkout.is_changed() {
        eprintln!(
            "[xtask] files differ from the commit: the image's revision is {}",
            checkout.revision
        );
    }
    let folder = out.join(format!("linux-{}", target.architecture));
    let made = make(&checkout, &target, &toolchain, &args.profile, &folder)?;
    print!("{}", summary(&made)?);
    Ok(())
}

/// Builds the program and everything that is made of it, in `folder`.
fn make(
    checkout: &Checkout,
    target: &Target,
    toolchain: &Toolchain,
    profile: &str,
    folder: &Path,
) -> Result<Made> {
    // Made beside it and renamed: half an image looks like a whole one.
    let draft = folder.with_extension("new");
    remove(&draft)?;
    fs::create_dir_all(&draft).with_context(|| format!("make {}", draft.display()))?;
    let program = format!("static program for {}, profile {profile}", target.triple);
    let built = sh::timed(&program, || {
        build::build(checkout, target, toolchain, profile, &draft)
    })?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let contents = Contents {
        files: [
            (
                PROGRAM.to_owned(),
                ArchivedFile {
                    mode: 0o755,
                    content: read(&built.program)?,
                },
            ),
            (
                certificates::PATH.to_owned(),
                ArchivedFile {
                    mode: 0o644,
                    content: certificates::pem().into_bytes(),
                },
            ),
        ]
        .into(),
        architecture: target.architecture,
        version: checkout.version.clone(),
        revision: checkout.revision.clone(),
        epoch: checkout.epoch,
        created: checkout.created.clone(),
        source: checkout.repository.clone(),
    };
    let name = format!("picket-{}-linux-{}", contents.version, contents.architecture);
    sh::timed("image and SBOM", || {
        let layout = Layout::new(&contents)?;
        let materials = Materials::read(checkout, target, toolchain)?;
        let document = serde_json::to_string_pretty(&materials.document(&contents, &layout)?)?;
        layout.write_folder(&draft.join("oci"))?;
        fs::write(draft.join(format!("{name}.tar")), layout.tar()?)?;
        fs::write(draft.join(format!("{name}.spdx.json")), document + "\n")?;
        remove(folder)?;
        fs::rename(&draft, folder)
            .with_context(|| format!("rename {} to {}", draft.display(), folder.display()))?;
        Ok(Made {
            folder: folder.to_owned(),
            layout,
            contents,
            name,
            crates: materials.count(),
        })
    })
}

/// Removes a folder that may not be there.
fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// Makes the image of the commit in two clones, whose paths differ in length too, and compares.
fn check(
    checkout: &Checkout,
    target: &Target,
    toolchain: &Toolchain,
    profile: &str,
    out: &Path,
) -> Result<()> {
    let mut digests = Vec::new();
    for (clone, result) in [("one", "first"), ("another-clone", "second")] {
        let clone = checkout.cloned(&out.join(clone))?;
        let made = make(&clone, target, toolchain, profile, &out.join(result))?;
        // A target folder has several GB.
        remove(&clone.root)?;
        digests.push((files(&made.folder)?, made.layout.digest));
    }
    let differing = differing(&digests[0].0, &digests[1].0);
    if !differing.is_empty() {
        bail!(
            "two builds of {} differ in {}; both are in {}",
            checkout.revision.trim_end_matches("-dirty"),
            differing.join(", "),
            out.display()
        );
    }
    println!(
        "two builds of {} are the same bits",
        checkout.revision.trim_end_matches("-dirty")
    );
    println!("digest   {}", digests[0].1);
    remove(out)
}

/// The digest of each file below `folder`, by its path in it.
fn files(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                found.push((name, digest(&fs::read(&path)?)));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The names of files that are not the same, or not there, in the other list.
fn differing(one: &[(String, String)], other: &[(String, String)]) -> Vec<String> {
    let mut names: Vec<String> = one
        .iter()
        .filter(|file| !other.contains(file))
        .chain(other.iter().filter(|file| !one.contains(file)))
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What was made, where it is and how large it is.
fn summary(made: &Made) -> Result<String> {
    let file = |name: &str| -> Result<String> {
        let path = made.folder.join(name);
        let size = fs::metadata(&path)
            .with_context(|| format!("look at {}", path.display()))?
            .len();
        Ok(format!("{} ({})", shown(&path), mebibytes(size)))
    };
    let size = |path: &str| {
        made.contents
            .files
            .get(path)
            .map_or(0, |file| file.content.len() as u64)
    };
    let (program, certificates) = (size(PROGRAM), size(certificates::PATH));
    Ok(format!(
        "\
image    {reference}, linux/{architecture}
commit   {revision}
digest   {digest}
size     {pulled} to pull, {unpacked} unpacked: picket {program}, certificates {certificates}
layout   {layout}
tar      {tar}
SBOM     {sbom}, {crates} crates
program  {stripped}
symbols  {symbols}
",
        reference = made.layout.reference,
        architecture = made.contents.architecture,
        revision = made.contents.revision,
        digest = made.layout.digest,
        pulled = mebibytes(made.layout.pulled as u64),
        unpacked = mebibytes(program + certificates),
        program = mebibytes(program),
        certificates = mebibytes(certificates),
        layout = shown(&made.folder.join("oci")),
        tar = file(&format!("{}.tar", made.name))?,
        sbom = file(&format!("{}.spdx.json", made.name))?,
        crates = made.crates,
        stripped = file("picket")?,
        symbols = file("picket.debug")?,
    ))
}

/// The path as one would type it from here.
fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

fn mebibytes(bytes: u64) -> String {
    // In tenths, so that no float is rounded.
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{differing, files, mebibytes};

    #[test]
    fn a_size_is_in_mebibytes() {
        assert_eq!(
            [0, 1, 1 << 20, (1 << 20) + 1].map(mebibytes),
            ["0.0 MiB", "0.1 MiB", "1.0 MiB", "1.1 MiB"]
        );
    }

    #[test]
    fn a_file_that_differs_or_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in [
            ("a/same", "1"),
            ("a/oci/differs", "1"),
            ("a/gone", "1"),
            ("b/same", "1"),
            ("b/oci/differs", "2"),
        ] {
            write(name, text);
        }
        let [one, other] = ["a", "b"].map(|name| files(&folder.path().join(name)).unwrap());
        assert_eq!(one.len(), 3);
        assert_eq!(differing(&one, &other), ["gone", "oci/differs"]);
        assert_eq!(differing(&other, &one), ["gone", "oci/differs"]);
        assert!(differing(&one, &one).is_empty());
    }
}
