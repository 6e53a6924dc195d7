//! `picket identity suspend`, `resume` and `revoke`: switches an agent off and on.
//!
//! In: an AgentIdentity's name. Out: its state in its file or in the cluster, with who changed it, when and why as annotations;
//! and when that is in force.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;
use clap::Args;
use clap::error::ErrorKind;
use jiff::Timestamp;
use picket_policy::Standing;
use picket_policy::api::AnyObject;
use picket_policy::api::v1alpha1::{AgentIdentity, AgentIdentitySpec, State};
use serde_json::Value;

use crate::cli::target::{ChangeArgs, Changed, Objects, insist, is_raced, wait};
use crate::cli::{completion, output};
use crate::store::IdentityState;

/// The kind of the object.
const KIND: &str = "AgentIdentity";

/// Why the state was changed, who did it and when, for whoever looks later.
pub(super) const REASON: &str = "picket.dev/state-reason";
pub(super) const CHANGED_BY: &str = "picket.dev/state-changed-by";
pub(super) const CHANGED_AT: &str = "picket.dev/state-changed-at";

/// Shown below the options of `suspend`.
pub(super) const SUSPEND_EXAMPLES: &str = "\
Examples:
  picket identity suspend triage --reason 'deletes too much; INC-1234'
  picket identity suspend triage --files objects/ --dry-run
  picket identity suspend triage --context production

Every request of the agent is denied from then on, with a message that names its owner, and its watches, logs and sessions end. \
`picket identity resume` takes it back.

Exit codes: 0 the identity is suspended on this node, 1 nothing is written, 2 wrong usage, 3 the state is written, and no agent of this node \
is known to have it in force. With --dry-run or --wait 0 nothing is waited for.";

/// Shown below the options of `resume`.
pub(super) const RESUME_EXAMPLES: &str = "\
Example:
  picket identity resume triage --reason 'INC-1234 is closed'

A revoked agent does not come back: make a new identity for it. One that is expired, or whose review is overdue with `whenOverdue: \
Suspend`, needs a later `expiresAt` or `reviewBy` first.

Exit codes: 0 the agent may act on this node, 1 nothing is written, such as where it is revoked, expired or overdue, 2 wrong usage, 3 the state is \
written, and no agent of this node is known to have it in force. With --dry-run or --wait 0 nothing is waited for.";

/// Shown below the options of `revoke`.
pub(super) const REVOKE_EXAMPLES: &str = "\
Examples:
  picket identity revoke triage --reason 'retired'
  picket identity revoke triage --reason 'compromised; INC-1234' --yes

No secret has to be found and changed: the agent never had a credential of the cluster. Its grants stay; `picket grant list` \
shows them. To switch an agent off for a while, suspend it.

Exit codes: 0 the identity is revoked on this node, 1 nothing is written, 2 wrong usage, 3 the state is written, and no agent of this node \
is known to have it in force. With --dry-run or --wait 0 nothing is waited for.";

/// Change whether an agent may act.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// The identity's name.
    #[arg(add = completion::identities())]
    name: String,
    /// Why, for whoever looks at the identity later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// End an agent for good.
#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Do not ask. Needed without a terminal, where nobody can be asked.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn suspend(args: &StateArgs) -> anyhow::Result<Changed> {
    insist(|| suspend_once(args))
}

fn suspend_once(args: &StateArgs) -> anyhow::Result<Changed> {
    let objects = args.change.target.read_faulty(KIND, &args.name)?;
    match state(&objects.written(KIND, &args.name)?) {
        State::Revoked => bail!("{} is revoked already; nothing is allowed to it", args.name),
        State::Suspended => args
            .change
            .is_so_already(&objects, KIND, &args.name, "is suspended"),
        State::Active => change(&objects, args, State::Suspended, "suspended"),
    }
}

pub(super) fn resume(args: &StateArgs) -> anyhow::Result<Changed> {
    let objects = args.change.target.read_one(KIND, &args.name)?;
    let identity = identity(&objects, args)?;
    if identity.spec.state == State::Revoked {
        bail!(
            "{} is revoked, and a revoked agent does not come back. Make another identity with `picket identity create`",
            args.name
        );
    }
    let place = match objects {
        Objects::Files(_) => "in its file",
        Objects::Cluster(_) => "in the object",
    };
    // What stops the agent whatever its state is.
    let resumed = AgentIdentitySpec {
        state: State::Active,
        ..identity.spec.clone()
    };
    match Standing::of_spec(&resumed, Timestamp::now()) {
        Standing::Expired(at) => bail!(
            "{} expired at {}. Set a later spec.expiresAt {place}",
            args.name,
            output::moment(at)
        ),
        Standing::Overdue(at) => bail!(
            "the review of {} was due at {}, and its agent is denied every request until somebody reviews it. Set a later \
             spec.reviewBy {place}",
            args.name,
            output::moment(at)
        ),
        Standing::Active | Standing::Suspended | Standing::Revoked => {}
    }
    if identity.spec.state == State::Active {
        return args.change.is_so_already(&objects, KIND, &args.name, "may act");
    }
    change(&objects, args, State::Active, "resumed")
}

pub(super) fn revoke(args: &RevokeArgs) -> anyhow::Result<Changed> {
    revoke_at(args, io::stdin().is_terminal())
}

fn revoke_at(args: &RevokeArgs, is_terminal: bool) -> anyhow::Result<Changed> {
    let (asked, args) = (args.yes || args.state.change.dry_run, &args.state);
    if !asked && !is_terminal {
        let says = "nobody can be asked here, and a revocation cannot be taken back: say --yes\n";
        return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, says).into());
    }
    if asked {
        return insist(|| revoke_once(args, true));
    }
    match revoke_once(args, false) {
        // The answer was yes.
        Err(error) if is_raced(&error) => insist(|| revoke_once(args, true)),
        done => done,
    }
}

/// Revokes it as it is now; asks first, unless that was done.
fn revoke_once(args: &StateArgs, asked: bool) -> anyhow::Result<Changed> {
    let objects = args.change.target.read_faulty(KIND, &args.name)?;
    let object = objects.written(KIND, &args.name)?;
    if state(&object) == State::Revoked {
        return args
            .change
            .is_so_already(&objects, KIND, &args.name, "is revoked");
    }
    if !asked {
        write!(
            io::stderr(),
            "Revoke {} of {}? All its requests are denied and its sessions end, for good. [y/N] ",
            args.name,
            object["spec"]["owner"]
                .as_str()
                .unwrap_or("an owner that its object does not say")
        )?;
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("{} is not revoked", args.name);
        }
    }
    change(&objects, args, State::Revoked, "revoked")
}

fn identity(objects: &Objects, args: &StateArgs) -> anyhow::Result<AgentIdentity> {
    match &objects.find(KIND, &args.name)?.object {
        AnyObject::Identity(identity) => Ok(identity.clone()),
        AnyObject::Grant(_) | AnyObject::Policy(_) => bail!("{} is no AgentIdentity", args.name),
    }
}

/// The state that an object has, which may be faulty. In a state that is unknown its agent may or may not act, so that it is to be
/// changed.
fn state(object: &Value) -> State {
    let state = object["spec"]["state"].as_str();
    let known = [State::Suspended, State::Revoked].into_iter();
    known
        .into_iter()
        .find(|known| state == Some(&known.to_string()))
        .unwrap_or(State::Active)
}

/// Who runs the command, as far as the machine knows: behind sudo, the person. The API server knows better, where it is asked.
fn whoami() -> String {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    name("SUDO_USER")
        .or_else(|| name("USER"))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

fn change(objects: &Objects, args: &StateArgs, state: State, done: &str) -> anyhow::Result<Changed> {
    let word = state.to_string();
    let moment = Timestamp::now().round(jiff::Unit::Second)?.to_string();
    let who = objects.person().unwrap_or_else(whoami);
    let annotation = |name: &'static str| ["metadata", "annotations", name];
    let (by, at, why) = (annotation(CHANGED_BY), annotation(CHANGED_AT), annotation(REASON));
    let mut fields: Vec<(&[&str], &str)> = vec![(&["spec", "state"], &word), (&by, &who), (&at, &moment)];
    // A reason of before is no reason of this change.
    let reason = args.reason.as_deref().unwrap_or("not given");
    fields.push((&why, reason));
    let wanted = match state {
        State::Active => IdentityState::Active,
        State::Suspended => IdentityState::Suspended,
        State::Revoked => IdentityState::Revoked,
    };
    args.change.set(
        objects,
        KIND,
        &args.name,
        &fields,
        done,
        wait::has_state(&args.name, wanted),
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::MetadataExt as _;

    use clap::Parser;

    use super::*;
    use crate::store::edit::ObjectEditError;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RevokeArgs,
    }

    const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec:\n  owner: team\n  \
        attest: {pod: {namespace: ns, serviceAccount: sa}}\n";

    /// A folder with the identity, and the arguments of a command on it.
    fn identity_in(folder: &tempfile::TempDir, text: &str) -> RevokeArgs {
        std::fs::write(folder.path().join("a.yaml"), text).expect("written");
        let folder = folder.path().to_str().expect("a path");
        let line = [
            "revoke",
            "a",
            "--yes",
            "--wait",
            "0",
            "--reason",
            "INC-1: \"x\"",
            "--files",
            folder,
        ];
        Line::try_parse_from(line).expect("parses").args
    }

    fn read(args: &RevokeArgs) -> AgentIdentity {
        let objects = args.state.change.target.read().expect("valid");
        identity(&objects, &args.state).expect("an identity")
    }

    #[test]
    fn an_agent_is_suspended_resumed_and_revoked_for_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = identity_in(&folder, IDENTITY);
        suspend(&args.state).expect("suspended");
        let identity = read(&args);
        assert_eq!(identity.spec.state, State::Suspended);
        assert_eq!(identity.metadata.annotations[REASON], "INC-1: \"x\"");
        assert!(
            identity.metadata.annotations[CHANGED_AT]
                .parse::<Timestamp>()
                .is_ok()
        );
        assert!(!identity.metadata.annotations[CHANGED_BY].is_empty());
        resume(&args.state).expect("resumed");
        assert_eq!(read(&args).spec.state, State::Active);
        revoke(&args).expect("revoked");
        assert_eq!(read(&args).spec.state, State::Revoked);
        for error in [resume(&args.state), suspend(&args.state)] {
            assert!(
                error
                    .expect_err("for good")
                    .to_string()
                    .starts_with("a is revoked")
            );
        }
        revoke(&args).expect("revoked already");
    }

    #[test]
    fn an_agent_is_shut_out_though_others_change_its_file_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = identity_in(&folder, IDENTITY);
        let file = folder.path().join("a.yaml");
        let tries = Cell::new(0);
        let once = || {
            let objects = args.state.change.target.read_faulty(KIND, "a")?;
            tries.set(tries.get() + 1);
            if tries.get() < 3 {
                std::fs::write(&file, format!("{IDENTITY}# {}\n", tries.get()))?;
            }
            change(&objects, &args.state, State::Revoked, "revoked")
        };
        insist(once).expect("revoked");
        assert_eq!((tries.get(), read(&args).spec.state), (3, State::Revoked));
        // Not without end.
        let error = insist(|| Err(ObjectEditError::Raced(file.clone()).into())).expect_err("raced");
        assert!(error.to_string().contains("run the command again"), "{error}");
    }

    /// A command reads the files, and then waits for the lock of their folder.
    #[test]
    fn suspend_and_revoke_take_what_was_written_while_they_waited() {
        type Command = fn(&RevokeArgs) -> anyhow::Result<Changed>;
        let suspended: Command = |args| suspend(&args.state);
        for (command, state) in [(suspended, State::Suspended), (revoke as Command, State::Revoked)] {
            let folder = tempfile::tempdir().expect("a folder");
            let args = identity_in(&folder, IDENTITY);
            let lock = std::fs::File::open(folder.path()).expect("the folder");
            lock.lock().expect("locked");
            let inode = format!(":{} ", lock.metadata().expect("its facts").ino());
            let waits = || {
                let locks = std::fs::read_to_string("/proc/locks").expect("locks");
                locks
                    .lines()
                    .any(|line| line.contains("->") && line.contains(&inode))
            };
            std::thread::scope(|scope| {
                let changing = scope.spawn(|| command(&args));
                while !waits() {
                    assert!(!changing.is_finished(), "it waits for no lock");
                    std::thread::yield_now();
                }
                let changed = format!("{IDENTITY}# by hand\n");
                std::fs::write(folder.path().join("a.yaml"), changed).expect("written");
                drop(lock);
                changing.join().expect("no panic").expect("done");
            });
            assert_eq!(read(&args).spec.state, state);
            let text = std::fs::read_to_string(folder.path().join("a.yaml")).expect("read");
            assert!(text.contains("# by hand"), "{text}");
        }
    }

    #[test]
    fn an_agent_of_a_faulty_object_is_suspended_and_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let faulty = IDENTITY.replace("  owner: team", "  colour: red");
        let args = identity_in(&folder, &faulty);
        let text = || std::fs::read_to_string(folder.path().join("a.yaml")).expect("text");
        suspend(&args.state).expect("suspended");
        assert!(text().contains("state: Suspended"), "{}", text());
        suspend(&args.state).expect("suspended already");
        revoke(&args).expect("revoked");
        assert!(text().contains("state: Revoked"), "{}", text());
        revoke(&args).expect("revoked already");
        let error = suspend(&args.state).expect_err("for good").to_string();
        assert!(error.starts_with("a is revoked already"), "{error}");
        assert!(resume(&args.state).is_err(), "the object is not valid");
    }

    #[test]
    fn an_overdue_agent_is_not_resumed() {
        for state in ["Suspended", "Active"] {
            let folder = tempfile::tempdir().expect("a folder");
            let fields = "  reviewBy: 2020-01-01T00:00:00Z\n  whenOverdue: Suspend\n  owner";
            let overdue = IDENTITY.replace("  owner", &format!("  state: {state}\n{fields}"));
            let args = identity_in(&folder, &overdue);
            let error = resume(&args.state).expect_err("overdue").to_string();
            assert!(
                error.contains("was due at 2020-01-01T00:00:00Z")
                    && error.ends_with("a later spec.reviewBy in its file"),
                "{error}"
            );
            // One whose review is overdue and that goes on until somebody looks is resumed.
            let warned = overdue.replace("  whenOverdue: Suspend\n", "");
            let args = identity_in(&folder, &warned);
            resume(&args.state).expect("resumed");
            assert_eq!(read(&args).spec.state, State::Active);
        }
    }

    #[test]
    fn without_a_terminal_a_revocation_needs_yes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut args = identity_in(&folder, IDENTITY);
        args.yes = false;
        let error = revoke_at(&args, false).expect_err("nobody was asked");
        assert!(error.to_string().contains("say --yes"), "{error}");
        let code = error.downcast_ref::<clap::Error>().map(clap::Error::exit_code);
        assert_eq!(code, Some(2));
        assert_eq!(read(&args).spec.state, State::Active);
        args.state.change.dry_run = true;
        revoke_at(&args, false).expect("nothing is written");
    }

    #[test]
    fn an_expired_agent_is_not_resumed() {
        let folder = tempfile::tempdir().expect("a folder");
        let expired = IDENTITY.replace(
            "  owner",
            "  state: Suspended\n  expiresAt: 2020-01-01T00:00:00Z\n  owner",
        );
        let args = identity_in(&folder, &expired);
        let error = resume(&args.state).expect_err("expired").to_string();
        assert!(error.contains("expired at 2020-01-01T00:00:00Z"), "{error}");
        assert_eq!(read(&args).spec.state, State::Suspended);
    }
}
