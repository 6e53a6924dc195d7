//! What holds of any rules and any request, tried on a fixed walk; tests/fuzz walks further.

use super::*;

/// A fixed pseudo-random walk (xorshift64).
struct Walk(u64);

impl Walk {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("small")
    }

    fn of(&mut self, several: &[&'static str]) -> &'static str {
        several[self.below(several.len())]
    }

    /// The match of a rule, of parts that go together.
    fn matches(&mut self) -> String {
        let resources = self.of(&[
            "'*'",
            "pods",
            "pods/*",
            "pods/exec",
            "'*/status'",
            "secrets",
            "s*",
            "nodes",
        ]);
        let rest = self.of(&[
            "",
            ", verbs: [get]",
            ", verbs: [delete, list]",
            ", verbs: [create, update]",
            ", verbs: [get, delete], names: [web*]",
            ", apiGroups: ['']",
            ", namespaces: [team-?]",
        ]);
        format!("resources: [{resources}]{rest}")
    }

    fn request(&mut self) -> (&'static str, String) {
        let method = self.of(&["GET", "POST", "PUT", "PATCH", "DELETE"]);
        let place = self.of(&["", "/namespaces/team-a", "/namespaces/kube-system"]);
        let object = self.of(&[
            "pods",
            "pods/web",
            "pods/web/exec?command=ls",
            "pods/web/eviction",
            "secrets",
            "secrets/web",
            "services/web/status",
            "nodes/web",
            "pods?watch=true",
        ]);
        (method, format!("/api/v1{place}/{object}"))
    }
}

/// `%XX` for every other letter of the path.
fn respelt(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let letters = path.chars().enumerate();
    let path: String = letters
        .map(|(at, letter)| match letter {
            '/' => "/".to_owned(),
            letter if at % 2 == 0 => format!("%{:02x}", u32::from(letter)),
            letter => letter.to_string(),
        })
        .collect();
    format!("{path}/?&{}&&", query.replace('a', "%61"))
}

fn verdict(set: &PolicySet, line: &str) -> Result<String, (Option<String>, Option<String>)> {
    match decide_as(set, "fixer", line) {
        Decision::Permit(permit) => Ok(permit.user().username().to_owned()),
        Decision::Deny(denial) => Err((
            denial.policy().map(str::to_owned),
            denial.rule().map(str::to_owned),
        )),
        Decision::Ask(ask) => panic!("{line}: {:?}", ask.rules()),
    }
}

#[test]
fn a_further_rule_never_allows_more_and_no_other_spelling_passes() {
    let mut walk = Walk(0x9e37_79b9_7f4a_7c15);
    let rule = |action: &str, matches: &str| {
        format!("rules: [{{name: r, action: {action}, message: No., match: {{{matches}}}}}]")
    };
    let (mut permitted, mut denied) = (0, 0);
    for _ in 0..100 {
        let given = walk.of(&[
            ALL,
            "[{verbs: [get, create], apiGroups: [''], resources: [pods, pods/exec]}]",
        ]);
        let (first, second) = (walk.matches(), walk.matches());
        let one = policy("one", &rule("Deny", &first));
        let two = policy("two", &rule("Deny", &second));
        let hint = policy("two", &rule("Warn", &second));
        let given = grant(given);
        let sets = [
            [given.as_str(), one.as_str(), ""],
            [given.as_str(), one.as_str(), hint.as_str()],
            [given.as_str(), one.as_str(), two.as_str()],
            [two.as_str(), one.as_str(), given.as_str()],
        ];
        let [base, warned, both, turned] =
            sets.map(|parts| try_compile(&format!("{BASE}{}", parts.concat())));
        let (Ok(base), Ok(warned), Ok(both), Ok(turned)) = (base, warned, both, turned) else {
            continue;
        };
        for _ in 0..8 {
            let (method, target) = walk.request();
            let line = format!("{method} {target}");
            let alone = verdict(&base, &line);
            let with = verdict(&both, &line);
            assert!(with.is_err() || with == alone, "{line}: {first} and {second}");
            assert_eq!(alone, verdict(&warned, &line), "{line}: {second}");
            assert_eq!(with, verdict(&turned, &line), "{line}: {first} and {second}");
            let spelling = format!("{method} {}", respelt(&target));
            assert_eq!(with, verdict(&both, &spelling), "{spelling}");
            *if with.is_ok() { &mut permitted } else { &mut denied } += 1;
        }
    }
    assert!(
        permitted > 10 && denied > 10,
        "{permitted} permitted, {denied} denied"
    );
}
