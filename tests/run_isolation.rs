//! `--isolation` through the program: what a `Command` stage does not declare is told of or refused, what it declares is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]

mod run_support;

use std::{
    cell::RefCell,
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    sync::OnceLock,
};

use run_support::{Place, Ran, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

/// The three modes.
const MODES: [&str; 3] = ["off", "warn", "enforce"];

/// A workspace with one `Command` stage that runs a script of `sh`, with the workspace as `$0`.
fn place(script: &str) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("data")).unwrap();
    place.write("data/declared.txt", "declared\n");
    place.write("secret.txt", "not declared\n");
    place.write("script.sh", &format!("set -e; out=$1; folder=$2; {script}\n"));
    let folder = place.path("");
    place.graph(&[
        r#""data": Download(from: Folder(path: "data"))"#,
        &format!(
            r#""stage": Command(run: ["sh", "{{file.0}}", "{{out}}", "{}"], inputs: {{"data": "data"}}, files: ["script.sh"], env: {{"DATA": "{{in.data}}"}})"#,
            folder.display()
        ),
    ]);
    place
}

/// Binds a Unix socket in the workspace.
const UNIX_SOCKET: &str = "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) and bind(S, pack_sockaddr_un($ARGV[0])) or die $!' $folder/socket";

fn run(place: &Place, mode: &str) -> Ran {
    place.run(&["--isolation", mode])
}

/// What was told of the stage, without what is an order of its own.
fn warnings(ran: &Ran) -> Vec<String> {
    let events = ran.events.iter().filter(|event| event["event"] == "stage-warning");
    events.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

fn failure(ran: &Ran) -> (String, Value) {
    let failed = ran.events.iter().find(|event| event["event"] == "stage-failed").expect("a failure");
    (failed["message"].as_str().unwrap().to_owned(), failed["blame"].clone())
}

/// Whether this kernel has what isolation takes; told loudly where it has not.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
fn has_means() -> bool {
    static MEANS: OnceLock<bool> = OnceLock::new();
    *MEANS.get_or_init(|| {
        let ran = run(&place("echo x > $out/x"), "enforce");
        let lacking =
            (ran.code != Some(0)).then(|| failure(&ran).0).filter(|why| why.starts_with("isolate the program"));
        if let Some(why) = &lacking {
            eprintln!("SKIPPED: {why}");
        }
        lacking.is_none()
    })
}

/// Runs a script that does something undeclared in each mode: it goes on without a word, is told of, and fails. What was told.
fn undeclared(script: &str, prepare: impl Fn(&Place)) -> (Vec<String>, String) {
    let of = |mode: &str| {
        let place = place(script);
        prepare(&place);
        let ran = run(&place, mode);
        (place, ran)
    };
    let (_, off) = of("off");
    assert_eq!((off.code, warnings(&off)), (Some(0), Vec::new()), "{off:#?}");
    let (_, warn) = of("warn");
    assert_eq!(warn.code, Some(0), "{warn:#?}");
    let (place, enforce) = of("enforce");
    assert_eq!(enforce.code, Some(1), "{enforce:#?}");
    let (message, blame) = failure(&enforce);
    assert_eq!(blame, "stage");
    // What is told names the workspace by nothing.
    let root = place.path("").canonicalize().unwrap().display().to_string();
    let hide = |text: &str| text.replace(&root, "[workspace]");
    let warned = warnings(&warn).iter().map(|text| text.split(": ").skip(1).collect::<Vec<_>>().join(": ")).collect();
    (warned, hide(&message))
}

#[test]
fn what_is_declared_passes_in_every_mode_with_the_same_bytes() {
    if !has_means() {
        return;
    }
    let script = "cat $DATA/declared.txt > $out/a; echo x > work; mv work moved; cat moved >> $out/a; echo t > $TMPDIR/t; \
                  echo y > /dev/stderr; cat /dev/stdin < $out/a | tee /dev/stdout > /dev/fd/2; mkdir $out/sub; mktemp > /dev/null; ls /usr/bin > /dev/null; echo $(id -u) > /dev/null; sort $out/a > $out/sub/b";
    let mut results = Vec::new();
    for mode in MODES {
        let place = place(script);
        let ran = run(&place, mode);
        assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{mode}: {ran:#?}");
        results.push(place.result("stage", "a"));
    }
    assert_eq!(results, vec!["declared\nx\n"; 3]);
}

#[test]
fn calls_that_would_change_nothing_are_no_writes() {
    if !has_means() {
        return;
    }
    for script in [
        "mkdir -p $out/a/b; mkdir -p $folder/data; echo x > $out/a/b/x",
        "install -D $DATA/declared.txt $out/a/b/x",
        "cp -r $DATA $out/copy; cp -r $DATA/. $out",
        "ln -s $folder/secret.txt link; ln -sfn $DATA link; rm link; echo x > $out/x",
        "rm -f missing $out/missing $folder/missing $folder/missing/too; rm -rf $folder/missing; echo x > $out/x",
        "mkdir $folder/data 2> /dev/null || echo x > $out/x",
        "mv $folder/missing $out/x 2> /dev/null || echo x > $out/x",
        "(set -C; echo y > $folder/data) 2> /dev/null || echo x > $out/x",
        "echo x > $out/x; mkdir $out/empty; rmdir $out/empty; mkfifo fifo; mv fifo other; rm other; tar -C $DATA -cf - . | tar -C $out -xf -",
        "script -qec 'echo x' /dev/null > /dev/null; echo x > $out/x",
    ] {
        for mode in MODES {
            let place = place(script);
            let ran = run(&place, mode);
            assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{mode}: {script}: {ran:#?}");
        }
    }
}

#[test]
fn other_names_of_a_file_lead_to_it() {
    if !has_means() {
        return;
    }
    for read in [
        "cat /proc/self/root$folder/secret.txt",
        "cd $out; cat /proc/self/cwd$(echo $out | sed 's,/[^/]*,/..,g')$folder/secret.txt",
        "ln -s /proc/thread-self/root link; cat link$folder/secret.txt",
        "exec 3< $folder; cat /dev/fd/3/secret.txt",
    ] {
        let (warned, refused) = undeclared(&format!("({read} || echo other) > $out/x"), |_| {});
        assert!(!warned.is_empty() && warned[0].contains("read "), "{read}: {warned:?}");
        assert!(warned.concat().contains("secret.txt") || read.contains("/dev/fd"), "{read}: {warned:?}");
        assert!(refused.contains("ended with exit code 0") || read.contains("/dev/fd"), "{read}: {refused}");
    }
}

#[test]
fn a_declared_program_brings_no_folder_along_and_one_elsewhere_is_found_through_the_path_of_its_stage() {
    if !has_means() {
        return;
    }
    let place = place("true");
    fs::create_dir_all(place.path("scripts")).unwrap();
    place.write("scripts/config.txt", "not declared\n");
    place.write("scripts/run.sh", "#!/bin/sh\ncat ${0%/*}/config.txt > $1/x\n");
    fs::set_permissions(place.path("scripts/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    place.graph(&[r#""stage": Command(run: ["{file.0}", "{out}"], files: ["scripts/run.sh"])"#]);
    let (message, _) = failure(&run(&place, "enforce"));
    assert!(message.contains("It tried to read scripts/config.txt: declare"), "{message}");

    let elsewhere = tempfile::tempdir().unwrap();
    let tool = elsewhere.path().join("tool");
    for folder in ["bin", "share"] {
        fs::create_dir_all(tool.join(folder)).unwrap();
    }
    fs::write(tool.join("share/words"), "words\n").unwrap();
    fs::write(tool.join("bin/speak"), "#!/bin/sh\ncat ${0%/*}/../share/words > $1/x\n").unwrap();
    fs::set_permissions(tool.join("bin/speak"), fs::Permissions::from_mode(0o755)).unwrap();
    let bin = tool.join("bin");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    place.graph(&[&format!(r#""stage": Command(run: ["speak", "{{out}}"], env: {{"PATH": "{path}"}})"#)]);
    let ran = run(&place, "enforce");
    assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{ran:#?}");

    // Named by a program that is found itself, its folder is not.
    let call = format!("{}/speak $0", bin.display());
    place.graph(&[&format!(r#""stage": Command(run: ["sh", "-c", "{call}", "{{out}}"])"#)]);
    let (message, _) = failure(&run(&place, "enforce"));
    assert!(message.contains("is readable if its folder is in PATH"), "{message}");
}

#[test]
fn no_key_depends_on_the_mode() {
    if !has_means() {
        return;
    }
    let place = place("echo x > $out/x");
    assert_eq!(run(&place, "enforce").code, Some(0));
    // But its record does.
    let shown = |stage: &str| -> Value {
        serde_json::from_str(&place.output(&["show", "graph.ron", stage, "--json"]).stdout).unwrap()
    };
    assert_eq!(shown("stage")["provenance"]["isolation"], "enforce");
    assert_eq!(shown("data")["provenance"]["isolation"], Value::Null);
    let ran = run(&place, "off");
    assert!(!ran.events.iter().any(|event| event["event"] == "stage-started"), "{ran:#?}");
}

#[test]
fn an_undeclared_read_is_told_of_or_refused() {
    if !has_means() {
        return;
    }
    let (warned, refused) = undeclared("cat $folder/secret.txt > $out/x", |_| {});
    assert!(warned.len() == 1 && warned[0].contains("secret.txt: declare"), "{warned:?}");
    insta::assert_snapshot!(refused, @r"
    isolation (enforce) kept the program `sh` from what its stage does not declare. It tried to read secret.txt: declare files of the workspace in `files`, and results of stages in `inputs`. `--isolation warn` lets it go on; the program `sh` ended with exit code 1; its last lines were:
        cat: [workspace]//secret.txt: Permission denied
    ");
}

#[test]
fn a_refused_read_fails_a_stage_whose_program_ends_well() {
    if !has_means() {
        return;
    }
    let (warned, refused) = undeclared("cat $folder/secret.txt > $out/x || echo nothing > $out/x", |_| {});
    assert_eq!(warned.len(), 1);
    assert!(refused.contains("secret.txt") && refused.contains("ended with exit code 0"), "{refused}");
}

#[test]
fn a_listing_and_a_link_are_reads_too() {
    if !has_means() {
        return;
    }
    let (warned, refused) = undeclared("ls $folder/data > $out/x", |_| {});
    assert!(warned.len() == 1 && refused.contains(" read data:"), "{warned:?} {refused}");
    let (warned, refused) = undeclared("ln -s $folder/secret.txt link; cat link > $out/x", |_| {});
    assert!(warned.len() == 1 && refused.contains(" read secret.txt:"), "{warned:?} {refused}");
}

#[test]
fn an_undeclared_write_is_told_of_or_refused() {
    if !has_means() {
        return;
    }
    let (warned, refused) = undeclared("echo x > $out/x; echo stray > $folder/stray.txt", |_| {});
    assert!(warned.len() == 1 && warned[0].contains("stray.txt: write below"), "{warned:?}");
    insta::assert_snapshot!(refused, @r"
    isolation (enforce) kept the program `sh` from what its stage does not declare. It tried to write stray.txt: write below `{out}`, the working folder or TMPDIR. `--isolation warn` lets it go on; the program `sh` ended with exit code 2; its last lines were:
        [workspace]/script.sh: 1: cannot create [workspace]//stray.txt: Permission denied
    ");
    for (change, written) in [
        ("rm $folder/secret.txt", "secret.txt"),
        ("mv $folder/secret.txt $folder/s", "s, secret.txt"),
        ("mkdir $folder/new", "new"),
        ("ln $folder/secret.txt $folder/l", "l, secret.txt"),
        ("ln -s /etc/hosts $folder/l", "l"),
        ("ln -sfn /usr $folder/link", "link"),
        ("truncate -s 3 $folder/secret.txt", "secret.txt"),
        ("truncate -s 3 /proc/self/cwd/link", "secret.txt"),
        ("ln -s $folder/new dangling; echo x > dangling", "new"),
        (UNIX_SOCKET, "socket"),
    ] {
        let (warned, refused) =
            undeclared(&format!("echo x > $out/x; ln -s $folder/secret.txt link; {change}"), |place| {
                std::os::unix::fs::symlink("secret.txt", place.path("link")).unwrap();
            });
        // `ln -sfn` makes a name of its own first.
        let named =
            |text: &str| text.contains(&format!("write {written}")) || (written == "link" && text.contains("write "));
        assert!(warned.len() == 1 && named(&warned[0]) && named(&refused), "{change}: {warned:?} {refused}");
    }
}

#[test]
fn the_network_is_told_of_or_refused() {
    if !has_means() {
        return;
    }
    // A program that ends badly if it reaches nobody.
    let tcp = |port: u16| format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'; echo x > $out/x");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (warned, refused) = undeclared(&tcp(port), |_| {});
    assert!(warned.len() == 1 && warned[0].contains(&format!("(127.0.0.1:{port})")), "{warned:?}");
    assert!(refused.contains("It tried to reach the network (an IPv4 socket): let a `Download` stage"), "{refused}");

    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    let udp = format!("bash -c 'exec 3<>/dev/udp/127.0.0.1/{port}; echo x >&3'; echo x > $out/x");
    let (warned, refused) = undeclared(&udp, |_| {});
    assert!(warned.len() == 1 && warned[0].contains(&format!("(127.0.0.1:{port})")), "{warned:?}");
    assert!(refused.contains("(an IPv4 socket)"), "{refused}");
}

#[test]
fn what_a_program_starts_is_bound_as_well() {
    if !has_means() {
        return;
    }
    let (warned, refused) =
        undeclared("sh -c '(sh -c \"cat $0/secret.txt\" \"$0\" > $1/x) & wait' $folder $out; test -s $out/x", |_| {});
    assert!(warned.len() == 1 && refused.contains("secret.txt"), "{warned:?} {refused}");
}

#[test]
fn the_workspace_file_says_what_counts_unless_a_run_does() {
    if !has_means() {
        return;
    }
    let place = place("cat $folder/secret.txt > $out/x");
    place.write("twdag.ron", "Workspace(version: 1, isolation: Enforce)\n");
    assert_eq!(place.run(&[]).code, Some(1));
    assert_eq!(place.run(&["--isolation", "off"]).code, Some(0));
    place.write("twdag.ron", "Workspace(version: 1, isolation: Strict)\n");
    let said = place.run(&["--isolation", "off"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("`isolation` is `Strict`, expected `Off`, `Warn` or `Enforce`"), "{}", said.stderr);
}

#[test]
fn a_check_computes_again_as_isolated_as_it_is_told() {
    if !has_means() {
        return;
    }
    let place = place("cat $folder/secret.txt > $out/x");
    assert_eq!(place.run(&[]).code, Some(0));
    let check = |mode: &str| place.output(&["check", "graph.ron", "stage", "--runs", "1", "--isolation", mode]);
    assert_eq!(check("off").code, Some(0));
    let said = check("warn");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let expected = "warning: stage `stage`: isolation (warn): the program `sh` did what the stage does not declare: read secret.txt: ";
    assert_eq!(said.stderr.matches(expected).count(), 1, "{said:#?}");
    let twice = ["check", "graph.ron", "stage", "--runs", "2", "--isolation", "warn", "--json"];
    let document: Value = serde_json::from_str(&place.output(&twice).stdout).unwrap();
    let warned = document["stages"][0]["warnings"].as_array().unwrap();
    assert!(warned.len() == 1 && warned[0].as_str().unwrap().contains("read secret.txt: "), "{document}");
    let said = check("enforce");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stdout.contains("secret.txt") || said.stderr.contains("secret.txt"), "{said:#?}");
}

#[test]
fn where_the_means_are_lacking_enforce_fails_before_the_program_starts_and_warn_says_so() {
    if !has_means() {
        return;
    }
    // Notifications of a process go to one supervisor: below an isolated program they are taken.
    let of = |mode: &str| {
        let outer = place(&format!(
            "cd $folder/inner; {} run graph.ron --json --isolation {mode} > $out/events || echo failed >> $out/events",
            env!("CARGO_BIN_EXE_twdag")
        ));
        fs::create_dir(outer.path("inner")).unwrap();
        outer.write("inner/twdag.ron", "Workspace(version: 1)\n");
        outer.write(
            "inner/graph.ron",
            &run_support::graph(&[r#""x": Command(run: ["sh", "-c", "echo x > $0/x", "{out}"])"#]),
        );
        let ran = run(&outer, "warn");
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        outer.result("stage", "events")
    };
    let enforced = of("enforce");
    assert!(enforced.contains("\nfailed\n"), "{enforced}");
    assert!(
        enforced.contains("isolate the program `sh`: ") && enforced.contains("seccomp notifications"),
        "{enforced}"
    );
    let warned = of("warn");
    assert!(!warned.contains("\nfailed\n") && warned.contains("nothing can be told of the program `sh`"), "{warned}");
}

#[test]
fn a_stage_that_the_kernel_tells_no_more_of_fails_in_both_modes_though_its_program_ends_well() {
    if !has_means() {
        return;
    }
    // Reads until it cannot, and ends well.
    let script = "echo $PPID > $out/worker.new; mv $out/worker.new $out/worker; \
                  until test -e $folder/gate; do sleep 0.02; done; while read line < $DATA/declared.txt; do :; done; exit 0";
    for mode in ["warn", "enforce"] {
        let place = place(script);
        let graph = fs::read_to_string(place.path("graph.ron")).unwrap();
        let policy = r#"policy: {"stage": (allow: (read: ["."]))}, stages:"#;
        place.write("graph.ron", &graph.replacen("stages:", policy, 1));
        let run = place.start(&["--isolation", mode]);
        let found = || {
            let files = walkdir::WalkDir::new(place.path("artifacts/local/scratch")).into_iter().flatten();
            files.map(walkdir::DirEntry::into_path).find(|path| path.ends_with("output/worker"))
        };
        wait_until("the program starts", || found().is_some());
        let worker: i32 = fs::read_to_string(found().unwrap()).unwrap().trim().parse().unwrap();
        // Of a process that may have one descriptor the kernel waits for no two.
        let limit = Rlimit { current: Some(1), maximum: Some(1) };
        prlimit(Pid::from_raw(worker), Resource::Nofile, limit).unwrap();
        place.write("gate", "");
        let ran = run.end();
        assert_eq!(ran.code, Some(1), "{mode}: {ran:#?}");
        let (message, blame) = failure(&ran);
        assert!(message.contains("the kernel could be asked no more what it does"), "{mode}: {message}");
        assert_eq!(blame, "environment", "{mode}");
    }
}

#[test]
fn a_program_whose_interpreter_is_refused_is_told_so() {
    if !has_means() {
        return;
    }
    let place = place("true");
    fs::copy("/bin/sh", place.path("interpreter")).unwrap();
    place.write("own", &format!("#!{} -e\necho x > $1/x\n", place.path("interpreter").display()));
    fs::set_permissions(place.path("own"), fs::Permissions::from_mode(0o755)).unwrap();
    place.graph(&[r#""stage": Command(run: ["{file.0}", "{out}"], files: ["own"])"#]);
    let (message, _) = failure(&run(&place, "enforce"));
    assert!(message.contains("with its interpreter (the `#!` line)"), "{message}");
    assert_eq!(run(&place, "off").code, Some(0));
}

#[test]
fn processes_and_sockets_outside_the_stage_are_out_of_reach_and_those_inside_are_not() {
    if !has_means() || !has_scopes() {
        return;
    }
    let name = format!("twdag-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let connect = format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) and connect(S, pack_sockaddr_un(qq(\\0{name}))) or exit 1'"
    );
    let script = format!(
        "kill -0 {} 2> /dev/null && echo signal >> $out/reached; {connect} && echo socket >> $out/reached; \
         sleep 1000 & kill $!; echo inside >> $out/reached",
        std::process::id()
    );
    for (mode, reached) in
        [("off", "signal\nsocket\ninside\n"), ("warn", "signal\nsocket\ninside\n"), ("enforce", "inside\n")]
    {
        let place = place(&script);
        let ran = run(&place, mode);
        assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{mode}: {ran:#?}");
        assert_eq!(place.result("stage", "reached"), reached, "{mode}");
    }
}

/// Whether this kernel has Landlock's scopes (Linux 6.12); told loudly where it has not.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
fn has_scopes() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 12) {
        eprintln!("SKIPPED: Linux {release} has no scopes of Landlock");
    }
    version >= (6, 12)
}

#[test]
fn a_signal_whose_handler_asks_for_a_restart_ends_no_call_that_is_looked_at() {
    if !has_means() {
        return;
    }
    let interrupted = "perl -MPOSIX -MTime::HiRes=ualarm -e '\
        sigaction(SIGALRM, POSIX::SigAction->new(sub { $signals++ }, POSIX::SigSet->new, SA_RESTART)); ualarm(300, 300); \
        for (1 .. 20000) { if (sysopen(F, $ARGV[0], 0)) { close F } else { die $! } } \
        die qq(no signals) unless $signals; print qq(done)' $DATA/declared.txt > $out/x";
    for mode in MODES {
        let place = place(interrupted);
        let ran = run(&place, mode);
        assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{mode}: {ran:#?}");
        assert_eq!(place.result("stage", "x"), "done");
    }
}

#[test]
fn what_the_policy_allows_passes_is_recorded_and_changes_no_key() {
    if !has_means() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = place(&format!(
        "cat $folder/secret.txt $HOME/settings $folder/elsewhere/file > $out/x; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'; \
         {}",
        connect_to("$folder/elsewhere/socket")
    ));
    for folder in ["home", "elsewhere"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    place.write("home/settings", "settings\n");
    place.write("elsewhere/file", "file\n");
    let _service = UnixListener::bind(place.path("elsewhere/socket")).unwrap();
    let graph = fs::read_to_string(place.path("graph.ron")).unwrap();
    let run = |allowed: &str, mode: &str| {
        place.write("graph.ron", &graph.replace("\n)\n", &format!("\n    policy: {{\"stage\": ({allowed})}},\n)\n")));
        let arguments = ["run", "graph.ron", "--json", "--isolation", mode];
        let said = place.twdag(&arguments).env("HOME", place.path("home")).output().unwrap();
        let events = String::from_utf8(said.stdout).unwrap();
        (said.status.code(), events)
    };
    let elsewhere = place.path("elsewhere").display().to_string();
    let all = format!(r#"allow: (read: ["secret.txt", "~/settings", "{elsewhere}"], network: true)"#);
    let (code, events) = run(&all.replace(", network: true", ""), "enforce");
    assert!(code == Some(1) && events.contains("reach the network"), "{events}");
    let (code, events) = run(&all.replace(", \"~/settings\"", ""), "enforce");
    assert!(code == Some(1) && events.contains("~/settings") && !events.contains("secret.txt:"), "{events}");
    for mode in ["enforce", "warn"] {
        let (code, events) = run(&all, mode);
        assert!(code == Some(0) && !events.contains("stage-warning"), "{events}");
        assert_eq!(place.result("stage", "x"), "not declared\nsettings\nfile\n");
        let shown: Value =
            serde_json::from_str(&place.output(&["show", "graph.ron", "stage", "--json"]).stdout).unwrap();
        assert_eq!(shown["provenance"]["allowed"]["network"], true, "{shown:#}");
        assert_eq!(shown["provenance"]["allowed"]["read"][1], "~/settings");
        let (code, events) = run("retries: 1", "enforce");
        assert!(code == Some(0) && !events.contains("stage-started"), "a policy is in no key: {events}");
        fs::remove_dir_all(place.path("artifacts")).unwrap();
    }
}

#[test]
fn a_path_that_is_allowed_and_not_there_is_told_and_the_home_folder_may_be_allowed_whole() {
    if !has_means() {
        return;
    }
    let place = place("cat $folder/home/settings > $out/x");
    fs::create_dir(place.path("home")).unwrap();
    place.write("home/settings", "settings\n");
    let graph = fs::read_to_string(place.path("graph.ron")).unwrap();
    let policy = r#"{"stage": (allow: (read: ["~", "missing/file"]))}"#;
    place.write("graph.ron", &graph.replace("\n)\n", &format!("\n    policy: {policy},\n)\n")));
    let arguments = ["run", "graph.ron", "--json", "--isolation", "enforce"];
    let said = place.twdag(&arguments).env("HOME", place.path("home")).output().unwrap();
    let events = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(0), "{events}");
    let warned = events.lines().filter(|event| event.contains("stage-warning"));
    let warned: Vec<&str> = warned.collect();
    let expected = "the policy allows reading `missing/file`, which allows nothing: No such file";
    assert!(warned.len() == 1 && warned[0].contains(expected), "{events}");
}

/// A script that connects to a Unix socket, or ends badly.
fn connect_to(path: &str) -> String {
    format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) and connect(S, pack_sockaddr_un($ARGV[0])) or exit 1' {path}"
    )
}

#[test]
fn services_of_others_are_told_of_or_refused_and_those_of_the_stage_are_not() {
    if !has_means() {
        return;
    }
    let services = RefCell::new(Vec::new());
    for socket in ["service", "other"] {
        let (warned, refused) =
            undeclared(&format!("{} || true; echo x > $out/x", connect_to(&format!("$folder/{socket}"))), |place| {
                services.borrow_mut().push(UnixListener::bind(place.path(socket)).unwrap());
            });
        assert!(warned.len() == 1 && warned[0].contains(&format!("connect to {socket}: start")), "{warned:?}");
        assert!(refused.contains(&format!("It tried to connect to {socket}: start")), "{refused}");
    }
    let own = "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) and bind(S, pack_sockaddr_un(q(own))) and listen(S, 1) or die; \
               socket(C, AF_UNIX, SOCK_STREAM, 0) and connect(C, pack_sockaddr_un(q(own))) or die'; echo x > $out/x";
    for mode in MODES {
        let ran = run(&place(own), mode);
        assert_eq!((ran.code, warnings(&ran)), (Some(0), Vec::new()), "{mode}: {ran:#?}");
    }
}
