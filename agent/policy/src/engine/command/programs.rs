//! The tables of programs that run other programs: their names, their options, and where the other program begins.
//!
//! In: nothing. Out: tables for wrappers.rs. They follow GNU coreutils 9, util-linux 2.41, findutils 4.10, procps-ng 4, sudo 1.9,
//! opendoas 6.8 and BusyBox 1.37.

/// The options of a program, in getopt(3)'s sense.
pub(super) struct Options {
    /// Letters without a value.
    pub(super) flags: &'static str,
    /// Letters with a value: what follows in the word, or else the next word.
    pub(super) valued: &'static str,
    /// Letters with a value in the same word, or none.
    pub(super) optional: &'static str,
    /// Long names that take no value from the next word.
    pub(super) long: &'static [&'static str],
    /// Long names with a value: behind `=`, or else the next word.
    pub(super) long_valued: &'static [&'static str],
    /// The options whose value is put in place of all that follows, so that reading stops there.
    pub(super) last: &'static [&'static str],
}

/// A program whose options are followed by so many operands of its own, and then by the command.
pub(super) struct Wrapper {
    pub(super) names: &'static [&'static str],
    pub(super) options: Options,
    pub(super) operands: usize,
}

pub(super) const NONE: Options = Options {
    flags: "",
    valued: "",
    optional: "",
    long: &[],
    long_valued: &[],
    last: &[],
};

/// Shells that take POSIX's language.
pub(super) const SHELLS: [&str; 14] = [
    "sh", "bash", "rbash", "dash", "ash", "hush", "zsh", "rzsh", "ksh", "ksh93", "rksh", "mksh", "lksh",
    "yash",
];

/// Programs that run others in ways that are not read here, or shells of another language.
pub(super) const OPAQUE: &[&str] = &[
    "aa-exec",
    "alias",
    "at",
    "autoload",
    "background",
    "backtick",
    "batch",
    "bind",
    "bwrap",
    "capsh",
    "cgexec",
    "choom",
    "chpst",
    "chronic",
    "chrt",
    "compgen",
    "complete",
    "coresched",
    "cpulimit",
    "crontab",
    "csh",
    "cttyhack",
    "daemon",
    "daemonize",
    "dbus-launch",
    "dbus-run-session",
    "define",
    "direnv",
    "eatmydata",
    "emulate",
    "enable",
    "enosys",
    "entr",
    "envdir",
    "envfile",
    "envuidgid",
    "execlineb",
    "expect",
    "fakechroot",
    "fakeroot",
    "faketime",
    "fc",
    "fdclose",
    "fdmove",
    "firejail",
    "fish",
    "float",
    "flock",
    "forbacktickx",
    "foreground",
    "forstdin",
    "forx",
    "gdb",
    "heaptrack",
    "hist",
    "hyperfine",
    "i386",
    "ifelse",
    "ifne",
    "ifte",
    "ifthenelse",
    "importas",
    "inotifyd",
    "integer",
    "lckdo",
    "let",
    "linux32",
    "linux64",
    "loopwhilex",
    "ltrace",
    "lxc-attach",
    "machinectl",
    "minijail0",
    "mispipe",
    "multisubstitute",
    "nameref",
    "nsjail",
    "nu",
    "numactl",
    "openvt",
    "parallel",
    "pee",
    "perf",
    "pgrphack",
    "pipeline",
    "pipesz",
    "pkexec",
    "prlimit",
    "proot",
    "proxychains",
    "proxychains4",
    "pseudo",
    "pwsh",
    "r",
    "redirfd",
    "rlwrap",
    "rr",
    "run-parts",
    "runcon",
    "runsv",
    "runsvdir",
    "sched",
    "schroot",
    "screen",
    "sem",
    "setarch",
    "setlock",
    "setopt",
    "setpgid",
    "setpriv",
    "sg",
    "socat",
    "softlimit",
    "ssh-agent",
    "sshpass",
    "start-stop-daemon",
    "strace",
    "supervise",
    "systemd-cat",
    "systemd-inhibit",
    "systemd-nspawn",
    "systemd-run",
    "systemd-socket-activate",
    "tcpsvd",
    "tcsh",
    "tmux",
    "torify",
    "torsocks",
    "trap",
    "tsocks",
    "uclampset",
    "udpsvd",
    "uftrace",
    "unbuffer",
    "unsetopt",
    "valgrind",
    "vglrun",
    "watchexec",
    "with-contenv",
    "withstdinas",
    "x86_64",
    "xinit",
    "xvfb-run",
    "zargs",
    "zle",
    "zmodload",
    "zpty",
    "zrun",
    "zstyle",
];

/// What the names of loaders and emulators begin with: their first argument is the program.
pub(super) const LOADERS: [&str; 4] = ["ld-linux", "ld-musl", "ld.so", "qemu-"];

/// Long options of bash, which it takes with one dash as well as with two.
pub(super) const LONG_OF_BASH: [&str; 14] = [
    "debugger",
    "dump-po-strings",
    "dump-strings",
    "help",
    "init-file",
    "interactive",
    "login",
    "noediting",
    "noprofile",
    "norc",
    "posix",
    "rcfile",
    "restricted",
    "verbose",
];

pub(super) const WRAPPERS: [Wrapper; 17] = [
    Wrapper {
        // The dash is zsh's.
        names: &["nohup", "builtin", "-", "tini", "dumb-init", "catatonit"],
        options: NONE,
        operands: 0,
    },
    Wrapper {
        names: &["busybox", "toybox"],
        options: NONE,
        operands: 0,
    },
    Wrapper {
        names: &["command"],
        options: Options { flags: "pvV", ..NONE },
        operands: 0,
    },
    Wrapper {
        names: &["exec"],
        options: Options {
            flags: "cl",
            valued: "a",
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["nice"],
        options: Options {
            flags: "0123456789",
            valued: "n",
            long_valued: &["adjustment"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["ionice"],
        options: Options {
            flags: "t",
            valued: "cn",
            long: &["ignore"],
            long_valued: &["class", "classdata"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["timeout"],
        options: Options {
            flags: "fpv",
            valued: "ks",
            long: &["foreground", "preserve-status", "verbose"],
            long_valued: &["kill-after", "signal"],
            ..NONE
        },
        operands: 1,
    },
    Wrapper {
        names: &["setsid"],
        options: Options {
            flags: "cfw",
            long: &["ctty", "fork", "wait"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["stdbuf"],
        options: Options {
            valued: "ioe",
            long_valued: &["input", "output", "error"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["time"],
        options: Options {
            flags: "apqvV",
            valued: "fo",
            long: &["append", "portability", "quiet", "verbose"],
            long_valued: &["format", "output"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["taskset"],
        options: Options {
            flags: "ac",
            long: &["all-tasks", "cpu-list"],
            ..NONE
        },
        operands: 1,
    },
    Wrapper {
        names: &["gosu", "su-exec", "setuidgid"],
        options: NONE,
        operands: 1,
    },
    Wrapper {
        names: &["chroot"],
        options: Options {
            long: &["skip-chdir"],
            long_valued: &["userspec", "groups"],
            ..NONE
        },
        operands: 1,
    },
    Wrapper {
        names: &["sudo"],
        options: Options {
            flags: "AbBEHiKknPSs",
            valued: "CDghpRrTtUu",
            long: &[
                "askpass",
                "background",
                "bell",
                "preserve-env",
                "set-home",
                "login",
                "non-interactive",
                "preserve-groups",
                "stdin",
                "shell",
                "reset-timestamp",
            ],
            long_valued: &[
                "close-from",
                "chdir",
                "group",
                "host",
                "prompt",
                "chroot",
                "role",
                "command-timeout",
                "type",
                "user",
            ],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["doas"],
        options: Options {
            flags: "Lns",
            valued: "Cu",
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["nsenter"],
        options: Options {
            flags: "aceFZ",
            valued: "tSGWN",
            optional: "muinpCUTrw",
            long: &[
                "all",
                "mount",
                "uts",
                "ipc",
                "net",
                "pid",
                "cgroup",
                "user",
                "time",
                "preserve-credentials",
                "keep-caps",
                "root",
                "wd",
                "env",
                "no-fork",
                "follow-context",
                "join-cgroup",
            ],
            long_valued: &["target", "setuid", "setgid", "wdns", "net-socket"],
            ..NONE
        },
        operands: 0,
    },
    Wrapper {
        names: &["unshare"],
        options: Options {
            flags: "frc",
            valued: "RwSGl",
            optional: "muinpCUT",
            long: &[
                "mount",
                "uts",
                "ipc",
                "net",
                "pid",
                "cgroup",
                "user",
                "time",
                "fork",
                "kill-child",
                "mount-proc",
                "mount-binfmt",
                "map-auto",
                "map-root-user",
                "map-current-user",
                "keep-caps",
            ],
            long_valued: &[
                "map-user",
                "map-users",
                "map-group",
                "map-groups",
                "owner",
                "propagation",
                "setgroups",
                "root",
                "wd",
                "setuid",
                "setgid",
                "monotonic",
                "boottime",
                "load-interp",
            ],
            ..NONE
        },
        operands: 0,
    },
];

pub(super) const SPLIT: [&str; 2] = ["S", "split-string"];

pub(super) const ENV: Options = Options {
    flags: "i0v",
    valued: "uCSaP",
    long: &[
        "ignore-environment",
        "null",
        "debug",
        "block-signal",
        "default-signal",
        "ignore-signal",
        "list-signal-handling",
    ],
    long_valued: &["unset", "chdir", "split-string", "argv0"],
    last: &SPLIT,
    ..NONE
};

pub(super) const XARGS: Options = Options {
    flags: "0oprtx",
    valued: "adEILnPs",
    optional: "eil",
    long: &[
        "null",
        "open-tty",
        "interactive",
        "no-run-if-empty",
        "verbose",
        "exit",
        "show-limits",
        "replace",
        "eof",
        "max-lines",
    ],
    long_valued: &[
        "arg-file",
        "delimiter",
        "max-args",
        "max-procs",
        "max-chars",
        "process-slot-var",
    ],
    ..NONE
};

pub(super) const WATCH: Options = Options {
    flags: "bcCegprtwx",
    valued: "nqs",
    optional: "d",
    long: &[
        "beep",
        "color",
        "no-color",
        "differences",
        "errexit",
        "follow",
        "chgexit",
        "precise",
        "no-rerun",
        "no-title",
        "no-wrap",
        "exec",
    ],
    long_valued: &["interval", "equexit", "shotsdir"],
    ..NONE
};

pub(super) const SU: Options = Options {
    flags: "flmpP",
    valued: "cgGsuw",
    long: &["fast", "login", "preserve-environment", "pty", "no-pty"],
    long_valued: &[
        "command",
        "session-command",
        "group",
        "supp-group",
        "shell",
        "user",
        "whitelist-environment",
    ],
    ..NONE
};

pub(super) const SCRIPT: Options = Options {
    flags: "aefq",
    valued: "cEIOBTmo",
    optional: "t",
    long: &["append", "return", "flush", "force", "quiet"],
    long_valued: &[
        "command",
        "echo",
        "log-in",
        "log-out",
        "log-io",
        "log-timing",
        "logging-format",
        "output-limit",
    ],
    ..NONE
};
