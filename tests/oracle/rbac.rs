//! RBAC's own words mean the same: a role as a grant allows what the API server's RBAC authorizer allows by the role.
//!
//! In: the roles of every cluster, and generated ones, bound everywhere or in some namespaces. Out: more than 100,000 requests
//! that both judge alike, but for differences that have a name.

use anyhow::{Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::judge::{Question, Role, cluster_roles, judge};
use crate::random::Random;
use crate::roles::{Agents, generated, some_namespaces};
use crate::tally::Tally;
use crate::{requests, vocabulary};

pub(crate) const TESTS: &[Test] = tests! {
    the_roles_of_every_cluster,
    generated_roles,
};

/// Requests for each role of a cluster, for each generated one, and how many of those there are.
const FOR_CLUSTER_ROLE: usize = 700;
const FOR_GENERATED_ROLE: usize = 200;
const GENERATED: usize = 750;

/// As many requests at least get the same verdict from both.
const ALIKE: usize = 100_000;

/// Roles that people bind in a namespace.
const BOUND_IN_NAMESPACES: [&str; 3] = ["admin", "edit", "view"];

fn the_roles_of_every_cluster() -> Result<()> {
    let mut random = Random::new(1);
    let roles = cluster_roles()?;
    ensure!(roles.len() >= 60, "{} roles", roles.len());
    let mut questions = Vec::new();
    for role in &roles {
        questions.push(question(&mut random, role, Vec::new(), FOR_CLUSTER_ROLE));
        if BOUND_IN_NAMESPACES.contains(&role.name.as_str()) {
            let namespaces = vec!["team-a".to_owned(), vocabulary::NAMESPACES[3].to_owned()];
            questions.push(question(&mut random, role, namespaces, FOR_CLUSTER_ROLE));
        }
    }
    compare(&questions, "roles of every cluster")?;
    Ok(())
}

fn generated_roles() -> Result<()> {
    let mut random = Random::new(2);
    let mut questions = Vec::new();
    for number in 0..GENERATED {
        let namespaces = if random.once_in(4) {
            some_namespaces(&mut random)
        } else {
            Vec::new()
        };
        let role = generated(&mut random, number, !namespaces.is_empty());
        questions.push(question(&mut random, &role, namespaces, FOR_GENERATED_ROLE));
    }
    let tally = compare(&questions, "generated roles")?;
    ensure!(tally.agreed >= ALIKE, "too few are alike: {tally}");
    Ok(())
}

fn question(random: &mut Random, role: &Role, namespaces: Vec<String>, count: usize) -> Question {
    Question {
        requests: (0..count)
            .map(|_| requests::of_rules(random, &role.rules))
            .collect(),
        rules: role.rules.clone(),
        namespaces,
    }
}

fn compare(questions: &[Question], about: &str) -> Result<Tally> {
    let (mut tally, mut refused) = (Tally::default(), Vec::new());
    judge(questions, |question, verdicts| {
        match Agents::with_grant(&question.rules, &question.namespaces) {
            Ok(agents) => tally.compare(&agents, question, verdicts)?,
            // All of them are told at once.
            Err(error) => refused.push(format!("{error:#}")),
        }
        Ok(())
    })?;
    ensure!(refused.is_empty(), "roles that are no grants: {refused:#?}");
    eprintln!("{about}: {tally}");
    Ok(tally)
}
