//! An action in its spellings, and what must hold of each: refused by one rule with one message, or done.
//!
//! In: the spellings as lines of a shell, and what of the world they could change. Out: an error that names the first line whose answer,
//! record or effect is another one.

use anyhow::{Context, Result, ensure};
use picket_tests::audit::Since;
use serde_json::Value;

use crate::lines::Line;
use crate::world::World;

/// An action, each spelling of which is refused where it is about one word, and passes where it is about another.
pub(crate) struct Action {
    /// What is asked, as the message has it.
    pub(crate) asked: &'static str,
    /// The rule that refuses it, as `POLICY/RULE`.
    pub(crate) rule: &'static str,
    /// The rule's message.
    pub(crate) message: &'static str,
    /// The word that the rule is about.
    pub(crate) forbidden: &'static str,
    /// The spellings with a word.
    pub(crate) lines: fn(&str) -> Vec<Line>,
    /// Made ready before each of them.
    pub(crate) prepare: fn(&World, &str) -> Result<()>,
    /// What the action could change.
    pub(crate) state: fn(&World, &str) -> Result<String>,
}

impl Action {
    /// Sees that each spelling is refused with one message, and changes nothing.
    pub(crate) fn is_refused(&self, world: &World) -> Result<()> {
        let mut messages: Vec<String> = Vec::new();
        for line in (self.lines)(self.forbidden) {
            let message = self.refused(world, &line);
            let message = message.with_context(|| format!("{} by: {}", self.asked, line.name()))?;
            ensure!(
                messages.first().is_none_or(|first| *first == message),
                "{}: {message:?} and not {:?}",
                line.name(),
                messages[0]
            );
            messages.push(message);
        }
        ensure!(messages.len() > 1, "there is nothing to compare");
        Ok(())
    }

    /// Sees that one spelling is refused by the rule, for people, programs and the record; gives the message.
    fn refused(&self, world: &World, line: &Line) -> Result<String> {
        (self.prepare)(world, self.forbidden)?;
        let before = (self.state)(world, self.forbidden)?;
        let (picket, server) = (world.picket_log(), world.server_log());
        let done = line.run(world)?;
        ensure!(done.code != 0, "was not refused:\n{}{}", done.out, done.err);
        // JSON may stand inside another text, in which its quotes have backslashes.
        let said = format!("{}{}", done.out, done.err).replace('\\', "");
        let message = self.recorded(&picket).with_context(|| said.clone())?;
        let (policy, rule) = self.rule();
        let begin = format!(
            "agent worker may not {} (policy {policy}, rule {rule}): ",
            self.asked
        );
        ensure!(
            message.starts_with(&begin) && message.contains(self.message),
            "{message}"
        );
        ensure!(said.contains(&message), "no {message:?} in:\n{said}");
        if line.prints_answer {
            let whole = format!("\"message\":\"{message}\"");
            let rule = format!("\"field\":\"{}\"", self.rule);
            for wanted in [&*whole, &rule, "\"reason\":\"policy\"", "\"code\":403"] {
                ensure!(said.contains(wanted), "no {wanted} in:\n{said}");
            }
        }
        let after = (self.state)(world, self.forbidden)?;
        ensure!(before == after, "{before:?} became {after:?}");
        // The API server has written by now what it was asked before the state.
        let reached = server.all(is_change)?;
        ensure!(reached.is_empty(), "the API server saw {reached:?}");
        Ok(message)
    }

    /// The policy and its rule.
    fn rule(&self) -> (&'static str, &'static str) {
        self.rule.split_once('/').unwrap_or_default()
    }

    /// The message of what was denied since, which is of the rule, and one.
    fn recorded(&self, picket: &Since) -> Result<String> {
        let denied = |record: &Value| {
            record["agent"]["identity"] == "worker" && record["decision"]["outcome"] == "deny"
        };
        let message = picket.wait("the denial", denied)?["decision"]["message"].clone();
        let (policy, rule) = self.rule();
        for record in picket.all(denied)? {
            let decision = &record["decision"];
            ensure!(
                decision["policy"] == policy
                    && decision["rule"] == rule
                    && decision["reason"] == "policy"
                    && decision["message"] == message
                    && record["responseStatus"]["code"] == 403,
                "not by {} with {message}: {record:#}",
                self.rule
            );
        }
        Ok(message.as_str().context("no message")?.to_owned())
    }

    /// Sees that each spelling of what no rule is about passes, and leaves the state that it should.
    pub(crate) fn passes_otherwise(&self, world: &World, leaves: fn(&str) -> &str) -> Result<()> {
        for number in 0..(self.lines)("").len() {
            let word = format!("mild-{number}");
            let line = (self.lines)(&word).swap_remove(number);
            let passes = || -> Result<()> {
                (self.prepare)(world, &word)?;
                line.run(world)?.good()?;
                let state = (self.state)(world, &word)?;
                ensure!(state == leaves(&word), "it left {state:?}");
                Ok(())
            };
            if line.is_taken {
                passes().with_context(|| format!("{} by: {}", self.asked, line.name()))?;
            }
        }
        Ok(())
    }
}

/// Whether the API server was asked by the agent for more than an answer. The dry run of a patch stores nothing.
fn is_change(record: &Value) -> bool {
    let verb = record["verb"].as_str().unwrap_or_default();
    let uri = record["requestURI"].as_str().unwrap_or_default();
    record["impersonatedUser"]["username"] == "agent:worker"
        && !["get", "list", "watch"].contains(&verb)
        && !uri.contains("dryRun=All")
}
