//! What an exec comes to, and what an exception names.

use super::*;

fn exec(argv: &[&str]) -> Exec {
    Exec {
        command: argv.iter().map(|word| (*word).to_owned()).collect(),
        ..Exec::default()
    }
}

/// Whether a rule with this glob is about the arguments.
fn fires(glob: &str, argv: &[&str]) -> bool {
    let exec = exec(argv);
    match Command::new(&exec) {
        Command::Unknown => true,
        Command::Line(line) => line.matches(&[Glob::text(glob).expect(glob)]),
    }
}

/// What nothing but an unknown matches.
const NO_LINE: &str = "no such line";

#[test]
fn programs_that_run_others_hide_nothing() {
    for argv in [
        &["apk", "add", "x"][..],
        &["/sbin/apk", "add", "x"],
        &["sh", "-c", "apk add x"],
        &["/bin/bash", "-lc", "apk add x"],
        &["sh", "-ec", "apk add x"],
        &["sh", "-c", "--", "apk add x"],
        &["sh", "-c", "-e", "apk add x", "name"],
        &["bash", "-euo", "pipefail", "-c", "apk add x"],
        &["bash", "-o", "pipefail", "-c", "apk add x"],
        &["bash", "--norc", "--rcfile", "/x", "-c", "apk add x"],
        &["zsh", "-f", "-c", "apk add x"],
        &["env", "apk", "add", "x"],
        &["/usr/bin/env", "-i", "A=b", "C=d", "apk", "add", "x"],
        &["env", "-", "A=b", "apk", "add", "x"],
        &["env", "-S", "apk add", "x"],
        &["env", "-vSapk add x"],
        &["env", "-S", "-i A=b apk add x"],
        &["env", "--split-string=apk add x"],
        &["nohup", "apk", "add", "x"],
        &["nice", "-n", "5", "apk", "add", "x"],
        &["nice", "-n5", "--", "apk", "add", "x"],
        &["nice", "-10", "apk", "add", "x"],
        &["nice", "--adjustment=5", "apk", "add", "x"],
        &["ionice", "-c", "3", "apk", "add", "x"],
        &["timeout", "5", "apk", "add", "x"],
        &[
            "timeout",
            "-s",
            "KILL",
            "-k5",
            "--foreground",
            "5s",
            "apk",
            "add",
            "x",
        ],
        &["setsid", "-w", "apk", "add", "x"],
        &["stdbuf", "-oL", "-e", "0", "apk", "add", "x"],
        &["time", "-p", "apk", "add", "x"],
        &["sudo", "-u", "root", "-E", "A=b", "apk", "add", "x"],
        &["sudo", "--user=root", "--", "apk", "add", "x"],
        &["doas", "-u", "root", "apk", "add", "x"],
        &["su", "-c", "apk add x"],
        &["su", "-", "root", "-c", "apk add x"],
        &["su", "root", "--command=apk add x"],
        &["su", "root", "-s", "/bin/sh", "-c", "apk add x"],
        &["su", "root", "--", "-c", "apk add x"],
        &["runuser", "-u", "root", "--", "apk", "add", "x"],
        &["runuser", "-l", "root", "-c", "apk add x"],
        &["chroot", "/host", "apk", "add", "x"],
        &["chroot", "--userspec=0", "/host", "/sbin/apk", "add", "x"],
        &["nsenter", "-t", "1", "-m", "-u", "--", "apk", "add", "x"],
        &["nsenter", "--target", "1", "--mount", "apk", "add", "x"],
        &["unshare", "-fp", "--mount-proc", "apk", "add", "x"],
        &["busybox", "apk", "add", "x"],
        &["busybox.static", "sh", "-c", "apk add x"],
        &["toybox", "nice", "apk", "add", "x"],
        &["xargs", "-n1", "apk", "add", "x"],
        &["xargs", "-I{}", "-P", "2", "apk", "add", "{}"],
        &["xargs", "-0", "--max-args", "1", "apk", "add"],
        &["xargs", "apk"],
        &["find", ".", "-name", "x", "-exec", "apk", "add", "{}", ";"],
        &[
            "find", ".", "-exec", "ls", "{}", "+", "-execdir", "apk", "add", "x", ";",
        ],
        &["find", ".", "-name", "-exec", "-exec", "apk", "add", "x", ";"],
        &["su", "-c", "--", "root", "-c", "apk add x"],
        &["env", "-S", "A=b", "apk", "add", "x"],
        &[
            "find",
            ".",
            "-exec",
            "ls",
            ";",
            "-ok",
            "sh",
            "-c",
            "apk add x",
            ";",
        ],
        &["watch", "-n1", "apk add x"],
        &["watch", "-n", "1", "apk", "add", "x"],
        &["watch", "-x", "apk", "add", "x"],
        &["script", "-qc", "apk add x", "/dev/null"],
        &["script", "/dev/null", "apk", "add", "x"],
        &["sh", "-c", "env nice sh -c 'busybox apk add x'"],
        &["sh", "-c", "cd /; /sbin/apk\tadd  x"],
        &["sh", "-c", "true && apk add x || false"],
        &["sh", "-c", "yes | apk add x | cat"],
        &["sh", "-c", "sleep 1 & apk add x"],
        &["sh", "-c", "true\napk add x\n"],
        &["sh", "-c", "A=b C=\"$D\" apk add x"],
        &["sh", "-c", "a'p'\"k\" ad\\d x"],
        &["sh", "-c", "ap\\\nk add x"],
        &["sh", "-c", "if true; then apk add x; fi"],
        &["sh", "-c", "while ! apk add x; do :; done"],
        &["sh", "-c", "for a in b c; do apk add x; done"],
        &["sh", "-c", "for a do apk add x; done", "sh", "b"],
        &["sh", "-c", "for a; do apk add x; done", "sh", "b"],
        &["sh", "-c", "for a\ndo apk add x; done", "sh", "b"],
        &["sh", "-c", "(cd /; apk add x)"],
        &["sh", "-c", "{ apk add x; }"],
        &["sh", "-c", ">/dev/null 2>&1 apk add x"],
        &["sh", "-c", "apk 2>/dev/null add x"],
        &["sh", "-c", "eval apk 'add x'"],
        &["sh", "-c", "exec -a ls apk add x"],
        &["sh", "-c", "command -p apk add x"],
        &["sh", "-c", "# none\napk add x # none"],
        &["sh", "-c", "apk add $X"],
        &["sh", "-c", "apk $X"],
        &["sh", "-c", "echo '#'; apk add x"],
        // What reads the arguments on the way to a container may take blanks off.
        &["apk", "", "add", "x"],
        &["", "sh", "-c", "apk add x"],
        &[" sh", "-c", "apk add x"],
    ] {
        assert!(fires("apk add*", argv), "{argv:?}");
    }
}

#[test]
fn options_that_hold_a_command_hide_nothing() {
    for argv in [
        &["split", "--filter=apk add x"][..],
        &["split", "-l", "1", "--filter", "apk add x", "file"],
        &["split", "file", "--fil=cd /; apk add x"],
        &["split", "--filter=true", "--filter=apk add x"],
        &["split", "-t", "--", "--filter=apk add x"],
        &["sh", "-c", "yes | split --filter='env apk add x' -"],
    ] {
        assert!(fires("apk add*", argv), "{argv:?}");
    }
    for argv in [
        &["sort", "--compress-program=apk", "file"][..],
        &["sort", "-S1", "--compress-program", "/sbin/apk", "file"],
        &["sort", "file", "--comp=apk"],
        &["sort", "--compress-program=gzip", "--compress-program=apk"],
    ] {
        assert!(fires("apk", argv), "{argv:?}");
        assert!(fires("apk -d", argv), "{argv:?}");
        assert!(!fires("apk add*", argv), "{argv:?}");
    }
    for argv in [
        &["split", "-b", "1m", "apk add", "x"][..],
        &["split", "--filter=gzip > $FILE.gz", "file"],
        &["sort", "-t,", "-k2", "apk add"],
        &["sort", "--check", "file"],
        &["sort", "--compress-program=gzip", "file"],
        &["sh", "-c", "sort file | uniq"],
    ] {
        assert!(!fires("apk*", argv), "{argv:?}");
    }
    for argv in [
        &["split", "--filter"][..],
        &["split", "--filter=$X add x"],
        &["sort", "--compress-program=apk add x"],
        &["sh", "-c", "sort $X"],
        &["sh", "-c", "split \"$X\""],
        &["xargs", "sort"],
    ] {
        assert!(fires(NO_LINE, argv), "{argv:?}");
    }
}

#[test]
fn builtins_that_run_text_hide_nothing() {
    for script in [
        "mapfile -C 'apk add x' -c 1 lines < file",
        "mapfile -tC 'cd /; apk add' lines",
        "readarray -c1 -Capk\\ add lines",
        "builtin mapfile -C 'apk add' -c 1",
        "time ! apk add x",
        "true; - apk add x",
    ] {
        assert!(fires("apk add*", &["bash", "-c", script]), "{script}");
    }
    for script in [
        "mapfile -t lines < file; echo \"${lines}\"",
        "readarray -n 5 lines",
        "mapfile -C 'echo line' -c 1",
        "hash ls; test -f 'a[0]'; unset X 'a[1]'; time ls; jobs -l; wait -n; exit 1",
        "declare 'a[0]=1'; printf -v 'a[1]' x; RANDOM=42 SECONDS=0; read -p 'Go on [y/n]? ' X",
        "set -eu; set -- key \"$X\"; shopt -s nullglob; [ \"$X\" -eq 1 ]; [ a = b ]; echo \"$X\">file",
        "print -r -- \"$X\"; awk -v a=$X '{ n[$1]++ }' file; grep $X 'ab[cd]'; ulimit -c unlimited; export A=$X B='a[1]'",
        "printf '%s\\n' \"$X\"; read -r LINE; wait",
    ] {
        assert!(!fires("apk*", &["bash", "-c", script]), "{script}");
    }
    for script in [
        "mapfile -C \"$X\" lines",
        "mapfile $X lines",
        "mapfile -C 'true #' -d ''",
        "mapfile -C \"echo 'x\" lines",
        "compgen -C 'apk add x'",
        "hash -p /sbin/apk ls; ls add x",
        "emulate sh -c 'apk add x'",
        "time { apk add x; }",
        "time -p coproc apk add x",
        "{ true; } always { apk add x; }",
        "namespace n { apk add x; }",
        "for a b in c d; do apk add x; done",
        "let 'a[$(apk add x)]=1'",
        "let \"$X\"",
        "let i=i+1",
        "integer i; i=$X",
        "x='a['; x+='$(apk add x)]'; let x",
        "x=y; declare 'b[x]=1'",
        "x=y; declare -a 'b[x]'",
        "x=y; export 'b[x]+=1'",
        "x=y; printf -v 'b[x]' 1",
        "x=y; [ -v 'b[x]' ]",
        "x=y; test -v 'b[x]'",
        "x=y; unset 'b[x]'",
        "x=y; read 'b[x]'",
        "x=y; mapfile 'b[x]'",
        "x=y; wait -np 'b[x]'",
        "x=y; ls {b[x]}>file",
        "(( x ))",
        "echo $(( x ))",
        "echo $[ x ]",
        "echo ${b[x]}",
        "for ((x; ; )); do :; done",
        "[[ x -eq 1 ]]",
        "[ x -eq 1 ]",
        "[ 1 -lt x ]",
        "exit x",
        "break x",
        "printf %d 'a[$(apk add x)]'",
        "print -P 'x'",
        "print -v PS4 x",
        "print -u 'a[$(apk add x)]' x",
        "print -r $X -P x",
        "printf %d $X 'a[$(apk add x)]'",
        "declare a=$X x='a[$(apk add x)]'; [ -v b ]",
        "declare a=$X 'b[x]=1'",
        "ulimit -n x",
        "exit -x",
        "declare -a a=$X 'b=($(apk add x))'",
        "jobs -x apk add x",
        "jobs $X",
        "hash $X",
        "printf -v $X x",
        "unset $X",
        "eval $X",
        "eval echo $X",
        "set -A PS4 '$(apk add x)'",
        "set +A PS4 '$(apk add x)'",
        "test -t 'a[$(apk add x)]'",
        "typeset 'a.b[$(apk add x)]=1'",
        "read 'a.b[$(apk add x)]'",
        "unset 'a.b[$(apk add x)]'",
        "declare -a 'b=(`apk add x`)'",
        "set -o history -H\n: apk add x\n!!:1-3",
        "set -H",
        "set $X",
        "shopt -so histexpand",
        "set -k; bash -c : BASH_ENV='$(apk add x)'",
        "set -o keyword",
        "hash ls=/sbin/apk; ls add x",
        "enable -f /tmp/x ls",
        "bind -x '\"a\": apk add x'",
        "zpty x apk add x",
        "[ -v 'a[$(apk add x)]' ]",
        "[ -v \"$X\" ]",
        "test -v 'a[`apk add x`]'",
        "unset 'a[$(apk add x)]'",
        "exit 'a[$(apk add x)]'",
        "declare -i n='a[$(apk add x)]'",
        "declare -i n; n=$X",
        "export PS$X",
        "declare -$X r=PS4",
    ] {
        assert!(fires(NO_LINE, &["bash", "-c", script]), "{script}");
    }
}

#[test]
fn variables_that_shells_run_hide_nothing() {
    for argv in [
        &["bash", "-c", "PROMPT_COMMAND='apk add x'; bash -i"][..],
        &["bash", "-c", "export PROMPT_COMMAND='true; apk add x'"],
        &["env", "PROMPT_COMMAND=apk add x", "bash", "-i"],
        &["sudo", "PROMPT_COMMAND=apk add x", "bash", "-i"],
        &["env", "-S", "A=b", "PROMPT_COMMAND=apk add x", "bash"],
    ] {
        assert!(fires("apk add*", argv), "{argv:?}");
    }
    for script in [
        "PS4='$(apk add x)'; set -x; :",
        "PS4='$(apk add x)' bash -xc :",
        "PS4+='`apk add x`'",
        "PS4='\\044(apk add x)'",
        "PS1='$(apk add x)' bash -i",
        "PS4=$X",
        "A=b PS4='$(apk add x)' bash -xc :",
        "if PS4='$(apk add x)'; then set -x; fi",
        "export PS4='$(apk add x)'",
        "export 'PS4=$(apk add x)'",
        "export -- PS4='$(apk add x)'",
        "command export PS4='$(apk add x)'",
        "export A=$B PS4='$(apk add x)'",
        "export $X",
        "declare -x PS4='$(apk add x)'",
        "declare -n r=PS4; r='$(apk add x)'",
        "typeset 'PS4[0]=$(apk add x)'",
        "readonly PS4='$(apk add x)'",
        "f=x local PS4='$(apk add x)'",
        "for PS4 in '$(apk add x)'; do set -x; :; done",
        "for PS4 do set -x; :; done",
        "for PS4; do set -x; :; done",
        "select PS4 in '$(apk add x)'; do :; done",
        "printf -v PS4 '%s' '$(apk add x)'",
        "printf -vPS4 x",
        "printf $X",
        "read -r PS4 < file; set -x",
        "read $X",
        "read -raPS4 < file",
        "mapfile PS4 < file",
        "getopts a PS4",
        "ENV='$(apk add x)' sh -i",
        "export ENV=$X",
        "BASH_ENV='$(apk add x)' bash -c :",
        "BASH_ENV=`x` bash -c :",
        "PROMPT_COMMAND=$X",
        "SHELL=/sbin/apk split --filter='add x'",
        "NULLCMD=apk; > file",
        "RANDOM='a[$(apk add x)]'",
        "RANDOM=$X",
        "HISTCMD=x",
        "OPTIND='a[`apk add x`]'; getopts a b",
        "x='a[$(apk add x)]'",
        "for x in 'a[$(apk add x)]'; do :; done",
        "for PS4 in $X; do set -x; :; done",
        "export x='a[$(apk add x)]'",
        "x+='$(apk add x)]'",
        "read SECONDS",
        "for RANDOM do :; done",
        "declare 'BASH_CMDS[ls]=/sbin/apk'; ls add x",
        "declare 'BASH_CMDS[0]=/sbin/apk'; 0 add x",
        "typeset 'BASH_CMDS[ls]=/sbin/apk'; ls add x",
        "printf -v 'BASH_CMDS[0]' /sbin/apk; 0 add x",
        "read 'BASH_CMDS[0]'; 0 add x",
        "shopt -s expand_aliases\ndeclare 'BASH_ALIASES[0]=apk add x'\n0",
        "typeset 'aliases[0]=apk add x'",
        "read -A galiases",
        "read -A saliases",
        "export 'functions[0]=apk add x'",
        "typeset 'commands[0]=/sbin/apk'",
        "typeset 'builtins[0]=x'",
        "typeset 'dis_aliases[0]=x'",
        "SHELLOPTS=keyword bash -c :",
        "BASHOPTS=x bash -c :",
        "histchars=x",
        "MAILPATH='/f?$(apk add x)' bash -i",
        "LD_PRELOAD=/tmp/x ls",
        "BASH_FUNC_ls=x",
    ] {
        assert!(fires(NO_LINE, &["bash", "-c", script]), "{script}");
    }
    for argv in [
        &["env", "BASH_ENV=$(apk add x)", "bash", "-c", ":"][..],
        &["env", "PS4=$(apk add x)", "bash", "-xc", ":"],
        &["env", "-i", "A=b", "ENV=`apk add x`", "sh", "-i"],
        &["env", "BASH_FUNC_ls%%=() { apk add x; }", "bash", "-c", "ls"],
        &["env", "ls=() { apk add x; }", "bash", "-c", "ls"],
        &["busybox", "env", "ENV=$(apk add x)", "sh", "-i"],
        &["sudo", "-E", "LD_PRELOAD=/tmp/x", "ls"],
        &["env", "RANDOM=a[$(apk add x)]", "ls"],
        &["env", "x=a[$(apk add x)]", "ls"],
        &["bash", "-c", "ls $1", "sh", "a[$(apk add x)]"],
    ] {
        assert!(fires(NO_LINE, argv), "{argv:?}");
    }
    for argv in [
        &["env", "ENV=prod", "ls"][..],
        &["env", "PS1=> ", "sh"],
        &["env", "SHLVL=1", "COLUMNS=80", "X=a[1]", "Y=$", "ls"],
        &["env", "SHELL=/bin/bash", "ls"],
        &["bash", "-c", "ENV=prod ls; export ENV=prod"],
        &["bash", "-c", "for ENV in dev prod; do ls \"$ENV\"; done"],
        &["bash", "-c", "export A='$(apk add x)' B=$C; ls"],
        &["bash", "-c", "echo PS4 'PS4=$(apk add x)'"],
        &["bash", "-c", "BASH_ENV=/etc/env bash -c ls"],
        &["bash", "-c", "declare -A map; local x=1; readonly Y=$X"],
    ] {
        assert!(!fires("apk*", argv), "{argv:?}");
    }
}

#[test]
fn what_is_known_to_run_another_program_is_left_alone() {
    for argv in [
        &["ls", "apk", "add"][..],
        &["echo", "sh -c 'apk add'"],
        &["sh", "-c", "echo apk add x"],
        &["sh", "-c", "echo 'a; apk add x'"],
        &["sh", "-c", "echo \"a; apk add x\""],
        &["sh", "-c", "echo a\\; apk add x"],
        &["sh", "-c", "echo a # ; apk add x"],
        &["sh", "-c", "ls $HOME; cat \"${FILE}\" > \"$1\""],
        &["sh", "-c", "ls *.log"],
        &["sh", "-c", "[ -f /x ] && ls"],
        &["sh", "-c", "for a do ls \"$a\"; done", "sh", "apk"],
        &["sh", "-c", "ls; exit $?"],
        &["sh", "-c", "date", "apk", "add"],
        &["bash", "-ic", "ls -l"],
        &["zsh", "-o", "pipefail", "-c", "ls > '!x' & ls"],
        &["nc", "-z", "-w1", "db", "5432"],
        &["sh", "-c", ". /etc/profile; ls /proc/self/environ"],
        &["sh", "/run.sh", "-c", "apk add x"],
        &["sh"],
        &["env"],
        &["env", "A=b"],
        &["env", "-u", "apk", "ls"],
        &["nice", "-n", "5", "ls", "apk"],
        &["ip", "addr", "show", "dev", "eth0"],
        &["timeout", "5", "ls", "apk"],
        &["xargs", "ls"],
        &["find", ".", "-name", "apk add", "-exec", "ls", "{}", ";"],
        &["kubectl", "exec", "-c", "apk add"],
        &["python3", "-c", "apk add"],
    ] {
        assert!(!fires("apk add*", argv), "{argv:?}");
    }
}

#[test]
fn what_cannot_be_told_counts_as_every_line() {
    let deep = ["nohup"; 9];
    let many = "true;".repeat(300);
    let long = "x".repeat(40_000);
    for argv in [
        &["bash", "-rcfile", "/dev/null", "-c", "apk add x"][..],
        &["bash", "-init-file", "/dev/null", "-c", "apk add x"],
        &["linux64", "apk", "add", "x"],
        &["bash", "+O", "interactive_comments", "-ic", "true #; apk add x"],
        &["bash", "-ic", "true #; apk add x"],
        &["bash", "-ic", "shopt -u interactive_comments\ntrue #; apk add x"],
        &["bash", "--interactive", "-c", "true #; apk add x"],
        &["bash", "-c", "shopt -u interactive_comments\ntrue #; apk add x"],
        &["zsh", "-o", "NO_INTERACTIVE_COMMENTS", "-c", "true #; apk add x"],
        &["zsh", "-c", "true #; apk add x"],
        &["su", "-s", "/bin/zsh", "root", "-c", "true #; apk add x"],
        &["bash", "-Hc", "ls"],
        &["bash", "-kc", "bash -c : 'BASH_ENV=$(apk add x)'"],
        &["bash", "-o", "keyword", "-c", "ls"],
        &["bash", "-o", "history", "-ic", ": apk add x\n!!:1-3"],
        &["zsh", "-c", "true &!apk add x"],
        &["zsh", "-c", ">! /dev/null apk add x"],
        &["zsh", "-c", ">>! /dev/null apk add x"],
        &["zsh", "-c", "x='apk add x'; $=x"],
        &["zsh", "-c", "x='/sbin/ap?'; $~x add x"],
        &["zsh", "-c", "x=apk; $^x add x"],
        &["zsh", "-c", "$+x"],
        &["zsh", "-c", "$:x"],
        &["zsh", "-o", "extendedglob", "-c", "/sbin/^ls add x"],
        &["env", "x=\napk add x\n", "bash", "/proc/self/environ"],
        &["sh", "-c", ". /proc/self/cmdline", "\napk add x\n"],
        &["bash", "-c", "cd /proc/self; source environ"],
        &[
            "env",
            "x=\napk add x\n",
            "ENV=/proc/self/environ",
            "bash",
            "-c",
            "ls",
        ],
        &["nc", "-l", "-p", "1", "-e", "/sbin/apk", "add", "x"],
        &["ncat", "--sh-exec", "apk add x", "-l"],
        &["sh", "-c", "nc $X"],
        &["socat", "-", "EXEC:apk add x"],
        &["openvt", "--", "apk", "add", "x"],
        &["ssh-agent", "apk", "add", "x"],
        &["execlineb", "-c", "apk add x"],
        &["foreground", "apk", "add", "x", "", "ls"],
        &["s6-envdir", "/tmp", "apk", "add", "x"],
        &["perf", "stat", "apk", "add", "x"],
        &["dbus-run-session", "apk", "add", "x"],
        &["xvfb-run", "apk", "add", "x"],
        &["gdb", "--args", "apk", "add", "x"],
        &["expect", "-c", "spawn apk add x"],
        &["run-parts", "/tmp/x"],
        &["start-stop-daemon", "-S", "--exec", "/sbin/apk", "--", "add"],
        &["systemd-run", "apk", "add", "x"],
        &["machinectl", "shell", "x", "/sbin/apk", "add", "x"],
        &["at", "-f", "x", "now"],
        &["batch"],
        &["crontab", "x"],
        &["ip", "netns", "exec", "x", "apk", "add", "x"],
        &["ip", "-4", "vrf", "ex", "x", "apk", "add", "x"],
        &["sh", "-c", "ip netns $X"],
        &["sh", "-c", "xargs $X"],
        &["sh", "-c", "watch $X"],
        &["sh", "-c", "su $X"],
        &["sh", "-c", "su -c ls $X"],
        &["sh", "-c", "script $X"],
        &["script", "/dev/null", "ls", "-c", "apk add x"],
        &["zsh", "-c", "python<-> x"],
        &["bash", "--dump-strings", "-c", "ls"],
        &["bash", "-c-x", "ls"],
        &["proxychains4", "apk", "add", "x"],
        &["/usr/bin/ld.so", "/sbin/apk", "add", "x"],
        &["softlimit", "-m", "1", "apk", "add", "x"],
        &["sh", "-c", "$X add x"][..],
        &["sh", "-c", "\"$X\""],
        &["sh", "-c", "$(echo apk) add x"],
        &["sh", "-c", "echo $(apk add x)"],
        &["sh", "-c", "echo `apk add x`"],
        &["sh", "-c", "echo \"`apk add x`\""],
        &["sh", "-c", "echo \"$(apk add x)\""],
        &["sh", "-c", "echo ${X:-$(apk add x)}"],
        &["sh", "-c", "echo 'odd"],
        &["sh", "-c", "echo \"odd"],
        &["sh", "-c", "echo odd\\"],
        &["sh", "-c", "ls)"],
        &["sh", "-c", "(ls"],
        &["sh", "-c", "ls >\napk add x"],
        &["sh", "-c", "for; do ls; done"],
        &["sh", "-c", "for $X in a; do ls; done"],
        &["sh", "-c", "/sbin/a?k add x"],
        &["sh", "-c", "/sbin/ap* add x"],
        &["sh", "-c", "{apk,add,x}"],
        &["sh", "-c", "$'\\x61pk' add x"],
        &["sh", "-c", "f() { apk add x; }; f"],
        &["sh", "-c", "case x in x) apk add x;; esac"],
        &["bash", "-c", "cat <(apk add x)"],
        &["sh", "-c", "sh <<EOF\napk add x\nEOF"],
        &["bash", "-c", "ls &>x apk add x"],
        &["bash", "-c", "function f { apk add x; }; f"],
        &["zsh", "-c", "=apk add x"],
        &["sh", "-c", "env $X"],
        &["sh", "-c", "sh -c \"$X\""],
        &["sh", "-c", "find . $X"],
        &["sh", "-c", "trap 'apk add x' EXIT"],
        &["sh", "-c", "alias ls='apk add x'\nls"],
        &["env", "-S", "ap\\_k"],
        &["env", "-S", "${X} add"],
        &["nice", "--unheard-of", "ls"],
        &["timeout", "-t", "5", "apk", "add"],
        &["bash", "-oc", "x", "apk add x"],
        &["sh", "+c", "apk add x"],
        &["fish", "-c", "apk add x"],
        &["parallel", "apk"],
        &["strace", "-f", "apk", "add"],
        &["/lib64/ld-linux-x86-64.so.2", "/sbin/apk", "add"],
        &["su", "-s", "/sbin/apk", "root"],
        &["find", ".", "-exec", "{}", ";"],
        &["xargs", "-I", "X", "X"],
        &["xargs", "sh", "-c"],
        &deep,
        &["sh", "-c", &many],
        &["env", &long],
        &["a\0b"],
        &[""],
        &[],
    ] {
        assert!(fires(NO_LINE, argv), "{argv:?}");
    }
    // A part that is not known could be any, after what is.
    for (script, glob, may) in [
        ("rm -r $X", "rm -rf*", false),
        ("rm $X", "rm -rf*", true),
        ("rm -$X", "rm -rf*", true),
        ("rm a$X", "rm -rf*", false),
        ("cat $X", "*passwd", true),
        ("cat $X", "cat", true),
        ("cat \"$X\"", "cat /etc/??????", true),
        ("cat $X", "ls*", false),
    ] {
        assert_eq!(fires(glob, &["sh", "-c", script]), may, "{script} by {glob}");
    }
    // Words are compared as they came and with their white space folded.
    for glob in ["rm /a  b*", "rm /a b*"] {
        assert!(fires(glob, &["sh", "-c", "rm '/a  b'$X"]), "{glob}");
    }
    // A quoted name is a program's, with what stands behind it.
    assert!(fires("a=b apk", &["sh", "-c", "'a'=b apk"]));
    // The words after the text of `-S` are no options.
    assert!(fires("apk add -i x", &["env", "-S", "apk add", "-i", "x"]));
    assert!(fires("apk", &["script", "--", "apk"]));
    let execs = ["find"].into_iter().chain(["-exec", "ls", ";"].repeat(17));
    assert!(fires(NO_LINE, &execs.collect::<Vec<_>>()));
    // No exception can name them.
    for argv in [&["", " "][..], &["a\0b"]] {
        assert!(matches!(Command::new(&exec(argv)), Command::Unknown), "{argv:?}");
    }
    let mut exec = exec(&["ls"]);
    exec.env = vec!["PATH=/tmp".to_owned()];
    assert!(matches!(Command::new(&exec), Command::Unknown));
}

#[test]
fn an_exception_keeps_the_boundaries_of_arguments() {
    let excepted = |glob: &str, argv: &[&str]| {
        let exec = exec(argv);
        let Command::Line(line) = Command::new(&exec) else {
            panic!("{argv:?}")
        };
        line.is_excepted(&[boundary_glob(glob).expect(glob)], &[])
    };
    assert!(excepted("rm -rf /tmp/x", &["rm", "-rf", "/tmp/x"]));
    for argv in [
        &["rm -rf /tmp/x"][..],
        &["rm", "-rf /tmp/x"],
        &["rm -rf", "/tmp/x"],
        &["rm", "-rf", "/tmp/x", ""],
        &["/bin/rm", "-rf", "/tmp/x"],
    ] {
        assert!(!excepted("rm -rf /tmp/x", argv), "{argv:?}");
    }
    assert!(excepted("ls *", &["ls", "-l", "/a b"]));
    assert!(!excepted("ls *", &["ls -l"]));
    assert!(!excepted("ls *", &["ls"]));
    let argv = ["psql", "-c", "select 1"];
    let listed: Box<[String]> = argv.map(str::to_owned).into();
    let of = |argv: &[&str]| {
        let exec = exec(argv);
        let Command::Line(line) = Command::new(&exec) else {
            panic!("{argv:?}")
        };
        line.is_excepted(&[], std::slice::from_ref(&listed))
    };
    assert!(of(&argv));
    assert!(!of(&["psql", "-c", "select", "1"]));
    assert!(!of(&["psql", "-c select 1"]));
    assert!(!of(&["psql", "-c", "select 1", ""]));
}
