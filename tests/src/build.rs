//! Building the Go programs of the tests, once: the cluster's, its clients and the oracles.
//!
//! In: the Go modules beside this package. Out: static programs under target/cluster/bin, named by a hash of their sources. A
//! line on stderr says that a build runs, since the first one takes minutes.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use ring::digest;

use crate::release::Release;

/// The release that kubectl-old's go.mod names.
const OLD_RELEASE: &str = "1.27.3";

/// The release that helm's go.mod names, and the minor version of the Kubernetes libraries in it.
const HELM_RELEASE: &str = "3.22.0";
const HELM_KUBERNETES: &str = "37";

/// A Go program of this package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoProgram {
    /// The control plane, the node parts and kubectl in one.
    Cluster,
    /// kubectl of the cluster's release alone, for images.
    Kubectl,
    /// kubectl 1.27.
    KubectlOld,
    /// Informers of client-go.
    Informers,
    /// The API server's own reading of requests and its RBAC authorizer.
    RbacOracle,
    /// The protobuf of Kubernetes' API types, and their JSON.
    ProtobufOracle,
    /// What a pod's sandbox runs.
    Pause,
    /// Helm, which installs the chart.
    Helm,
}

impl GoProgram {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Kubectl => "kubectl",
            Self::KubectlOld => "kubectl-old",
            Self::Informers => "informers",
            Self::RbacOracle => "rbac-oracle",
            Self::ProtobufOracle => "protobuf-oracle",
            Self::Pause => "pause",
            Self::Helm => "helm",
        }
    }

    fn module(self) -> PathBuf {
        let folder = match self {
            Self::KubectlOld => "kubectl-old",
            Self::Informers => "informers",
            Self::RbacOracle => "rbac-oracle",
            Self::ProtobufOracle => "protobuf-oracle",
            Self::Helm => "helm",
            Self::Cluster | Self::Kubectl | Self::Pause => "cluster",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
    }

    fn package(self) -> &'static str {
        match self {
            Self::Cluster | Self::KubectlOld | Self::Informers | Self::RbacOracle | Self::ProtobufOracle => {
                "."
            }
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Pause => "./pause",
            Self::Helm => "helm.sh/helm/v3/cmd/helm",
        }
    }

    /// The release of Kubernetes that it is built of, where it is made of the cluster's.
    fn release(self) -> Result<Release> {
        match self {
            Self::Cluster | Self::Kubectl => Release::chosen(),
            _ => Ok(Release::NEWEST),
        }
    }

    fn linker_flags(self, release: Release) -> String {
        if self == Self::Helm {
            // Without a version Helm takes every cluster that it is not asked about for Kubernetes 1.20.
            return format!(
                "-s -w -X helm.sh/helm/v3/internal/version.version=v{HELM_RELEASE} \
                 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={HELM_KUBERNETES} \
                 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor={HELM_KUBERNETES}"
            );
        }
        let release = if self == Self::KubectlOld {
            OLD_RELEASE
        } else {
            release.version()
        };
        let minor = release.split('.').nth(1).unwrap_or_default();
        let mut flags = String::from("-s -w");
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            for (name, value) in [
                ("gitVersion", format!("v{release}")),
                ("gitMajor", "1".into()),
                ("gitMinor", minor.into()),
                ("gitTreeState", "clean".into()),
            ] {
                flags.push_str(&format!(" -X {package}.{name}={value}"));
            }
        }
        flags
    }

    /// The program's file, built now if its sources have changed since the last time.
    ///
    /// # Errors
    /// Go is missing, or the build fails.
    pub fn path(self) -> Result<PathBuf> {
        let module = self.module();
        let release = self.release()?;
        let module_file = release.module_file();
        let flags = self.linker_flags(release);
        let mut hash = Hash::new();
        hash.text(&flags);
        hash.text(self.package());
        for file in sources(&module)? {
            hash.file(&file)?;
        }
        let mut name = self.name().to_owned();
        if let Some(file) = &module_file {
            hash.file(file)?;
            hash.file(&file.with_extension("sum"))?;
            name = format!("{name}-{release}");
        }
        let folder = cache()?.join("bin");
        fs::create_dir_all(&folder)?;
        let program = folder.join(format!("{name}-{}", hash.finish()));
        let _lock = lock(&format!("{name}.lock"))?;
        if program.exists() {
            return Ok(program);
        }
        let draft = folder.join(format!("{name}.new"));
        let mut command = Command::new("go");
        command
            .current_dir(&module)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off");
        command
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
            .arg(&draft);
        if let Some(file) = &module_file {
            command.arg("-modfile").arg(file);
        }
        command.arg(self.package());
        run_with_progress(command, &format!("building {name} for the tests"))?;
        fs::rename(&draft, &program)?;
        prune(&folder, &name);
        Ok(program)
    }
}

/// Where built programs and images are kept: target/cluster of this repository.
pub(crate) fn cache() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package has no parent folder")?;
    let folder = root.join("target/cluster");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Held while one thing in the cache is made, so that two test runs do not build it twice.
pub(crate) fn lock(name: &str) -> Result<Flock<File>> {
    let file = File::create(cache()?.join(name))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("lock the build cache")
}

/// How many variants of one program or image are kept: they are made of changed sources, or of another caller's files.
const VARIANTS: usize = 3;

/// Removes all but the newest variants of `name` (files called `<name>-<hash>`), which otherwise would fill the disk.
pub(crate) fn prune(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut variants = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let hash = file
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .unwrap_or_default();
        let hash = hash.strip_suffix(".tar").unwrap_or(hash);
        if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let made = entry.metadata().and_then(|about| about.modified());
            variants.push((made.unwrap_or(std::time::UNIX_EPOCH), entry.path()));
        }
    }
    variants.sort();
    for (_, old) in variants.iter().rev().skip(VARIANTS) {
        // One that stays costs only room.
        let _ = fs::remove_file(old);
    }
}

fn sources(module: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(module).with_context(|| format!("list {}", module.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path
            .extension()
            .is_some_and(|ext| ext == "go" || ext == "mod" || ext == "sum")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs `command` and says on stderr how long it has been going: each second on a terminal, else twice a minute.
pub(crate) fn run_with_progress(mut command: Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = tempfile(&format!("{program}.log"))?;
    command
        .stdin(Stdio::null())
        .stdout(log.1.try_clone()?)
        .stderr(log.1.try_clone()?);
    let mut child = command
        .spawn()
        .with_context(|| format!("{what}: cannot run {program}"))?;
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut said = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let seconds = started.elapsed().as_secs();
        if terminal && seconds > said {
            eprint!("\r[xtask] {what}: {seconds} s ");
            let _ = std::io::stderr().flush();
            said = seconds;
        } else if !terminal && seconds >= said + 30 {
            eprintln!("[xtask] {what}: {seconds} s");
            said = seconds;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let seconds = started.elapsed().as_secs_f32();
    if said > 0 || seconds > 5.0 {
        eprintln!(
            "{}[xtask] {what}: done in {seconds:.0} s",
            if terminal { "\r" } else { "" }
        );
    }
    if !status.success() {
        bail!(
            "{what} failed:\n{}",
            fs::read_to_string(&log.0).unwrap_or_default()
        );
    }
    let _ = fs::remove_file(&log.0);
    Ok(())
}

fn tempfile(name: &str) -> Result<(PathBuf, File)> {
    let name = Path::new(name)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let path = cache()?.join(format!("{}-{name}", std::process::id()));
    let file = File::create(&path)?;
    Ok((path, file))
}

/// What a cached thing is made of, in a form short enough for a file name.
pub(crate) struct Hash(digest::Context);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(&text.len().to_le_bytes());
        self.0.update(text.as_bytes());
    }

    pub(crate) fn file(&mut self, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        self.text(&path.file_name().unwrap_or_default().to_string_lossy());
        self.0.update(&content.len().to_le_bytes());
        self.0.update(&content);
        Ok(())
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finish().as_ref()[..8])
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
