//! `picket ca create`: a node CA for people without a controller that makes one.
//!
//! In: a folder, and the CA's name. Out: `ca.crt` and `ca.key` in the folder; existing ones are never overwritten.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::output;
use crate::pki::ca;

const CREATE_HELP: &str = "\
Example:
  picket ca create --out /etc/picket
  kubectl -n agents create configmap picket-ca.crt --from-file=ca.crt=/etc/picket/ca.crt

Exit codes: 0 both files are written, 1 a file cannot be written or one of the name exists, 2 wrong usage.";

/// Arguments of `picket ca`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes a new CA's ca.crt and ca.key into a folder; refuses to overwrite.
    #[command(after_help = CREATE_HELP)]
    Create {
        /// The folder.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The CA's common name.
        #[arg(long, value_name = "NAME", default_value = "picket node CA")]
        name: String,
    },
}

pub(super) fn run(args: &Args) -> ExitCode {
    let Command::Create { out, name } = &args.command;
    match create(out, name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn create(out: &Path, name: &str) -> anyhow::Result<()> {
    let made = ca::create(name).context("cannot make the certificate")?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    // The key first: a certificate without its key would look like a finished CA.
    write_new(&out.join("ca.key"), 0o600, made.key_pem.as_bytes())?;
    write_new(&out.join("ca.crt"), 0o644, made.certificate_pem.as_bytes())?;
    output::say(format_args!(
        "{} and {} written",
        out.join("ca.crt").display(),
        out.join("ca.key").display()
    ));
    Ok(())
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| {
            format!(
                "cannot create {}; an existing CA is never overwritten: choose another folder with --out",
                path.display()
            )
        })?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}
