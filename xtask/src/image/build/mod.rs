//! The static binary, and its symbols in a file beside it.
//!
//! In: a checkout, a target and a profile. Out: a stripped `picket` without a shared library or a loader, and `picket.debug`; or
//! an error that names the missing tool and how to get it.
//!
//! The bits depend on the commit, the Rust release, the C compiler and the static glibc, and not on folders: those are renamed.
//!
//! The libc is glibc, so names are resolved by its `getaddrinfo`. The sources `files` and `dns` are part of the static libc, and they
//! are the default where there is no /etc/nsswitch.conf, as in the image. Any other source would be loaded at run time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::checkout::Checkout;
use crate::sh;

/// What an image can be built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// As rustc calls it.
    pub(super) triple: &'static str,
    /// As OCI calls the architecture.
    pub(super) architecture: &'static str,
    /// Begins the names of the cross tools, as Debian calls them.
    cross: &'static str,
    /// Debian's packages with the cross tools and the static libc.
    packages: &'static str,
    /// Environment variables of the build.
    environment: &'static [(&'static str, &'static str)],
}

const TARGETS: [Target; 2] = [
    Target {
        triple: "x86_64-unknown-linux-gnu",
        architecture: "amd64",
        cross: "x86_64-linux-gnu-",
        packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
        environment: &[],
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        architecture: "arm64",
        cross: "aarch64-linux-gnu-",
        packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        // Kernels of this architecture have pages of 4, 16 or 64 KiB, and jemalloc aborts where pages are larger than it was built for.
        environment: &[("JEMALLOC_SYS_WITH_LG_PAGE", "16")],
    },
];

/// The first release of glibc whose name resolution works in a static program.
const OLDEST_GLIBC: (u32, u32) = (2, 34);

/// What was built.
#[derive(Debug)]
pub(super) struct Built {
    /// The program without symbols.
    pub(super) program: PathBuf,
    /// The symbols.
    pub(super) symbols: PathBuf,
}

/// rustc, the C compiler and the libc, as the SBOM names them.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// The release of Rust.
    pub(super) rust: String,
    /// The commit of Rust.
    rust_commit: String,
    /// The C compiler's version, which is libgcc's.
    pub(super) gcc: String,
    /// The version of the static glibc, with its distribution's revision.
    pub(super) glibc: String,
    /// The target of plain `cargo build`.
    host: String,
    sysroot: PathBuf,
}

impl Target {
    /// The target of this name, or this machine's own.
    pub(super) fn find(triple: Option<&str>) -> Result<Self> {
        let host = rustc_says("host")?;
        let wanted = triple.unwrap_or(&host);
        TARGETS
            .into_iter()
            .find(|target| target.triple == wanted)
            .with_context(|| {
                let known: Vec<&str> = TARGETS.iter().map(|target| target.triple).collect();
                format!("no image is made for {wanted}; there are: {}", known.join(", "))
            })
    }

    /// The name of a tool for this target, such as `gcc`.
    fn tool(&self, name: &str, host: &str) -> String {
        match (host == self.triple, name) {
            (true, "gcc") => "cc".to_owned(),
            (true, _) => name.to_owned(),
            (false, _) => format!("{}{name}", self.cross),
        }
    }

    /// `AARCH64_UNKNOWN_LINUX_GNU`, as environment variables have it.
    fn upper(&self) -> String {
        self.triple.replace('-', "_").to_uppercase()
    }
}

impl Toolchain {
    /// Finds every tool that the build for `target` needs.
    pub(super) fn find(target: &Target) -> Result<Self> {
        let host = rustc_says("host")?;
        let sysroot = PathBuf::from(sh::output(sh::command("rustc").args(["--print", "sysroot"]))?.trim());
        let library = sysroot.join("lib/rustlib").join(target.triple).join("lib");
        has_standard_library(target, &library)?;
        for name in ["gcc", "objcopy", "readelf"] {
            let tool = target.tool(name, &host);
            ensure!(
                sh::which(&tool).is_some(),
                "{tool} is missing: it builds for {}; on Debian run `apt-get install {}`",
                target.triple,
                if host == target.triple {
                    "g++"
                } else {
                    target.packages
                }
            );
        }
        let compiler = target.tool("gcc", &host);
        let ask = |question: &str| -> Result<String> {
            Ok(sh::output(sh::command(&compiler).arg(question))?
                .trim()
                .to_owned())
        };
        // The compiler answers with the bare name where it has no such file.
        let libc = PathBuf::from(ask("-print-file-name=libc.a")?);
        ensure!(
            libc.is_absolute(),
            "the static libc for {} is missing: Debian has it in libc6-dev, Fedora in glibc-static",
            target.triple
        );
        let bytes = fs::read(&libc).with_context(|| format!("read {}", libc.display()))?;
        let glibc = glibc_version(&bytes).with_context(|| format!("{} is not glibc's", libc.display()))?;
        resolves_names(&glibc)?;
        Ok(Self {
            rust: rustc_says("release")?,
            rust_commit: rustc_says("commit-hash")?,
            gcc: ask("-dumpfullversion")?,
            glibc,
            host,
            sysroot,
        })
    }
}

/// Whether rustc can build for the target.
fn has_standard_library(target: &Target, library: &Path) -> Result<()> {
    let has_std = fs::read_dir(library)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        });
    ensure!(
        has_std,
        "Rust's standard library for {0} is missing: run `rustup target add {0}`",
        target.triple
    );
    Ok(())
}

/// `2.36 (Debian GLIBC 2.36-9)` of the banner in the static libc.
fn glibc_version(libc: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"GNU C Library (";
    let at = libc.windows(BANNER.len()).position(|bytes| bytes == BANNER)?;
    let line = libc[at + BANNER.len()..].split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (package, version) = line.split_once(") ")?;
    let version = version.rsplit_once("version ")?.1.trim_end_matches('.');
    Some(format!("{version} ({package})"))
}

/// Whether the static libc has the sources `files` and `dns`; older ones load them at run time, and the image has no libraries.
fn resolves_names(glibc: &str) -> Result<()> {
    let release = glibc.split_whitespace().next().unwrap_or_default();
    let number = |text: &str| text.parse::<u32>().ok();
    let parts = release
        .split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    ensure!(
        parts >= Some(OLDEST_GLIBC),
        "the static glibc is {glibc}, and before {}.{} it resolves no names without shared libraries",
        OLDEST_GLIBC.0,
        OLDEST_GLIBC.1
    );
    Ok(())
}

/// One line of `rustc -vV`.
fn rustc_says(what: &str) -> Result<String> {
    let text = sh::output(sh::command("rustc").arg("-vV"))?;
    let start = format!("{what}: ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.map(str::to_owned)
        .with_context(|| format!("rustc does not tell its {what}"))
}

/// Folders of this machine, and what they are called in the binary, the debug information and BTF. Where two match, the last counts.
fn renamed_folders(checkout: &Checkout, toolchain: &Toolchain) -> Result<[(PathBuf, String); 4]> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    Ok([
        (cargo_home, "/cargo".to_owned()),
        (
            toolchain.sysroot.join("lib/rustlib/src/rust"),
            // What the released standard library calls its own folder, whether or not its source is installed.
            format!("/rustc/{}", toolchain.rust_commit),
        ),
        (checkout.root.clone(), "/picket".to_owned()),
        (checkout.target.clone(), "/picket/target".to_owned()),
    ])
}

/// Cargo's command for the static binary.
fn cargo(checkout: &Checkout, target: &Target, toolchain: &Toolchain, profile: &str) -> Result<Command> {
    let folders = renamed_folders(checkout, toolchain)?;
    // Static and position independent: the addresses stay random. agent/build.rs takes the renamed folders over for BTF.
    let mut rust = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=sha1".to_owned(),
    ];
    let mut c = Vec::new();
    for (folder, name) in &folders {
        let folder = folder.to_str().context("a folder's name is not UTF-8")?;
        // The C compiler's flags are split at spaces.
        ensure!(
            !folder.contains(' '),
            "the path {folder} has a space: build in another folder"
        );
        rust.push(format!("--remap-path-prefix={folder}={name}"));
        // No C file comes from the standard library's source.
        if !name.starts_with("/rustc/") {
            c.push(format!("-ffile-prefix-map={folder}={name}"));
        }
    }
    let mut cargo = sh::cargo(&["build", "--locked", "--package", "picket", "--bin", "picket"]);
    cargo
        .current_dir(&checkout.root)
        .args(["--profile", profile, "--target", target.triple, "--target-dir"])
        .arg(&checkout.target)
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"))
        .env(format!("CFLAGS_{}", target.triple.replace('-', "_")), c.join(" "))
        // For C files that ask for the date. Build scripts watch it, so another one for each commit would build them anew.
        .env("SOURCE_DATE_EPOCH", "0")
        .envs(target.environment.iter().copied());
    // Flags of the caller's would be in the bits.
    for name in ["RUSTFLAGS", "CFLAGS", "TARGET_CFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    if toolchain.host != target.triple {
        cargo.env(
            format!("CARGO_TARGET_{}_LINKER", target.upper()),
            target.tool("gcc", &toolchain.host),
        );
    }
    Ok(cargo)
}

/// Builds the binary and writes both parts of it into `folder`.
pub(super) fn build(
    checkout: &Checkout,
    target: &Target,
    toolchain: &Toolchain,
    profile: &str,
    folder: &Path,
) -> Result<Built> {
    sh::run(&mut cargo(checkout, target, toolchain, profile)?)?;
    let linked = checkout
        .target
        .join(target.triple)
        .join(profile_folder(profile))
        .join("picket");
    let objcopy = target.tool("objcopy", &toolchain.host);
    let built = separate(&linked, &objcopy, folder)?;
    let readelf = target.tool("readelf", &toolchain.host);
    let headers = sh::output(
        sh::command(&readelf)
            .args(["--wide", "--program-headers", "--dynamic"])
            .arg(&built.program),
    )?;
    is_static(&headers).with_context(|| linked.display().to_string())?;
    if toolchain.host == target.triple {
        let says = sh::output(sh::command(&built.program.to_string_lossy()).arg("--version"))?;
        let wanted = format!("picket {}", checkout.version);
        ensure!(
            says.trim() == wanted,
            "the binary says `{}` and not `{wanted}`",
            says.trim()
        );
    }
    Ok(built)
}

/// Splits the linked binary into the program and its symbols.
fn separate(linked: &Path, objcopy: &str, folder: &Path) -> Result<Built> {
    let built = Built {
        program: folder.join("picket"),
        symbols: folder.join("picket.debug"),
    };
    sh::output(
        sh::command(objcopy)
            .arg("--only-keep-debug")
            .arg(linked)
            .arg(&built.symbols),
    )?;
    // Debuggers find the symbols by the build ID, and by this name with a checksum.
    let mut strip = sh::command(objcopy);
    strip
        .current_dir(folder)
        .args(["--strip-all", "--add-gnu-debuglink=picket.debug"])
        .arg(linked)
        .arg(&built.program);
    sh::output(&mut strip)?;
    Ok(built)
}

/// Where cargo puts what it builds with this profile.
fn profile_folder(profile: &str) -> &str {
    match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        other => other,
    }
}

/// Whether the program starts without a loader and needs no shared library, by what readelf says of it.
fn is_static(headers: &str) -> Result<()> {
    for line in headers.lines().map(str::trim) {
        if line.starts_with("INTERP") {
            bail!("the binary is not static: it asks for a loader");
        }
        if line.contains("(NEEDED)") {
            bail!("the binary is not static: {line}");
        }
    }
    ensure!(headers.contains("LOAD"), "readelf shows no segments");
    Ok(())
}

#[cfg(test)]
mod tests;
