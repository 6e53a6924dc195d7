//! Rust's parts that a plain installation lacks: rustfmt and clippy, the standard library's source, and the BPF linker.
//!
//! In: the Rust that builds this, as a [`Toolchain`]. Out: the parts installed, or an error that says what to do by hand.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::apt::apt_get;
use super::machine;
use crate::sh;

/// The newest release that links with the LLVM inside rustc; later ones want one from the system, which Debian 12 lacks.
const BPF_LINKER: &str = "0.10.4";
/// What the workspace is written for (`rust-version` in Cargo.toml).
const RUST: (u32, u32) = (1, 95);
/// rustup retries for minutes where it cannot fetch; the source is a few megabytes.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// The Rust that builds this.
pub(crate) struct Toolchain {
    /// Such as `1.95.0`.
    version: String,
    sysroot: PathBuf,
}

impl Toolchain {
    /// Asks the `rustc` that cargo uses here.
    pub(crate) fn find() -> Result<Self> {
        let advice = "install Rust from https://rustup.rs";
        let version = sh::output(sh::command("rustc").arg("--version"))
            .with_context(|| format!("rustc is missing: {advice}"))?;
        let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
        match machine::version(&version) {
            Some(found) if found >= RUST => {}
            _ => bail!(
                "Rust {}.{} is missing: this machine has {version}; {advice} or run `rustup update`",
                RUST.0,
                RUST.1
            ),
        }
        let sysroot = sh::output(sh::command("rustc").args(["--print", "sysroot"]))?;
        Ok(Self {
            version,
            sysroot: PathBuf::from(sysroot.trim()),
        })
    }

    fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    fn has_source(&self) -> bool {
        self.library().join("core/src/lib.rs").is_file() && self.library().join("Cargo.lock").is_file()
    }
}

/// rustfmt and clippy, which `cargo xtask test` runs. Returns whether any was put there.
pub(crate) fn components(toolchain: &Toolchain) -> Result<bool> {
    let there =
        |program: &str| toolchain.sysroot.join("bin").join(program).exists() || sh::which(program).is_some();
    // The shims of rustup are in PATH whether or not the component is.
    let missing: Vec<&str> = [("rustfmt", "rustfmt"), ("clippy", "cargo-clippy")]
        .into_iter()
        .filter(|(_, program)| {
            if rustup_owns(toolchain) {
                !toolchain.sysroot.join("bin").join(program).exists()
            } else {
                !there(program)
            }
        })
        .map(|(component, _)| component)
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let list = missing.join(" ");
    sh::timed(&format!("Rust components: {list}"), || {
        rustup_add(toolchain, &missing)
    })
    .with_context(|| {
        format!(
            "{list} missing; install it for Rust {} (`rustup component add {list}`)",
            toolchain.version
        )
    })?;
    Ok(true)
}

/// The standard library's source, of which `core` is built for the kernel programs. Returns whether it was put there.
pub(crate) fn source(toolchain: &Toolchain) -> Result<bool> {
    if toolchain.has_source() {
        return Ok(false);
    }
    let what = format!("source of Rust's standard library {}", toolchain.version);
    let by_rustup = sh::timed(&format!("{what}, from rustup"), || {
        rustup_add(toolchain, &["rust-src"])?;
        // rustup goes by its own list, and the files may have gone without it.
        ensure!(
            toolchain.has_source(),
            "rustup reports rust-src as installed, but its files are missing"
        );
        Ok(())
    });
    if let Err(rustup) = &by_rustup {
        eprintln!("[xtask] {rustup:#}");
        sh::timed(&format!("{what}, from Debian's rust-src"), || source_from_debian(toolchain)).with_context(|| {
            format!(
                "{what} is missing: neither rustup nor Debian's trixie-backports has it; run `rustup component add rust-src`, \
                 or copy `library` of that release to {}",
                toolchain.library().display()
            )
        })?;
    }
    ensure!(
        toolchain.has_source(),
        "{what} is missing: {} is not complete",
        toolchain.library().display()
    );
    Ok(true)
}

fn rustup_owns(toolchain: &Toolchain) -> bool {
    // Linked and distribution toolchains have no manifest of components.
    toolchain
        .sysroot
        .join("lib/rustlib/multirust-channel-manifest.toml")
        .exists()
        && sh::which("rustup").is_some()
}

fn rustup_add(toolchain: &Toolchain, components: &[&str]) -> Result<()> {
    ensure!(rustup_owns(toolchain), "this Rust was not installed by rustup");
    let server =
        std::env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| "https://static.rust-lang.org".to_owned());
    // Behind a proxy the server's own address may be out of reach, and rustup still gets there.
    if std::env::var_os("https_proxy").is_none() && std::env::var_os("HTTPS_PROXY").is_none() {
        reach(&server).with_context(|| format!("rustup's server {server} cannot be reached"))?;
    }
    let name = toolchain
        .sysroot
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut rustup = sh::command("rustup");
    rustup
        .args(["component", "add", "--toolchain", &name])
        .args(components);
    sh::output_within(&mut rustup, RUSTUP_LIMIT)?;
    Ok(())
}

/// Whether anything answers there, so that a machine without a way out is told at once.
fn reach(url: &str) -> Result<()> {
    let host = url
        .split("://")
        .last()
        .unwrap_or(url)
        .split('/')
        .next()
        .unwrap_or_default();
    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:443")
    };
    let mut last = None;
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("the name has no address"), Into::into))
}

/// Unpacks (does not install) Debian's package of the same release and copies the library to where cargo looks for it.
fn source_from_debian(toolchain: &Toolchain) -> Result<()> {
    machine::apt_is_here()?;
    let work = tempfile::tempdir().context("cannot make a folder")?;
    let dir = work.path().display();
    let (uri, signed_by) = debian_mirror()?;
    let options = if signed_by.is_empty() {
        String::new()
    } else {
        format!("[signed-by={signed_by}] ")
    };
    fs::write(
        work.path().join("sources.list"),
        format!("deb {options}{uri} trixie-backports main\n"),
    )?;
    for folder in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(work.path().join(folder))?;
    }
    let private = [
        format!("Dir::Etc::sourcelist={dir}/sources.list"),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={dir}/lists"),
        format!("Dir::Cache={dir}/cache"),
        // The folder is root's alone, and apt's own user could not write to it.
        "APT::Sandbox::User=root".to_owned(),
        // Hooks of other programs look at the system's lists, which these are not.
        "APT::Update::Post-Invoke-Success=".to_owned(),
    ];
    let with_private = |command: &mut std::process::Command| {
        for option in &private {
            command.args(["-o", option]);
        }
        command.current_dir(work.path());
    };
    let mut update = apt_get(&["update"]);
    with_private(&mut update);
    sh::output(&mut update)?;

    let mut madison = sh::command("apt-cache");
    with_private(&mut madison);
    let offered = sh::output(madison.args(["madison", "rust-src"]))?;
    let package = matching(&offered, &toolchain.version).with_context(|| {
        let offered: Vec<&str> = offered
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .collect();
        format!(
            "Debian has rust-src {}, and rustc is {}",
            offered.join(", "),
            toolchain.version
        )
    })?;
    let mut download = apt_get(&["download", &format!("rust-src={package}")]);
    with_private(&mut download);
    sh::output(&mut download)?;
    let deb = fs::read_dir(work.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = deb.context("apt-get download left no package")?;
    sh::output(
        sh::command("dpkg")
            .arg("-x")
            .arg(&deb)
            .arg(work.path().join("unpacked")),
    )?;

    let library = work
        .path()
        .join(format!("unpacked/usr/src/rustc-{}/library", toolchain.version));
    ensure!(library.is_dir(), "the package has no {}", library.display());
    let place = toolchain.library();
    let parent = place.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(parent)?;
    // Copied beside it and renamed: half a library would look like a whole one to the next run.
    let beside = parent.join("library.new");
    sh::output(sh::command("rm").arg("-rf").arg(&beside))?;
    sh::output(sh::command("cp").arg("-a").arg(&library).arg(&beside))?;
    sh::output(sh::command("rm").arg("-rf").arg(&place))?;
    fs::rename(&beside, &place)?;
    Ok(())
}

/// The version in `apt-cache madison`'s lines that packages this release of Rust.
fn matching(madison: &str, release: &str) -> Option<String> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| {
            version
                .strip_prefix(release)
                .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
        })
        .map(str::to_owned)
}

/// The machine's own Debian mirror, and the key ring it is checked with.
fn debian_mirror() -> Result<(String, String)> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let ending = file.extension().and_then(|end| end.to_str());
        if let Some(found) = mirror_in(&text, ending == Some("sources")) {
            return Ok(found);
        }
    }
    bail!("no Debian mirror in /etc/apt/sources.list or /etc/apt/sources.list.d")
}

/// Reads one file of apt sources, in the one-line form or in deb822 stanzas.
fn mirror_in(text: &str, stanzas: bool) -> Option<(String, String)> {
    let is_debian = |uri: &str| uri.trim_end_matches('/').ends_with("/debian");
    if !stanzas {
        return text.lines().find_map(|line| {
            let (options, rest) = match line.trim().strip_prefix("deb ")?.trim().strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", line.trim().strip_prefix("deb ")?),
            };
            let uri = rest.split_whitespace().next()?;
            let key = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="));
            is_debian(uri).then(|| (uri.to_owned(), key.unwrap_or_default().to_owned()))
        });
    }
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let lines = stanza.lines().filter_map(|line| line.split_once(':'));
            lines
                .into_iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        if field("Enabled").is_some_and(|enabled| enabled == "no") {
            return None;
        }
        let uris = field("URIs")?;
        let uri = uris.split_whitespace().find(|uri| is_debian(uri))?.to_owned();
        // A key written into the stanza itself does not fit on a line; apt then uses the key rings it trusts anyway.
        let key = field("Signed-By")
            .filter(|key| key.starts_with('/'))
            .unwrap_or_default();
        Some((uri, key))
    })
}

/// The linker for kernel programs. Returns whether it was put there.
pub(crate) fn bpf_linker() -> Result<bool> {
    if sh::which("bpf-linker").is_some() {
        let found = sh::output(sh::command("bpf-linker").arg("--version"))
            .context("bpf-linker is installed and does not start")?;
        let version = found.split_whitespace().last().unwrap_or_default();
        if machine::version(version) >= machine::version(BPF_LINKER) {
            return Ok(false);
        }
    }
    sh::timed(&format!("bpf-linker {BPF_LINKER} (about 1.5 min)"), || {
        let mut install = sh::cargo(&["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
        // Outside the checkout, so that none of its settings have a say.
        sh::output(install.current_dir("/"))
    })
    .with_context(|| {
        format!("bpf-linker is missing: run `cargo install bpf-linker --version {BPF_LINKER} --locked`")
    })?;
    ensure!(
        sh::which("bpf-linker").is_some(),
        "bpf-linker is missing from PATH: add cargo's bin folder to it"
    );
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{matching, mirror_in};

    #[test]
    fn the_mirror_comes_from_the_machine() {
        let one_line = "# deb http://x/debian old main\ndeb-src http://s/debian bookworm main\n\
                        deb http://security.example/debian-security bookworm-security main\n\
                        deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            mirror_in(one_line, false),
            Some(("http://mirror.example/debian/".into(), "/k.gpg".into()))
        );
        let stanzas = "Types: deb\nURIs: http://security.example/debian-security\nSuites: bookworm-security\n\n\
                       Types: deb\n# a comment: with a colon\nURIs: http://mirror.example/debian\nSuites: bookworm\nSigned-By: /k.gpg\n";
        assert_eq!(
            mirror_in(stanzas, true),
            Some(("http://mirror.example/debian".into(), "/k.gpg".into()))
        );
        assert_eq!(
            mirror_in(
                "Types: deb\nURIs: http://mirror.example/debian\nEnabled: no\n",
                true
            ),
            None
        );
        assert_eq!(
            mirror_in("deb http://mirror.example/ubuntu noble main", false),
            None
        );
    }

    #[test]
    fn only_the_same_release_of_the_library_is_taken() {
        let madison = " rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://m trixie-backports/main amd64 Packages\n";
        assert_eq!(
            matching(madison, "1.95.0").as_deref(),
            Some("1.95.0+dfsg1-1~bpo13+1")
        );
        assert_eq!(matching(madison, "1.95.1"), None);
        assert_eq!(matching(" rust-src | 1.95.01-1 | x", "1.95.0"), None);
    }
}
