//! Files of objects that are edited: what is written, what is refused, and what another one wrote meanwhile.

use super::*;

const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: NAME}\nspec:\n  owner: team  # ours\n  \
    attest: {pod: {namespace: ns, serviceAccount: NAME}}\n";
const STATE: &[&str] = &["spec", "state"];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let both = format!(
        "{}---\n{}",
        IDENTITY.replace("NAME", "a"),
        IDENTITY.replace("NAME", "b")
    );
    fs::write(folder.path().join("both.yaml"), both).expect("written");
    folder
}

fn read(folder: &tempfile::TempDir) -> ObjectFiles {
    ObjectFiles::read(&[folder.path().to_owned()]).expect("valid")
}

fn text(folder: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).expect("text")
}

#[test]
fn one_field_changes_and_the_file_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let path = folder.path().join("both.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
    let before = text(&folder, "both.yaml");
    let changed = read(&folder).set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false);
    assert_eq!(changed.expect("changed"), path);
    let (first, second) = before.split_once("---\n").expect("two");
    let second = second.replace("  owner", "  state: Revoked\n  owner");
    assert_eq!(text(&folder, "both.yaml"), format!("{first}---\n{second}"));
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn a_dry_run_writes_nothing_and_what_the_agent_would_refuse_is_refused() {
    let folder = folder();
    let before = text(&folder, "both.yaml");
    let files = read(&folder);
    files
        .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], true)
        .expect("valid");
    files.remove("AgentIdentity", "b", true).expect("valid");
    files
        .add("AgentIdentity", "c", &IDENTITY.replace("NAME", "c"), true)
        .expect("valid");
    let error = files
        .set_fields("AgentIdentity", "b", &[(STATE, "Gone")], false)
        .expect_err("no state");
    assert!(error.to_string().contains("Gone"), "{error}");
    let twice = IDENTITY.replace("name: NAME", "name: c").replace("NAME", "a");
    let error = files
        .add("AgentIdentity", "c", &twice, false)
        .expect_err("the pods of a");
    assert!(error.to_string().contains("match"), "{error}");
    assert_eq!(text(&folder, "both.yaml"), before);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn an_object_is_added_as_a_file_of_its_own_and_taken_out_with_it() {
    let folder = folder();
    let yaml = IDENTITY.replace("NAME", "c");
    read(&folder)
        .add("AgentIdentity", "c", &yaml, false)
        .expect("added");
    assert_eq!(text(&folder, "agentidentity-c.yaml"), yaml);
    let error = read(&folder)
        .add("AgentIdentity", "c", &yaml, false)
        .expect_err("exists");
    assert!(error.to_string().ends_with("agentidentity-c.yaml:3"), "{error}");
    read(&folder)
        .remove("AgentIdentity", "c", false)
        .expect("removed");
    assert!(!folder.path().join("agentidentity-c.yaml").exists());
    read(&folder)
        .remove("AgentIdentity", "a", false)
        .expect("removed");
    assert_eq!(text(&folder, "both.yaml"), IDENTITY.replace("NAME", "b"));
    // An agent that finds no file keeps what it has.
    let error = read(&folder).remove("AgentIdentity", "b", false);
    assert!(error.is_err_and(|error| error.to_string().contains("is the only object")));
    assert!(folder.path().join("both.yaml").exists());
}

#[test]
fn an_object_is_added_to_the_file_that_is_named() {
    let folder = folder();
    let path = folder.path().join("both.yaml");
    let before = text(&folder, "both.yaml");
    let files = ObjectFiles::read(&[path]).expect("valid");
    files
        .add("AgentIdentity", "c", &IDENTITY.replace("NAME", "c"), false)
        .expect("added");
    assert_eq!(
        text(&folder, "both.yaml"),
        format!("{before}---\n{}", IDENTITY.replace("NAME", "c"))
    );
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("a folder");
    let two = ObjectFiles::read(&[folder.path().join("both.yaml"), other]).expect("valid");
    let error = two
        .add("AgentIdentity", "d", &IDENTITY.replace("NAME", "d"), false)
        .expect_err("where?");
    assert!(matches!(error, ObjectEditError::WhereTo(2)), "{error}");
}

#[test]
fn nothing_is_written_over_another_change_or_through_a_link() {
    let folder = folder();
    let files = read(&folder);
    let path = folder.path().join("both.yaml");
    let meanwhile = format!("{}# mine\n", text(&folder, "both.yaml"));
    fs::write(&path, &meanwhile).expect("written");
    let error = files
        .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
        .expect_err("raced");
    assert!(matches!(error, ObjectEditError::Raced(_)), "{error}");
    assert_eq!(text(&folder, "both.yaml"), meanwhile);
    fs::rename(&path, folder.path().join("..data")).expect("moved");
    std::os::unix::fs::symlink("..data", &path).expect("a link");
    let error = read(&folder)
        .remove("AgentIdentity", "b", false)
        .expect_err("a link");
    assert!(matches!(error, ObjectEditError::Link(_)), "{error}");
}

#[test]
fn changes_that_each_can_stand_are_not_written_where_they_cannot_stand_together() {
    let folder = folder();
    let (one, other) = (read(&folder), read(&folder));
    let of_c = |name: &str| {
        IDENTITY
            .replace("name: NAME", &format!("name: {name}"))
            .replace("NAME", "c")
    };
    one.add("AgentIdentity", "c", &of_c("c"), false).expect("added");
    let error = other
        .add("AgentIdentity", "d", &of_c("d"), false)
        .expect_err("the pods of c");
    assert!(error.to_string().contains("match"), "{error}");
    // What stands beside it is added.
    other
        .add("AgentIdentity", "e", &IDENTITY.replace("NAME", "e"), false)
        .expect("added");
    assert!(ObjectFiles::read(&[folder.path().to_owned()]).is_ok());
    // Of two files each is removed by a command that still sees the other.
    fs::remove_file(folder.path().join("both.yaml")).expect("removed");
    let (one, other) = (read(&folder), read(&folder));
    one.remove("AgentIdentity", "c", false).expect("removed");
    let error = other.remove("AgentIdentity", "e", false).expect_err("the last");
    assert!(matches!(error, ObjectEditError::Last { .. }), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_keeps_nobody_from_shutting_an_agent_out() {
    let folder = folder();
    let paths = [folder.path().to_owned()];
    fs::write(folder.path().join("latin.yaml"), b"a: b\n# M\xfcller\n").expect("written");
    std::os::unix::fs::symlink("/nonexistent", folder.path().join("link.yaml")).expect("a link");
    let error = ObjectFiles::read(&paths).expect_err("two files").to_string();
    assert!(error.contains("latin.yaml:2:4: the file is not UTF-8"), "{error}");
    assert!(
        error.contains("link.yaml:1:1: the file cannot be read: "),
        "{error}"
    );
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    files
        .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
        .expect("changed");
    assert!(text(&folder, "both.yaml").contains("state: Revoked"));
}

#[test]
fn an_object_that_is_not_there_is_told_with_those_that_are() {
    let folder = folder();
    let error = read(&folder)
        .remove("AgentIdentity", "z", false)
        .expect_err("none");
    assert!(
        error.to_string().starts_with("no AgentIdentity \"z\" is in "),
        "{error}"
    );
    assert!(error.to_string().ends_with("; there: a, b"), "{error}");
    let empty = tempfile::tempdir().expect("a folder");
    let error = read(&empty)
        .remove("AgentIdentity", "z", false)
        .expect_err("none");
    assert!(error.to_string().ends_with("; there: none"), "{error}");
}

#[test]
fn a_fault_of_another_object_keeps_nobody_from_shutting_an_agent_out() {
    let folder = folder();
    fs::write(
        folder.path().join("c.yaml"),
        IDENTITY.replace("NAME", "c").replace("owner", "colour"),
    )
    .expect("written");
    let paths = [folder.path().to_owned()];
    assert!(ObjectFiles::read(&paths).is_err());
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    files
        .set_fields("AgentIdentity", "b", &[(STATE, "Revoked")], false)
        .expect("changed");
    assert!(text(&folder, "both.yaml").contains("state: Revoked"));
    // A fault of its own is one, and so is one that another file has too.
    for (field, value) in [(STATE, "Gone"), (&["spec", "colour"][..], "colour")] {
        let files = ObjectFiles::read_faulty(&paths).expect("read");
        let error = files.set_fields("AgentIdentity", "b", &[(field, value)], false);
        assert!(error.is_err_and(|error| error.to_string().contains(value)));
    }
}

#[test]
fn the_lines_that_a_fault_names_may_move() {
    let folder = folder();
    let paths = [folder.path().to_owned()];
    let of_one_account = |name: &str| {
        IDENTITY
            .replace("serviceAccount: NAME", "serviceAccount: one")
            .replace("NAME", name)
    };
    let alike = [
        IDENTITY.replace("NAME", "bad"),
        of_one_account("x"),
        of_one_account("y"),
    ];
    fs::write(folder.path().join("all.yaml"), alike.join("---\n")).expect("written");
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    let revoked = files.set_fields("AgentIdentity", "bad", &[(STATE, "Revoked")], false);
    revoked.expect("the others' fault names another line now");
    assert!(text(&folder, "all.yaml").contains("state: Revoked"));
}

#[test]
fn a_fault_of_the_object_itself_keeps_nobody_from_shutting_its_agent_out_or_taking_it_out() {
    let folder = folder();
    let paths = [folder.path().to_owned()];
    let faulty = IDENTITY
        .replace("NAME", "c")
        .replace("  owner", "  colour: red\n  state: Quarantined\n  owner");
    fs::write(folder.path().join("c.yaml"), &faulty).expect("written");
    // A fault that only shows once that object can be read.
    let policy = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: [nobody]}\n  \
        rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
    fs::write(folder.path().join("p.yaml"), policy).expect("written");
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    let written = files.written("AgentIdentity", "c").expect("it");
    assert_eq!(written["spec"]["state"], "Quarantined");
    assert_eq!(written["spec"]["owner"], "team");
    files
        .set_fields("AgentIdentity", "c", &[(STATE, "Revoked")], false)
        .expect("changed");
    assert_eq!(text(&folder, "c.yaml"), faulty.replace("Quarantined", "Revoked"));
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    files.remove("AgentIdentity", "c", false).expect("removed");
    assert!(!folder.path().join("c.yaml").exists());
    // Nobody else's fault may come in.
    let files = ObjectFiles::read_faulty(&paths).expect("read");
    let error = files.set_fields("AgentIdentity", "b", &[(STATE, "Gone")], false);
    assert!(error.is_err());
}

#[test]
fn files_beside_the_cluster_may_name_what_is_in_it() {
    let folder = folder();
    let paths = [folder.path().to_owned()];
    let policy = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: [elsewhere]}\n  \
        rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
    fs::write(folder.path().join("p.yaml"), policy).expect("written");
    assert!(ObjectFiles::read(&paths).is_err());
    let files = ObjectFiles::read_beside(&paths, true).expect("valid");
    files
        .set_fields("AgentIdentity", "b", &[(STATE, "Active")], false)
        .expect("resumed");
    let files = ObjectFiles::read_faulty_beside(&paths, true).expect("valid");
    files
        .set_fields("AgentIdentity", "b", &[(STATE, "Suspended")], false)
        .expect("suspended");
    let files = ObjectFiles::read_beside(&paths, true).expect("valid");
    let new = IDENTITY.replace("NAME", "new");
    files.add("AgentIdentity", "new", &new, false).expect("added");
}
