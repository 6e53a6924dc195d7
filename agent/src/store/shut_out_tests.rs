//! Whom faulty files shut out, time and again.

use picket_policy::api::v1alpha1::State;

use super::Store;
use super::tests::{Folder, identity, states};

#[test]
fn faulty_files_shut_an_agent_out_each_time_and_never_let_one_in() {
    let folder = Folder::new();
    let in_state = |name: &str, state: &str| {
        identity(name).replace("owner: team", &format!("owner: team\n  state: {state}"))
    };
    let good = || {
        folder.write("a.yaml", &identity("a"));
        folder.write("b.yaml", &in_state("b", "Suspended"));
        folder.write("c.yaml", &identity("c"));
    };
    good();
    let grant = "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: a}\nspec:\n  to: {identities: [a]}\n  \
        upstream: {impersonate: {user: u}}\n  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]\n";
    folder.write("grant.yaml", grant);
    let store = Store::open(&[folder.path().to_owned()]).expect("valid");
    let of = |a: State| {
        let states = [("a", a), ("b", State::Suspended), ("c", State::Active)];
        Vec::from(states.map(|(name, state)| (name.to_owned(), state)))
    };
    for _ in 0..2 {
        folder.write("a.yaml", &in_state("a", "Revoked"));
        folder.write("b.yaml", &in_state("b", "Active"));
        folder.write("c.yaml", &identity("c").replace("owner", "colour"));
        store.reload();
        assert_eq!(states(&store), of(State::Revoked));
        // The grant has the identity's name.
        let statuses = store.statuses();
        let grant = statuses
            .iter()
            .find(|status| status.kind == "AgentGrant")
            .expect("it");
        assert_eq!(
            (grant.state, grant.message.contains("shut out")),
            (None, false),
            "{grant:?}"
        );
        good();
        store.reload();
        assert_eq!(states(&store), of(State::Active));
    }
    // Two of one name are a fault, whichever is the stricter.
    for two in [["Revoked", "Active"], ["Active", "Revoked"]] {
        folder.write("a.yaml", &two.map(|state| in_state("a", state)).join("---\n"));
        store.reload();
        assert_eq!(states(&store), of(State::Revoked), "{two:?}");
        good();
        store.reload();
    }
}
