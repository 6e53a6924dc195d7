//! Container images for the cluster, made from this machine's own files.
//!
//! In: programs, and for the tools image the host's Python and one package from PyPI. Out: docker-archive tars under
//! target/cluster/images, named by a hash of what is in them. Every reference is under `picket.test/`, which resolves nowhere:
//! with imagePullPolicy IfNotPresent nothing is ever pulled.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ring::digest;
use serde_json::json;

use crate::build::{GoProgram, Hash, cache, hex, lock, prune, run_with_progress};

/// The Python client that the tools image holds.
const PYTHON_CLIENT: &str = "kubernetes==36.0.3";
/// Parts of the standard library that no client needs and that make up most of its size.
const PYTHON_UNUSED: [&str; 8] = [
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
];

/// An image as `ctr images import` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What a pod's manifest calls it.
    pub reference: String,
    /// The docker-archive.
    pub archive: PathBuf,
}

/// A file of this machine that shall be in an image, with the shared libraries it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// Absolute path in the image.
    pub inside: PathBuf,
    /// Path on this machine.
    pub host: PathBuf,
}

/// `picket.test/pause:1`, which every pod's sandbox runs.
///
/// # Errors
/// It cannot be built.
pub fn pause() -> Result<Image> {
    let program = GoProgram::Pause.path()?;
    Recipe::new("picket.test/pause:1", &["/pause"])
        .file("/pause", &program)
        .build()
}

/// `picket.test/busybox:1`: busybox with a link for each applet.
///
/// # Errors
/// busybox-static is not installed, or it cannot be built.
pub fn busybox() -> Result<Image> {
    Recipe::new("picket.test/busybox:1", &["/bin/sh"])
        .busybox()?
        .build()
}

/// `picket.test/kubectl:1`: kubectl of the cluster's release, and a shell with busybox's applets.
///
/// # Errors
/// Go or busybox-static is missing on this machine, or it cannot be built.
pub fn kubectl() -> Result<Image> {
    Recipe::new("picket.test/kubectl:1", &["/bin/sh"])
        .busybox()?
        .file("/usr/bin/kubectl", &GoProgram::Kubectl.path()?)
        .build()
}

/// `picket.test/tools:1`: what `picket.test/kubectl:1` holds, Python 3 with the `kubernetes` package, and the caller's own
/// files. `picket.test/tools:1` is one reference, so a cluster holds the variant that was loaded last.
///
/// # Errors
/// A part is missing on this machine, or PyPI cannot be reached the first time.
pub fn tools(extra: &[ExtraFile]) -> Result<Image> {
    let mut recipe = Recipe::new("picket.test/tools:1", &["/bin/sh"])
        .busybox()?
        .file("/usr/bin/kubectl", &GoProgram::Kubectl.path()?);
    recipe = python(recipe)?;
    for file in extra {
        recipe = recipe.with_libraries(&file.inside, &file.host)?;
    }
    recipe.build()
}

/// `picket.test/picket:1`: the agent's own image as far as the chart knows it, with `/picket` as its entry point. The binary is the
/// tests' own, with the libraries that it needs.
///
/// # Errors
/// It cannot be built.
pub fn picket(binary: &Path) -> Result<Image> {
    picket_as("picket.test/picket:1", binary, &[])
}

/// As [`picket`], under another reference and with more files: another version's image.
///
/// # Errors
/// It cannot be built.
pub fn picket_as(reference: &str, binary: &Path, more: &[ExtraFile]) -> Result<Image> {
    let mut recipe = Recipe::new(reference, &[]).with_libraries(Path::new("/picket"), binary)?;
    for file in more {
        recipe = recipe.with_libraries(&file.inside, &file.host)?;
    }
    recipe.entrypoint = vec!["/picket".to_owned()];
    recipe.build()
}

fn python(mut recipe: Recipe) -> Result<Recipe> {
    let system = Path::new("/usr/bin/python3");
    let interpreter = if system.exists() {
        system
    } else {
        Path::new("python3")
    };
    let ask = "import sys, sysconfig, os; print(os.path.realpath(sys.executable)); \
               print(sysconfig.get_path('stdlib')); print('%d.%d' % sys.version_info[:2])";
    let answer = output(Command::new(interpreter).args(["-I", "-c", ask]))?;
    let mut lines = answer.lines();
    let (Some(program), Some(library), Some(version)) = (lines.next(), lines.next(), lines.next()) else {
        bail!("{} does not say where it is installed", interpreter.display());
    };
    let (program, library) = (Path::new(program), Path::new(library));
    recipe = recipe.with_libraries(program, program)?;
    if program != Path::new("/usr/bin/python3") {
        recipe = recipe.link("/usr/bin/python3", &program.to_string_lossy());
    }
    recipe = recipe.folder(library, library, &PYTHON_UNUSED)?;
    let packages = python_packages(version)?;
    let inside = Path::new("/usr/local/lib/picket-python");
    recipe = recipe
        .folder(&packages, inside, &PYTHON_UNUSED)?
        .env(&format!("PYTHONPATH={}", inside.display()));
    recipe.compiled_by = Some(program.to_owned());
    Ok(recipe)
}

/// The Python client and what it needs, fetched once.
fn python_packages(version: &str) -> Result<PathBuf> {
    let folder = cache()?.join(format!("python-{version}-{}", PYTHON_CLIENT.replace("==", "-")));
    let _lock = lock("python.lock")?;
    if folder.exists() {
        return Ok(folder);
    }
    let draft = folder.with_extension("new");
    let _ = fs::remove_dir_all(&draft);
    // Any Python on this machine may fetch for the one that goes into the image; Debian's has pip only in a package of its own.
    let has_pip = |python: &&str| {
        let asked = Command::new(python).args(["-m", "pip", "--version"]).output();
        asked.is_ok_and(|done| done.status.success())
    };
    let Some(python) = ["/usr/bin/python3", "python3"].into_iter().find(has_pip) else {
        bail!("no Python with pip: install the package python3-pip");
    };
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
    ]);
    command
        .args(["--only-binary=:all:", "--python-version", version, "--target"])
        .arg(&draft)
        .arg(PYTHON_CLIENT);
    run_with_progress(command, "fetching the Python client")?;
    fs::rename(&draft, &folder)?;
    Ok(folder)
}

/// One image to be: what goes where.
struct Recipe {
    reference: String,
    entrypoint: Vec<String>,
    command: Vec<String>,
    env: Vec<String>,
    files: Vec<(PathBuf, PathBuf)>,
    folders: Vec<(PathBuf, PathBuf, Vec<String>)>,
    links: Vec<(PathBuf, String)>,
    libraries: BTreeSet<PathBuf>,
    compiled_by: Option<PathBuf>,
}

impl Recipe {
    fn new(reference: &str, command: &[&str]) -> Self {
        Self {
            reference: reference.to_owned(),
            entrypoint: Vec::new(),
            command: command.iter().map(|&part| part.to_owned()).collect(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
            files: Vec::new(),
            folders: Vec::new(),
            links: Vec::new(),
            libraries: BTreeSet::new(),
            compiled_by: None,
        }
    }

    fn file(mut self, inside: &str, host: &Path) -> Self {
        self.files.push((PathBuf::from(inside), host.to_owned()));
        self
    }

    fn link(mut self, inside: &str, target: &str) -> Self {
        self.links.push((PathBuf::from(inside), target.to_owned()));
        self
    }

    fn env(mut self, variable: &str) -> Self {
        self.env.push(variable.to_owned());
        self
    }

    fn folder(mut self, host: &Path, inside: &Path, without: &[&str]) -> Result<Self> {
        ensure!(host.is_dir(), "{} is not a folder", host.display());
        let without = without.iter().map(|&name| name.to_owned()).collect();
        self.folders.push((inside.to_owned(), host.to_owned(), without));
        // A library's own modules need shared libraries too.
        for module in shared_objects(host)? {
            self.libraries.extend(libraries(&module)?);
        }
        Ok(self)
    }

    fn busybox(mut self) -> Result<Self> {
        let program = ["/usr/bin/busybox", "/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let program = program.context("busybox is missing: install the package busybox-static")?;
        ensure!(
            libraries(Path::new(program))?.is_empty(),
            "busybox is not static: install the package busybox-static"
        );
        for applet in output(Command::new(program).arg("--list"))?
            .lines()
            .filter(|&applet| applet != "busybox")
        {
            self = self.link(&format!("/bin/{applet}"), "/bin/busybox");
        }
        Ok(self.file("/bin/busybox", Path::new(program)))
    }

    fn with_libraries(mut self, inside: &Path, host: &Path) -> Result<Self> {
        self.libraries.extend(libraries(host)?);
        self.files.push((inside.to_owned(), host.to_owned()));
        Ok(self)
    }

    fn build(self) -> Result<Image> {
        let mut hash = Hash::new();
        let made_of = (
            &self.entrypoint,
            &self.command,
            &self.env,
            &self.links,
            &self.folders,
            &self.compiled_by,
        );
        hash.text(&format!("{made_of:?}"));
        for (inside, host) in &self.files {
            hash.text(&inside.to_string_lossy());
            hash.file(host)?;
        }
        for library in &self.libraries {
            hash.text(&library.to_string_lossy());
            hash.file(library)?;
        }
        let name = self.reference.replace(['/', ':'], "-");
        let images = cache()?.join("images");
        fs::create_dir_all(&images)?;
        let archive = images.join(format!("{name}-{}.tar", hash.finish()));
        let _lock = lock(&format!("{name}.lock"))?;
        if !archive.exists() {
            self.write(&archive)
                .with_context(|| format!("build image {}", self.reference))?;
            prune(&images, &name);
        }
        Ok(Image {
            reference: self.reference,
            archive,
        })
    }

    fn write(&self, archive: &Path) -> Result<()> {
        let work = archive.with_extension("work");
        let _ = fs::remove_dir_all(&work);
        let root = work.join("root");
        for folder in ["bin", "etc", "tmp", "root", "usr/bin"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        )?;
        fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        for (inside, host, without) in &self.folders {
            let copy = within(&root, inside)?;
            copy_folder(host, &copy, without)?;
            if let Some(python) = &self.compiled_by {
                // By content, not by time: every file in the archive has the same one. Files that are not meant to compile
                // (templates, other versions' syntax) make it fail, and only start slower.
                let mut command = Command::new(python);
                command.args([
                    "-I",
                    "-m",
                    "compileall",
                    "-q",
                    "--invalidation-mode",
                    "unchecked-hash",
                ]);
                command.arg("-s").arg(&root).args(["-p", "/"]).arg(&copy);
                command.output().context("compile the Python modules")?;
            }
        }
        let libraries = self.libraries.iter().map(|library| (library, library));
        for (inside, host) in self
            .files
            .iter()
            .map(|(inside, host)| (inside, host))
            .chain(libraries)
        {
            let target = within(&root, inside)?;
            // Files come in folders too (a library's own modules), and twice is once.
            let _ = fs::remove_file(&target);
            fs::copy(host, &target).with_context(|| format!("copy {}", host.display()))?;
        }
        for (inside, target) in &self.links {
            symlink(target, within(&root, inside)?)?;
        }
        let layer = work.join("layer.tar");
        tar(&root, &layer, &["."])?;
        let diff = hex(digest::digest(&digest::SHA256, &fs::read(&layer)?).as_ref());
        let config = json!({
            "architecture": go_architecture(), "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.command, "Env": self.env, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
        });
        fs::write(work.join("config.json"), config.to_string())?;
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.reference], "Layers": ["layer.tar"]}]);
        fs::write(work.join("manifest.json"), manifest.to_string())?;
        let draft = archive.with_extension("new");
        tar(&work, &draft, &["manifest.json", "config.json", "layer.tar"])?;
        fs::rename(&draft, archive)?;
        Ok(fs::remove_dir_all(&work)?)
    }
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The image's path under its root on this machine, its folder made.
fn within(root: &Path, inside: &Path) -> Result<PathBuf> {
    let relative = inside
        .strip_prefix("/")
        .with_context(|| format!("{} is not absolute", inside.display()))?;
    let path = root.join(relative);
    fs::create_dir_all(path.parent().context("a file at the root")?)?;
    Ok(path)
}

fn copy_folder(from: &Path, to: &Path, without: &[String]) -> Result<()> {
    let mut left = VecDeque::from([(from.to_owned(), to.to_owned())]);
    while let Some((from, to)) = left.pop_front() {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).with_context(|| format!("list {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let (source, target) = (entry.path(), to.join(&name));
            if without
                .iter()
                .any(|left_out| *left_out == *name.to_string_lossy())
            {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push_back((source, target));
            } else if source.is_file() {
                // Links are followed: what they point to may not be in the image. One that leads nowhere is left out.
                fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
            }
        }
    }
    Ok(())
}

/// The modules in machine code below `folder`.
fn shared_objects(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(shared_objects(&entry.path())?);
        } else if entry.path().extension().is_some_and(|ext| ext == "so") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The shared libraries and the loader that `program` needs, by the paths it looks for them at.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let done = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() || text.contains("statically linked") {
        // A static program: ldd calls it "not a dynamic executable" and fails.
        return Ok(Vec::new());
    }
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!(
            "{} needs a library that is not here: {}",
            program.display(),
            line.trim()
        );
    }
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// Everything as root, at the epoch, in order of name: the same files give the same archive.
fn tar(folder: &Path, archive: &Path, names: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=gnu",
        "-C",
    ]);
    output(command.arg(folder).arg("-cf").arg(archive).args(names)).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    if !done.status.success() {
        bail!(
            "{}: {}",
            command.get_program().to_string_lossy(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8(done.stdout)?)
}
