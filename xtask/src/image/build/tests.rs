//! The build: which flags and tools, what is refused, and that the symbols come off.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    TARGETS, Target, Toolchain, cargo, glibc_version, has_standard_library, is_static, profile_folder,
    resolves_names, separate,
};
use crate::image::checkout::Checkout;
use crate::sh;

fn toolchain() -> Toolchain {
    Toolchain {
        rust: "1.95.0".into(),
        rust_commit: "abc".into(),
        gcc: "12".into(),
        glibc: "2.36".into(),
        host: "x86_64-unknown-linux-gnu".into(),
        sysroot: PathBuf::from("/rust"),
    }
}

fn checkout(root: &str) -> Checkout {
    Checkout {
        root: PathBuf::from(root),
        target: PathBuf::from("/elsewhere/target"),
        revision: "c0ffee".into(),
        epoch: 1,
        created: "1970-01-01T00:00:01Z".into(),
        version: "0.1.0".into(),
        repository: None,
    }
}

/// An environment variable of cargo's.
fn variable(command: &std::process::Command, name: &str) -> Option<String> {
    let mut all = command.get_envs();
    let value = all.find(|(key, _)| *key == name).and_then(|(_, value)| value);
    value.map(|value| value.to_string_lossy().into_owned())
}

#[test]
fn a_missing_standard_library_names_the_command_that_adds_it() {
    let folder = tempfile::tempdir().unwrap();
    let arm = &TARGETS[1];
    let error = has_standard_library(arm, &folder.path().join("none")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Rust's standard library for aarch64-unknown-linux-gnu is missing: run `rustup target add aarch64-unknown-linux-gnu`"
    );
    fs::write(folder.path().join("libcore-1.rlib"), "").unwrap();
    has_standard_library(arm, folder.path()).unwrap_err();
    fs::write(folder.path().join("libstd-1.rlib"), "").unwrap();
    has_standard_library(arm, folder.path()).unwrap();
}

#[test]
fn an_unknown_target_is_refused_with_those_there_are() {
    let error = Target::find(Some("riscv64gc-unknown-linux-gnu")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no image is made for riscv64gc-unknown-linux-gnu; there are: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu"
    );
}

#[test]
fn every_folder_of_the_machine_is_renamed() {
    let cargo = cargo(&checkout("/home/me/picket"), &TARGETS[0], &toolchain(), "release").unwrap();
    let rust = variable(&cargo, "CARGO_ENCODED_RUSTFLAGS").unwrap();
    let c = variable(&cargo, "CFLAGS_x86_64_unknown_linux_gnu").unwrap();
    let library = "--remap-path-prefix=/rust/lib/rustlib/src/rust=/rustc/abc";
    assert!(rust.split('\x1f').any(|flag| flag == library), "{rust}");
    for renamed in ["/home/me/picket=/picket", "/elsewhere/target=/picket/target"] {
        let flag = format!("--remap-path-prefix={renamed}");
        assert!(rust.split('\x1f').any(|one| one == flag), "{rust}");
        let flag = format!("-ffile-prefix-map={renamed}");
        assert!(c.split(' ').any(|one| one == flag), "{c}");
    }
    assert!(
        rust.ends_with("=/picket/target"),
        "the target folder may be in the checkout and counts last: {rust}"
    );
    assert!(rust.contains("+crt-static"), "{rust}");
    assert_eq!(variable(&cargo, "SOURCE_DATE_EPOCH").as_deref(), Some("0"));
    assert_eq!(
        variable(&cargo, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER"),
        None
    );
}

#[test]
fn another_architecture_has_its_own_linker_and_page_size() {
    let cargo = cargo(&checkout("/picket"), &TARGETS[1], &toolchain(), "release").unwrap();
    let linker = variable(&cargo, "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
    assert_eq!(linker.as_deref(), Some("aarch64-linux-gnu-gcc"));
    assert_eq!(
        variable(&cargo, "JEMALLOC_SYS_WITH_LG_PAGE").as_deref(),
        Some("16")
    );
    assert!(variable(&cargo, "CFLAGS_aarch64_unknown_linux_gnu").is_some());
}

#[test]
fn a_path_with_a_space_is_refused() {
    let error = cargo(&checkout("/my files"), &TARGETS[0], &toolchain(), "release").unwrap_err();
    assert!(error.to_string().contains("/my files has a space"), "{error}");
}

#[test]
fn the_version_of_glibc_is_in_its_banner() {
    let banner =
        b"\0\x01GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\nCopyright";
    assert_eq!(
        glibc_version(banner).as_deref(),
        Some("2.36 (Debian GLIBC 2.36-9+deb12u14)")
    );
    assert_eq!(glibc_version(b"musl libc"), None);
}

#[test]
fn a_glibc_that_loads_its_resolvers_is_refused() {
    assert!(resolves_names("2.34 (GNU libc)").is_ok() && resolves_names("3.0 (other)").is_ok());
    for old in ["2.33 (GNU libc)", "1.99", "", "two"] {
        let error = resolves_names(old).unwrap_err();
        assert!(
            error.to_string().contains("before 2.34 it resolves no names"),
            "{old}: {error}"
        );
    }
}

#[test]
fn a_profile_is_built_in_its_folder() {
    assert_eq!(
        ["dev", "release", "thin"].map(profile_folder),
        ["debug", "release", "thin"]
    );
}

#[test]
fn a_dynamic_program_is_refused() {
    let load = "  LOAD           0x0000 0x0000";
    assert!(is_static(load).is_ok());
    let needed = format!("{load}\n 0x01 (NEEDED)             Shared library: [libc.so.6]");
    let error = is_static(&needed).unwrap_err();
    assert!(error.to_string().contains("libc.so.6"), "{error}");
    let interpreter = format!("  INTERP         0x000318\n{load}");
    assert!(
        is_static(&interpreter)
            .unwrap_err()
            .to_string()
            .contains("loader")
    );
    assert!(is_static("").is_err());
}

#[test]
fn the_symbols_are_apart_and_the_program_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("main.c");
    fs::write(
        &source,
        "int known_name(void) { return 7; }\nint main(void) { return known_name(); }\n",
    )
    .unwrap();
    let linked = folder.path().join("linked");
    sh::output(
        sh::command("cc")
            .args(["-g", "-O0", "-o"])
            .arg(&linked)
            .arg(&source),
    )
    .unwrap();
    let built = separate(&linked, "objcopy", folder.path()).unwrap();
    let has_name = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        bytes.windows(10).any(|bytes| bytes == b"known_name")
    };
    assert!(has_name(&built.symbols) && !has_name(&built.program));
    let bytes = fs::read(&built.program).unwrap();
    assert!(
        bytes.windows(12).any(|bytes| bytes == b"picket.debug"),
        "no link to the symbols"
    );
    let status = sh::command(&built.program.to_string_lossy()).status().unwrap();
    assert_eq!(status.code(), Some(7));
}
