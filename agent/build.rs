//! Builds the kernel programs.
//!
//! In: the sources of agent-ebpf and agent-common. Out: `OUT_DIR/picket-ebpf.o`, which `kernel::attach` embeds.
//!
//! Stable Rust is enough: `RUSTC_BOOTSTRAP` opens `-Z build-std`, which compiles `core` for the kernel's target from the
//! standard library's source.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Separates the flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

fn main() -> anyhow::Result<()> {
    let agent = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = agent.parent().context("the agent's folder has no parent")?;
    for watched in [
        "agent-ebpf/src",
        "agent-ebpf/Cargo.toml",
        "agent-common/src",
        "agent-common/Cargo.toml",
        "agent/build.rs",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=__CARGO_TESTS_ONLY_SRC_ROOT");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");

    standard_library_source()?;
    linker()?;

    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // Its own target folder: cargo would wait for itself in the outer one.
    let target_dir = out.join("ebpf");
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
        // The linker makes BTF from the debug information, and maps kept with sockets need their BTF.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    flags.extend(remapped_paths());
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "picket-ebpf",
            "--bins",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR))
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    // What the outer cargo tells its own compilers is not for these: flags for the host, clippy in rustc's place.
    for inherited in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(inherited);
    }
    let output = cargo.output().with_context(|| format!("cannot run {cargo:?}"))?;
    if !output.status.success() {
        bail!(
            "the kernel programs do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let built = target_dir.join(target).join("release/picket-ebpf");
    std::fs::copy(&built, out.join("picket-ebpf.o"))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("{name} is not set: this is cargo's build script"))
}

/// The outer build's flags that rename folders. BTF holds the path of each source file, and an image has to be the same bits
/// from whatever folder it was built in.
fn remapped_paths() -> Vec<String> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let remaps = flags
        .split(SEPARATOR)
        .filter(|flag| flag.starts_with("--remap-path-prefix="));
    remaps.map(str::to_owned).collect()
}

/// Finds the source of the standard library, or says how to get it.
fn standard_library_source() -> anyhow::Result<()> {
    // Cargo looks there first (`detect_sysroot_src_path`).
    if env::var_os("__CARGO_TESTS_ONLY_SRC_ROOT")
        .is_some_and(|folder| Path::new(&folder).join("core").is_dir())
    {
        return Ok(());
    }
    let output = Command::new(variable("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .context("cannot ask rustc for its sysroot")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if !library.join("core").is_dir() {
        bail!(
            "the standard library's source is missing at {}: the kernel programs need it; \
             run `cargo xtask setup`, which puts it there",
            library.display()
        );
    }
    Ok(())
}

/// Finds bpf-linker in PATH, or says how to get it.
fn linker() -> anyhow::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join("bpf-linker").is_file()) {
        return Ok(());
    }
    bail!(
        "bpf-linker is not in PATH: it links the kernel programs; run `cargo xtask setup`, which installs it"
    )
}
