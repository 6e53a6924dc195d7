//! Rules about what runs in a container.

use super::*;

/// An exec of a pod with these arguments, one word each.
fn exec(query: &str) -> String {
    format!("POST /api/v1/namespaces/x/pods/y/exec?{query}")
}

const TABLE: &str = "
# What a shell or another program runs is compared too.
yes | command=sh&command=-c&command=cd+/;apk+add+x   | commands: ['apk *']
yes | command=env&command=A=b&command=/sbin/apk&command=add | commands: ['apk *']
no  | command=sh&command=-c&command=ls+-l            | commands: ['apk *']
# What cannot be told matches.
yes | command=sh&command=-c&command=$X+add           | commands: ['apk *']
yes | command=sh&command=-c&command=$(x)             | commands: ['apk *']
no  | command=sh&command=-c&command=ls+$X            | commands: ['apk *']
yes | command=sh&command=-c&command=apk+$X           | commands: ['apk add *']
# An exception is for the line as it came.
no  | command=sh&command=-c&command=ls               | exceptCommands: ['sh -c ls']
yes | command=env&command=id                         | exceptCommands: [id]
yes | command=sh&command=-c&command=id               | exceptCommands: [id]
# A space of an exception is the boundary of two arguments.
no  | command=psql&command=-c&command=x              | exceptCommands: ['psql -c x']
yes | command=psql&command=-c+x                      | exceptCommands: ['psql -c x']
yes | command=psql+-c&command=x                      | exceptCommands: ['psql -c x']
yes | command=psql+-c+x                              | exceptCommands: ['psql -c x']
yes | command=psql%00-c%00x                          | exceptCommands: ['psql -c x']
no  | command=psql&command=-c&command=a+b            | exceptCommands: ['psql -c *']
no  | command=psql&command=-c&command=a+b            | exceptArgv: [[psql, -c, a b]]
yes | command=psql&command=-c&command=a&command=b    | exceptArgv: [[psql, -c, a b]]
yes | command=/bin/psql&command=-c&command=a+b       | exceptArgv: [[psql, -c, a b]]
yes | command=psql                                   | exceptArgv: [[psql, -c, a b]]
yes | command=psql&command=-c&command=a+*            | exceptArgv: [[psql, -c, a b]]
no  | command=psql&command=-c&command=*              | exceptArgv: [[id], [psql, -c, '*']]
no  | command=id                                     | exceptArgv: [[id]], exceptCommands: [ls]
no  | command=ls                                     | exceptArgv: [[id]], exceptCommands: [ls]
no  | command=id                                     | exceptArgv: [[id]], commands: ['*']
yes | command=ls                                     | exceptArgv: [[id]], commands: ['*']
# An environment can change what a program is, so that no exception holds and every line matches.
yes | command=id&env=LD_PRELOAD=/tmp/x               | exceptArgv: [[id]]
yes | command=id&env=PATH=/tmp                       | exceptCommands: [id]
yes | command=id&env=PATH=/tmp                       | commands: [apk]
yes | command=id&env=                                | env: true
yes | command=id&env=A=b                             | env: true
no  | command=id                                     | env: true
no  | command=id&env=A=b                             | env: false
# Streams.
yes | command=id&stdin=true                          | stdin: true
yes | command=id&stdin=1&stdout=1                    | stdin: true
yes | command=id&stdin                               | stdin: true
no  | command=id&stdin=false                         | stdin: true
no  | command=id                                     | stdin: true
yes | command=id                                     | stdin: false
yes | command=id&tty=true                            | tty: true
no  | command=id&stdin=true                          | tty: true
no  | command=id&stdin=true                          | stdin: true, tty: true
yes | command=id&stdin=true&tty=true                 | stdin: true, tty: true
yes | command=id&stdin=true                          | stdin: true, commands: [id]
no  | command=ls&stdin=true                          | stdin: true, commands: [id]
";

#[test]
fn rules_see_what_an_exec_runs() {
    for (fires, query, matches) in rows(TABLE) {
        let query = query.replace(';', "%3B").replace('$', "%24");
        let set = compile(&[&grant(ALL), &deny(&format!("resources: [pods/exec], {matches}"))]);
        for line in [exec(&query), exec(&query).replace("POST", "GET")] {
            assert_eq!(!passes(&set, &line), fires, "{matches} on {line}");
        }
    }
}

#[test]
fn an_attach_has_streams_and_no_known_command() {
    let attach = |query: &str| format!("GET /api/v1/namespaces/x/pods/y/attach?{query}");
    for (matches, query, fires) in [
        ("stdin: true", "stdin=true", true),
        ("stdin: true", "stdout=true", false),
        ("stdin: true, commands: [apk]", "stdin=true", true),
        ("exceptArgv: [[id]]", "stdout=true", true),
        ("env: true", "env=A=b", false),
    ] {
        let set = compile(&[
            &grant(ALL),
            &deny(&format!("resources: [pods/attach], {matches}")),
        ]);
        assert_eq!(!passes(&set, &attach(query)), fires, "{matches} on {query}");
    }
    // What no session is has no streams.
    let set = compile(&[&grant(ALL), &deny("resources: [pods/exec], stdin: false")]);
    assert!(passes(&set, "GET /api/v1/namespaces/x/pods/y/log"));
}

#[test]
fn the_policies_about_exec_hold() {
    let no_exec = include_str!("../../../../../deploy/examples/policies/no-exec.yaml");
    let no_shell = include_str!("../../../../../deploy/examples/policies/no-shell.yaml");
    let set = |text: &str| compile(&[&grant(ALL), "---\n", text]);
    let (no_exec, no_shell) = (set(no_exec), set(no_shell));
    let debug =
        "PATCH /api/v1/namespaces/x/pods/y/ephemeralcontainers content-type:application/json-patch+json";
    for (line, by_exec, by_shell) in [
        (exec("command=date"), "no-sessions", ""),
        (exec("command=ls&command=-l&command=/var/log"), "no-sessions", ""),
        (exec("command=date&stdin=true"), "no-sessions", "no-input"),
        (
            exec("command=ls&command=-l+/var/log"),
            "no-sessions",
            "listed-commands",
        ),
        (exec("command=/bin/date"), "no-sessions", "listed-commands"),
        (exec("command=sh"), "no-sessions", "listed-commands"),
        (exec("command=./run.sh"), "no-sessions", "listed-commands"),
        (
            exec("command=sh&command=-c&command=date"),
            "no-sessions",
            "listed-commands",
        ),
        (
            exec("command=date&env=LD_PRELOAD=x"),
            "no-sessions",
            "listed-commands",
        ),
        (
            "GET /api/v1/namespaces/x/pods/y/attach?stdin=true".to_owned(),
            "no-sessions",
            "no-input",
        ),
        (
            "GET /api/v1/namespaces/x/pods/y/attach?stdout=true".to_owned(),
            "no-sessions",
            "",
        ),
        (debug.to_owned(), "no-debug-containers", "listed-commands"),
        ("GET /api/v1/namespaces/x/pods/y/log".to_owned(), "", ""),
    ] {
        for (set, rule) in [(&no_exec, by_exec), (&no_shell, by_shell)] {
            let fired = match decide_as(set, "fixer", &line) {
                Decision::Deny(denial) => denial.rule().unwrap_or_default().to_owned(),
                _ => String::new(),
            };
            assert_eq!(fired, rule, "{line}");
        }
    }
}
