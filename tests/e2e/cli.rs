//! The commands that people use beside a running agent.

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;
use picket_tests::audit::about;
use picket_tests::output::Done;
use picket_tests::running::Running;

pub(crate) const TESTS: &[Test] = tests! {
    audit_tail_shows_it,
    audit_tail_follows,
    policy_check,
    policy_test,
    policies_on_recorded_traffic,
    doctor,
};

fn audit_tail_shows_it(world: &mut World) -> Result<()> {
    let spool = world.agent.audit_directory().display().to_string();
    let tail = |extra: &[&str]| -> Result<String> {
        let mut arguments = vec!["audit", "tail", &spool];
        arguments.extend(extra);
        Done::from(world.agent.picket(&arguments)?).good()
    };
    world.worker("kubectl delete namespace doomed")?.refused(&[])?;
    let people = tail(&["--outcome", "deny", "--identity", "worker", "--verb", "delete"])?;
    let line = people.lines().find(|line| line.contains("doomed"));
    ensure!(
        line.is_some_and(|line| line.contains("worker") && line.contains("guardrails")),
        "{people}"
    );
    ensure!(
        people.lines().all(|line| !line.contains("allow")),
        "the filter lets others through:\n{people}"
    );
    let json = tail(&["--outcome", "deny", "--verb", "delete", "-o", "json"])?;
    for line in json.lines() {
        let record: Value = serde_json::from_str(line)?;
        ensure!(
            record["decision"]["outcome"] == "deny" && record["verb"] == "delete",
            "{record:#}"
        );
    }
    Ok(())
}

fn audit_tail_follows(world: &mut World) -> Result<()> {
    let spool = world.agent.audit_directory().display().to_string();
    let mut command =
        world
            .agent
            .command(&["audit", "tail", "-f", &spool, "--outcome", "deny", "-o", "json"]);
    command.stdout(std::process::Stdio::piped());
    let following = Running::of(world.cluster.node().spawn(command)?)?;
    // What was there already comes first.
    world
        .worker("kubectl delete namespace doomed-later")?
        .refused(&[])?;
    following.line_with("doomed-later")?;
    world
        .worker("kubectl delete namespace doomed-last")?
        .refused(&[])?;
    following.line_with("doomed-last").map(drop)
}

fn policy_check(world: &mut World) -> Result<()> {
    let good = world.agent.objects_dir().display().to_string();
    Done::from(world.agent.picket(&["policy", "check", &good])?).good()?;
    let broken = world.agent.dir().join("broken.yaml");
    let text = include_str!("files/objects.yaml").replace("action: Warn", "action: RequireApproval");
    std::fs::write(&broken, &text)?;
    let line = 1 + text
        .lines()
        .position(|line| line.contains("RequireApproval"))
        .unwrap_or_default();
    let broken = broken.display().to_string();
    let done = Done::from(world.agent.picket(&["policy", "check", &broken])?);
    let said = format!("{}{}", done.out, done.err);
    ensure!(done.code == 1, "ended with {}: {said}", done.code);
    ensure!(
        said.contains(&format!("{broken}:{line}:")) && said.contains("RequireApproval"),
        "{said}"
    );
    let sarif = Done::from(world.agent.picket(&["policy", "check", &broken, "-o", "sarif"])?);
    let document: Value = serde_json::from_str(&sarif.out)?;
    let region = &document["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"];
    ensure!(
        document["version"] == "2.1.0" && region["startLine"] == line,
        "{document:#}"
    );
    Ok(())
}

/// Records of real requests: the present objects decide them as they did, another policy does not, and suggested grants give all of them.
fn policies_on_recorded_traffic(world: &mut World) -> Result<()> {
    world.admin(&["create", "configmap", "replayed", "-n", "lab"])?;
    let seen = world.picket_log();
    world.worker("kubectl get configmap replayed -n lab")?.good()?;
    world.worker("kubectl delete configmap replayed -n lab")?.good()?;
    seen.wait("the delete", |record| {
        about(record, "delete", "configmaps", "replayed") && record["stage"] == "ResponseComplete"
    })?;
    let mut lines = String::new();
    for mut record in seen.all(|record| record["agent"]["identity"] == "worker")? {
        // What is not written byte for byte is in no chain.
        if let Some(record) = record.as_object_mut() {
            record.remove("integrity");
        }
        lines.push_str(&format!("{record}\n"));
    }
    let folder = world.agent.dir().join("recorded");
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let log = file("traffic.jsonl", &lines)?;
    let objects = world.agent.objects_dir().display().to_string();
    let replay = |files: &[&str]| -> Result<Done> {
        let mut arguments = vec!["policy", "replay", "--audit", &log, "--file"];
        arguments.extend(files);
        Ok(Done::from(world.agent.picket(&arguments)?))
    };
    let same = replay(&[&objects])?.good()?;
    ensure!(same.starts_with("0 of "), "{same}");
    let stricter = file(
        "stricter.yaml",
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: stricter}\nspec:\n  rules:\n  \
         - {name: no-reading, action: Deny, match: {verbs: [get], resources: [configmaps]}}\n",
    )?;
    let changed = replay(&[&objects, &stricter])?;
    ensure!(
        changed.code == 1
            && changed.out.contains("allowed -> denied")
            && changed.out.contains("stricter/no-reading"),
        "ended with {}: {}{}",
        changed.code,
        changed.out,
        changed.err
    );
    let suggest = ["policy", "suggest", "--audit", &log];
    let suggested = file(
        "suggested.yaml",
        &Done::from(world.agent.picket(&suggest)?).good()?,
    )?;
    let identities: Vec<_> = include_str!("files/objects.yaml")
        .split("---\n")
        .filter(|document| document.contains("kind: AgentIdentity"))
        .collect();
    let identities = file("identities.yaml", &identities.join("---\n"))?;
    let covered = replay(&[&identities, &suggested])?.good()?;
    ensure!(covered.starts_with("0 of "), "{covered}");
    let shadow = Done::from(world.agent.picket(&["policy", "shadow", "--audit", &log])?);
    ensure!(
        shadow.code == 1 && shadow.out.contains("trial") && shadow.out.contains("no-deletes"),
        "ended with {}: {}{}",
        shadow.code,
        shadow.out,
        shadow.err
    );
    Ok(())
}

/// The ready policies hold by their tests, and a decision is explained.
fn policy_test(world: &mut World) -> Result<()> {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/policies");
    let tests = format!("{library}/tests");
    let test = ["policy", "test", &tests, "--coverage-min", "100"];
    let out = Done::from(world.agent.picket(&test)?).good()?;
    ensure!(out.starts_with("passed: "), "{out}");
    let agents = format!("{tests}/agents.yaml");
    let explain = |command: &str| -> Result<Done> {
        let explain = [
            "policy",
            "explain",
            library,
            &agents,
            "--identity",
            "reader",
            "--kubectl",
            command,
        ];
        Ok(Done::from(world.agent.picket(&explain)?))
    };
    let reads = explain("get pods -n shop")?.good()?;
    ensure!(
        reads.contains("read-only-kubectl/rules[0]") && reads.contains("gives it"),
        "{reads}"
    );
    let done = explain("get secrets -n shop")?;
    ensure!(
        done.code == 1 && done.out.contains("read-only-kubectl/no-secrets") && done.out.contains("fires"),
        "ended with {}: {}{}",
        done.code,
        done.out,
        done.err
    );
    // A slip of the pen is no denial.
    let slip = explain("gte secrets -n shop")?;
    ensure!(
        slip.code == 2,
        "ended with {}: {}{}",
        slip.code,
        slip.out,
        slip.err
    );
    Ok(())
}

fn doctor(world: &mut World) -> Result<()> {
    // The folders are those of the agent's configuration.
    let config = world.agent.config_file().display().to_string();
    let done = Done::from(world.agent.picket(&["doctor", "--config", &config])?);
    let out = done.good()?;
    for check in [
        "configuration",
        "cluster credential",
        "upstream credential",
        "hook connect4",
        "hook connect6",
        "hook sock_ops",
        "redirect",
        "socket TCP, io_uring",
        "socket MPTCP",
        "socket made earlier",
        "socket UDP-Lite",
        "socket AF_XDP",
    ] {
        let line = out
            .lines()
            .find(|line| line.starts_with(check))
            .unwrap_or_default();
        ensure!(line.contains(" ok "), "{check} is not ok:\n{out}");
    }
    for (check, seen) in [
        ("socket TCP ", "redirected to Picket"),
        ("socket TCP_FASTOPEN_CONNECT ", "redirected to Picket"),
        ("socket TCP, IPv6", "redirected to Picket"),
        ("socket TCP, mapped IPv4", "redirected to Picket"),
        ("socket received from outside", "redirected to Picket"),
        ("socket used from outside ", "redirected to Picket"),
        ("socket UDP ", "denied with EPERM"),
        ("socket UDP, IPv6", "denied with EPERM"),
        ("socket raw ", "denied with EPERM"),
        ("socket raw, IP_HDRINCL", "denied with EPERM"),
        ("connection before enforcement", "dropped"),
        ("socket used from outside, node network", "dropped"),
        ("socket packet", "dropped"),
    ] {
        let line = out.lines().find(|line| line.starts_with(check));
        ensure!(
            line.is_some_and(|line| line.contains(seen)),
            "{check} is not {seen}:\n{out}"
        );
    }
    nothing_untried_is_left_out(world, &config)?;
    what_is_wrong_with_a_configuration_is_a_row(world, &config)?;
    // Trying things beside a running agent does not disturb it.
    world.worker(crate::life::GET_SEED)?.good().map(drop)
}

/// Programs read one row of it as well, and where it is not valid that row alone.
fn what_is_wrong_with_a_configuration_is_a_row(world: &World, config: &str) -> Result<()> {
    let file = world.agent.objects_dir().with_file_name("wrong.yaml");
    let doctor = |text: String| -> Result<Vec<Value>> {
        std::fs::write(&file, text)?;
        let name = file.display().to_string();
        let done = Done::from(world.agent.picket(&["doctor", "--config", &name, "-o", "json"])?);
        ensure!(done.code == 1, "ended with {}: {}", done.code, done.out);
        Ok(serde_json::from_str(&done.out)?)
    };
    let text = std::fs::read_to_string(config)?;
    let elsewhere = world.agent.objects_dir().display().to_string();
    let missing = doctor(text.replace(&elsewhere, "/nonexistent/objects"))?;
    let invalid = doctor(text.replace("\"nodeName\"", "\"unheard\""))?;
    std::fs::remove_file(&file)?;
    let first = |rows: &[Value], says: &str| {
        rows.first().is_some_and(|row| {
            row["name"] == "configuration"
                && row["status"] == "missing"
                && row["detail"].as_str().is_some_and(|detail| detail.contains(says))
        })
    };
    ensure!(first(&missing, "objects: /nonexistent/objects: "), "{missing:?}");
    ensure!(missing.len() > 1, "the kernel was not tried: {missing:?}");
    ensure!(first(&invalid, "unknown field `unheard`"), "{invalid:?}");
    ensure!(invalid.len() == 1, "{invalid:?}");
    Ok(())
}

/// Where the agent's folder is on no BPF filesystem the same rows are there, and it ends with an error.
fn nothing_untried_is_left_out(world: &World, config: &str) -> Result<()> {
    let names = |elsewhere: &[&str]| -> Result<(i32, Vec<String>)> {
        let mut arguments = vec!["doctor", "--config", config, "-o", "json"];
        arguments.extend(elsewhere);
        let done = Done::from(world.agent.picket(&arguments)?);
        let checks: Vec<Value> = serde_json::from_str(&done.out)?;
        let tried = |check: &Value| {
            let detail = check["detail"].as_str().unwrap_or_default();
            let tried = !detail.contains("not tested: needs a BPF filesystem");
            ensure!(tried || check["status"] == "missing", "{check:#}");
            Ok(format!(
                "{}{}",
                check["name"],
                if tried { "" } else { " untried" }
            ))
        };
        Ok((done.code, checks.iter().map(tried).collect::<Result<_>>()?))
    };
    let (code, all) = names(&[])?;
    ensure!(code == 0, "{all:?}");
    let folder = world.agent.objects_dir().display().to_string();
    let (code, without) = names(&["--bpffs", &folder])?;
    ensure!(code == 1, "ended with {code}: {without:?}");
    let same = all
        .iter()
        .zip(&without)
        .all(|(all, without)| without.starts_with(all.as_str()));
    ensure!(all.len() == without.len() && same, "{all:?}\n{without:?}");
    let untried = |what: &str| {
        without
            .iter()
            .filter(|name| name.contains(what))
            .all(|name| name.ends_with("untried"))
    };
    ensure!(untried("socket ") && untried("redirect"), "{without:?}");
    Ok(())
}
