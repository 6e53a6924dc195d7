//! Debian packages: which are missing, and installing them without starting the services they bring.
//!
//! In: the machine's files and programs. Out: the packages of the list installed, or an error that names what apt said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::machine;
use crate::sh;

/// A package, and how to see that what it brings is there (perhaps from elsewhere).
struct Package {
    name: &'static str,
    there: fn() -> bool,
}

/// What the cluster, the simulated pods, the suites and the bench run, and what the agent's allocator and libFuzzer are built with.
const PACKAGES: [Package; 13] = [
    Package {
        name: "g++",
        there: || sh::which("c++").is_some(),
    },
    Package {
        name: "make",
        there: || sh::which("make").is_some(),
    },
    Package {
        name: "containerd",
        there: || sh::which("containerd").is_some(),
    },
    Package {
        name: "runc",
        there: || sh::which("runc").is_some(),
    },
    Package {
        name: "containernetworking-plugins",
        there: || Path::new("/usr/lib/cni/bridge").exists(),
    },
    Package {
        name: "iproute2",
        there: || sh::which("ip").is_some(),
    },
    Package {
        name: "iptables",
        there: || sh::which("iptables").is_some(),
    },
    Package {
        name: "nftables",
        there: || sh::which("nft").is_some(),
    },
    Package {
        name: "busybox-static",
        there: busybox_is_static,
    },
    Package {
        name: "libfaketime",
        there: has_faketime,
    },
    Package {
        name: "nginx",
        there: || sh::which("nginx").is_some(),
    },
    Package {
        name: "curl",
        there: || Path::new("/usr/bin/curl").exists(),
    },
    Package {
        name: "python3-pip",
        there: python_has_pip,
    },
];

/// Debian says "do not start this" through the exit code of this script.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. Returns whether anything was.
pub(crate) fn install_missing() -> Result<bool> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|package| !(package.there)())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let list = missing.join(" ");
    sh::timed(&format!("apt packages: {list}"), || {
        machine::apt_is_here()?;
        // A third party's list that cannot be fetched is none of our business: whether Debian's own came shows at the install.
        if let Err(error) = sh::output(&mut apt_get(&["update"])) {
            eprintln!("[xtask] some package lists could not be fetched; continuing without them: {error}");
        }
        let quiet = KeepServicesDown::new()?;
        let installed = sh::output(apt_get(&["install", "--no-install-recommends"]).args(&missing));
        drop(quiet);
        installed.with_context(|| {
            format!("apt packages are missing: {list}; install them by hand and repeat the command")
        })?;
        leave_services_disabled(&missing);
        Ok(())
    })?;
    let still: Vec<&str> = PACKAGES
        .iter()
        .filter(|package| !(package.there)())
        .map(|package| package.name)
        .collect();
    anyhow::ensure!(
        still.is_empty(),
        "still missing after the install: {}; look at `dpkg -L` of each",
        still.join(" ")
    );
    Ok(true)
}

/// `apt-get` that asks nothing and gives up on a dead mirror.
pub(crate) fn apt_get(args: &[&str]) -> std::process::Command {
    let mut command = sh::command("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-y", "-q"]);
    for option in [
        "Acquire::Retries=2",
        "Acquire::http::Timeout=30",
        "Acquire::https::Timeout=30",
        "DPkg::Lock::Timeout=120",
    ] {
        command.args(["-o", option]);
    }
    command.args(args);
    command
}

/// A machine that did not run these services before runs none after its next boot either.
fn leave_services_disabled(installed: &[&str]) {
    for (package, unit) in [("containerd", "containerd.service"), ("nginx", "nginx.service")] {
        if installed.contains(&package)
            && sh::which("systemctl").is_some()
            && let Err(error) = sh::output(sh::command("systemctl").args(["--quiet", "disable", unit]))
        {
            eprintln!("[xtask] {unit} may start at the next boot: {error}");
        }
    }
}

/// Keeps packages from starting what they install. One that the machine's owner put there stays as it is.
struct KeepServicesDown {
    ours: bool,
}

impl KeepServicesDown {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let guard = Self { ours: true };
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot write {POLICY}"))?;
        Ok(guard)
    }
}

impl Drop for KeepServicesDown {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!(
                "[xtask] cannot remove {POLICY}: {error}; remove it by hand, or no package starts its service"
            );
        }
    }
}

fn has_faketime() -> bool {
    let arch = std::env::consts::ARCH;
    Path::new(&format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1")).exists()
}

/// The images hold one file, so it must not need a dynamic linker.
fn busybox_is_static() -> bool {
    let file = sh::which("busybox").and_then(|path| fs::read(path).ok());
    file.as_deref().and_then(asks_for_a_linker) == Some(false)
}

/// Whether a 64-bit ELF file has a program header of type PT_INTERP (elf(5)); nothing for any other file.
fn asks_for_a_linker(file: &[u8]) -> Option<bool> {
    const PT_INTERP: [u8; 4] = 3u32.to_ne_bytes();
    let half = |at: usize| {
        Some(usize::from(u16::from_ne_bytes(
            file.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    if file.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(u64::from_ne_bytes(file.get(0x20..0x28)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(0x36)?, half(0x38)?);
    Some((0..count).any(|n| {
        file.get(table + n * size..)
            .is_some_and(|header| header.starts_with(&PT_INTERP))
    }))
}

/// The images hold Debian's Python; any pip on the machine can fetch packages for it.
fn python_has_pip() -> bool {
    let debian = Path::new("/usr/lib/python3/dist-packages/pip").is_dir();
    Path::new("/usr/bin/python3").exists() && (debian || sh::which("pip3").is_some())
}

#[cfg(test)]
mod tests {
    use super::asks_for_a_linker;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let ourselves = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(asks_for_a_linker(&ourselves), Some(true));
        let mut no_headers = ourselves[..0x40].to_vec();
        no_headers[0x38..0x3a].fill(0);
        assert_eq!(asks_for_a_linker(&no_headers), Some(false));
        assert_eq!(asks_for_a_linker(b"#!/bin/sh\n"), None);
    }
}
