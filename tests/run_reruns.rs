//! What reruns: a table of changes with the stages that each of them computes again, and a property over random graphs
//! and random edits. Every row is a real run of the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::io::Write as _;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError},
};
use run_support::{Place, Ran, Running, wait_until};

/// Ten stages; each copies all that the one before has, the first one `start.txt`, the seventh `note.txt` besides.
struct Chain {
    /// How the seventh copies, which changes its command and not its output.
    copy: &'static str,
    /// The name of the fifth.
    fifth: &'static str,
    backwards: bool,
    with_remarks: bool,
    fields_moved: bool,
    /// A line for the policy block.
    policy: &'static str,
}

const CHAIN: Chain =
    Chain { copy: "-r", fifth: "s4", backwards: false, with_remarks: false, fields_moved: false, policy: "" };

impl Chain {
    fn write(&self, place: &Place) {
        let name = |index: usize| if index == 4 { self.fifth.to_owned() } else { format!("s{index}") };
        let mut stages: Vec<String> = (0..10)
            .map(|index| {
                let (copy, note) = match index {
                    6 => (self.copy, r#", "{file.0}""#),
                    _ => ("-r", ""),
                };
                let (from, inputs, file) = match index {
                    0 => ("{file.0}", String::new(), Some("start.txt")),
                    6 => ("{in.before}/.", name(5), Some("note.txt")),
                    _ => ("{in.before}/.", name(index - 1), None),
                };
                let run = format!(r#"run: ["cp", "{copy}", "{from}"{note}, "{{out}}"]"#);
                // Without a number, stages that read the same content would be one action.
                let mut fields = vec![run, format!(r#"env: {{"NUMBER": "{index}"}}"#)];
                if !inputs.is_empty() {
                    fields.push(format!(r#"inputs: {{"before": "{inputs}"}}"#));
                }
                fields.extend(file.map(|file| format!(r#"files: ["{file}"]"#)));
                if self.fields_moved {
                    fields.reverse();
                    fields.push("outputs: []".to_owned());
                }
                format!(r#""{}": Command({})"#, name(index), fields.join(", "))
            })
            .collect();
        if self.backwards {
            stages.reverse();
        }
        let between = if self.with_remarks { ",\n\n  // a remark\n\t/* and another */  " } else { ",\n" };
        let text = format!(
            "Graph(version: 1, params: {{\"unrelated\": 1}}, policy: {{{}}}, stages: {{{}}})\n",
            self.policy,
            stages.join(between)
        );
        place.write("graph.ron", &text);
    }
}

fn chain() -> Place {
    let place = Place::new();
    place.write("start.txt", "start\n");
    place.write("note.txt", "note\n");
    CHAIN.write(&place);
    place
}

fn ran(run: &Ran) -> Vec<String> {
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.with_outcome("ran")
}

/// The time of the last write to a file.
fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

type Row = (&'static str, fn(&Place), &'static [&'static str], &'static [&'static str]);

const FROM_THE_SEVENTH: &[&str] = &["s6", "s7", "s8", "s9"];

/// A change, how it is made, with which arguments the run is started then, and what it computes.
const TABLE: &[Row] = &[
    ("nothing", |_| {}, &[], &[]),
    ("the output of the seventh of ten", |place| place.write("note.txt", "another\n"), &[], FROM_THE_SEVENTH),
    ("the old value comes back", |place| place.write("note.txt", "note\n"), &[], &[]),
    ("its command and not its output", |place| Chain { copy: "-R", ..CHAIN }.write(place), &[], &["s6"]),
    ("the old command comes back", |place| CHAIN.write(place), &[], &[]),
    (
        "touch",
        |place| {
            let path = place.path("note.txt");
            set_modified(&path, modified(&path) + Duration::from_secs(100));
        },
        &[],
        &[],
    ),
    ("remarks and white space", |place| Chain { with_remarks: true, ..CHAIN }.write(place), &[], &[]),
    (
        "the order of fields, a default written out",
        |place| Chain { fields_moved: true, ..CHAIN }.write(place),
        &[],
        &[],
    ),
    ("the order of stages", |place| Chain { backwards: true, ..CHAIN }.write(place), &[], &[]),
    ("the name of a stage", |place| Chain { fifth: "fifth", ..CHAIN }.write(place), &[], &[]),
    ("an unrelated parameter", |place| CHAIN.write(place), &["--set", "unrelated=2"], &[]),
    ("other resources", |place| CHAIN.write(place), &["--jobs", "3", "--resource", "cpu=7"], &[]),
    (
        "a policy",
        |place| Chain { policy: r#""s6": (resources: {"cpu": 1}, retries: 2)"#, ..CHAIN }.write(place),
        &[],
        &[],
    ),
    (
        "the name of a source file",
        |place| {
            fs::rename(place.path("note.txt"), place.path("moved.txt")).unwrap();
            CHAIN.write(place);
            let text = fs::read_to_string(place.path("graph.ron")).unwrap();
            place.write("graph.ron", &text.replace("note.txt", "moved.txt"));
        },
        &[],
        FROM_THE_SEVENTH,
    ),
];

#[test]
fn each_change_computes_what_it_touches_and_nothing_else() {
    let place = chain();
    assert_eq!(ran(&place.run(&[])).len(), 10, "nothing is there at first");
    for (change, make, arguments, expected) in TABLE {
        make(&place);
        assert_eq!(ran(&place.run(arguments)), *expected, "{change}");
    }
}

#[test]
fn other_jobs_give_the_same_artifacts_from_nothing() {
    let artifacts = |jobs: &[&str]| chain().run(jobs).finished()["stages"].clone().as_array().unwrap().clone();
    let digests =
        |stages: Vec<serde_json::Value>| stages.iter().map(|stage| stage["artifact"].clone()).collect::<Vec<_>>();
    assert_eq!(digests(artifacts(&[])), digests(artifacts(&["--jobs", "4"])));
}

/// Copies the files of a workspace, without its store.
fn copy_workspace(from: &Place, to: &Place) {
    for file in ["graph.ron", "twdag.ron", "start.txt", "note.txt"] {
        fs::copy(from.path(file), to.path(file)).unwrap();
    }
}

#[test]
fn another_folder_computes_nothing_again() {
    let (place, elsewhere) = (chain(), Place::new());
    assert_eq!(ran(&place.run(&[])).len(), 10);
    copy_workspace(&place, &elsewhere);
    let store = place.path("artifacts");
    assert_eq!(ran(&elsewhere.run(&["--store", store.to_str().unwrap()])), [""; 0]);
    // The store may move, too.
    fs::rename(&store, elsewhere.path("artifacts")).unwrap();
    assert_eq!(ran(&elsewhere.run(&[])), [""; 0]);
    assert_eq!(elsewhere.result("s9", "note.txt"), "note\n");
}

/// `setpriv`, if this test may become another user.
fn as_another_user(program: &Path) -> Option<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let may = Command::new("setpriv").args(["--reuid=65534", "--clear-groups", "true"]).output();
    may.is_ok_and(|output| output.status.success()).then(|| {
        command.arg(program);
        command
    })
}

#[test]
fn another_user_computes_nothing_again() {
    let place = chain();
    // The build folder may be closed to others, and so may a fresh temporary folder.
    let program = place.path("program");
    fs::copy(env!("CARGO_BIN_EXE_twdag"), &program).unwrap();
    let Some(mut command) = as_another_user(&program) else {
        writeln!(std::io::stderr(), "SKIPPED: becoming another user needs root and the program `setpriv`").unwrap();
        return;
    };
    assert_eq!(ran(&place.run(&[])).len(), 10);
    let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(place.path("")).status().unwrap();
    assert!(open.success());
    command.args(["run", "graph.ron", "--json"]).current_dir(place.path("")).env_remove("TWDAG_STORE");
    assert_eq!(ran(&Running::of(command).end()), [""; 0]);
}

#[test]
fn graphs_that_share_stages_share_results() {
    let place = chain();
    // The first five stages under other names, and a stage of its own.
    let text = fs::read_to_string(place.path("graph.ron")).unwrap();
    let (_, stages) = text.split_once("stages: {").unwrap();
    let mut shared: Vec<String> = stages.lines().take(5).map(|line| line.trim_end_matches(',').to_owned()).collect();
    for stage in &mut shared {
        for index in 0..5 {
            *stage = stage.replace(&format!("\"s{index}\""), &format!("\"other-{index}\""));
        }
    }
    let own =
        r#""own": Command(run: ["cp", "-r", "{in.x}/.", "{out}"], inputs: {"x": "other-4"}, env: {"NUMBER": "own"})"#;
    place.write("other.ron", &format!("Graph(version: 1, stages: {{{},\n{own}}})", shared.join(",\n")));
    assert_eq!(ran(&place.run(&[])).len(), 10);
    let other = Running::of(place.twdag(&["run", "other.ron", "--json"])).end();
    assert_eq!(ran(&other), ["own"]);
    assert_eq!(other.with_outcome("cached").len(), 5);
}

/// Waits until a file has lain still for so long that what is known of it may be kept.
fn settle(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    wait_until("the file settles", || {
        let changed = fs::metadata(path).unwrap().ctime();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        now - changed > 2
    });
}

#[test]
fn a_change_that_keeps_size_and_time_is_noticed() {
    let place = chain();
    let note = place.path("note.txt");
    assert_eq!(ran(&place.run(&[])).len(), 10);
    settle(&note);
    assert_eq!(ran(&place.run(&[])), [""; 0], "what is known of the file is kept from here on");
    let index = fs::read_to_string(place.path("artifacts/local/stat-index.json"));
    assert!(index.is_ok_and(|index| index.contains("note.txt")), "the next run would read the file anyway");

    let time = modified(&note);
    place.write("note.txt", "edit\n");
    set_modified(&note, time);
    assert_eq!((modified(&note), fs::metadata(&note).unwrap().len()), (time, 5), "the same size and time");
    assert_eq!(ran(&place.run(&[])), FROM_THE_SEVENTH, "written in place");
    assert_eq!(place.result("s9", "note.txt"), "edit\n");

    settle(&note);
    assert_eq!(ran(&place.run(&[])), [""; 0]);
    place.write("new.txt", "swap\n");
    set_modified(&place.path("new.txt"), time);
    fs::rename(place.path("new.txt"), &note).unwrap();
    assert_eq!(ran(&place.run(&[])), FROM_THE_SEVENTH, "another file in its place");
    assert_eq!(place.result("s9", "note.txt"), "swap\n");
}

#[test]
fn an_input_that_changes_while_it_is_read_leaves_no_record() {
    let place = Place::new();
    let (read, gate) = (place.path("read"), place.path("gate"));
    place.graph(&[
        &format!(
            r#""reads": Command(run: ["sh", "-c", "cp $1 $0/x; echo > {}; until test -e {}; do sleep 0.02; done", "{{out}}", "{{file.0}}"], files: ["note.txt"])"#,
            read.display(),
            gate.display()
        ),
        r#""after": Command(run: ["cp", "-r", "{in.reads}/.", "{out}"], inputs: {"reads": "reads"})"#,
    ]);
    place.write("note.txt", "old\n");
    let mut run = place.start(&[]);
    run.until("stage-started", "reads");
    wait_until("the stage has read its input", || read.exists());
    place.write("note.txt", "new\n");
    place.write("gate", "");
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("failed")), (Some(1), vec!["reads".to_owned()]), "{run:#?}");
    // Neither for the content that it was started with nor for the other one is there a result.
    place.write("note.txt", "old\n");
    assert_eq!(ran(&place.run(&[])), ["after", "reads"]);
    assert_eq!(place.result("after", "x"), "old\n");
    place.write("note.txt", "new\n");
    assert_eq!(ran(&place.run(&[])), ["after", "reads"]);
    assert_eq!(place.result("after", "x"), "new\n");
}

#[test]
fn an_input_that_changes_and_changes_back_while_it_is_read_leaves_no_record() {
    let place = Place::new();
    let (open, read, gate) = (place.path("open"), place.path("read"), place.path("gate"));
    place.graph(&[&format!(
        r#""reads": Command(run: ["sh", "-c", "echo > {}; until test -e {}; do sleep 0.02; done; cp $1 $0/x; echo > {}; until test -e {}.2; do sleep 0.02; done", "{{out}}", "{{file.0}}"], files: ["note.txt"])"#,
        open.display(),
        gate.display(),
        read.display(),
        gate.display()
    )]);
    place.write("note.txt", "old\n");
    let mut run = place.start(&[]);
    run.until("stage-started", "reads");
    wait_until("the stage has begun", || open.exists());
    place.write("note.txt", "new\n");
    place.write("gate", "");
    wait_until("the stage has read the other content", || read.exists());
    place.write("note.txt", "old\n");
    place.write("gate.2", "");
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("failed")), (Some(1), vec!["reads".to_owned()]), "{run:#?}");
    assert_eq!(ran(&place.run(&[])), ["reads"]);
    assert_eq!(place.result("reads", "x"), "old\n");
}

const FILES: usize = 3;

/// A stage that writes what it reads, one after the other, and then some text.
#[derive(Clone, Debug)]
struct Part {
    inputs: BTreeSet<usize>,
    file: Option<usize>,
    text: u8,
}

/// Stages of which each reads earlier ones, and the contents of the source files.
#[derive(Clone, Debug)]
struct World {
    parts: Vec<Part>,
    files: [u8; FILES],
}

#[derive(Clone, Debug)]
enum Edit {
    File(usize, u8),
    Text(prop::sample::Index, u8),
    Inputs(prop::sample::Index, BTreeSet<usize>),
    Add(Part),
    Drop,
}

fn part() -> impl Strategy<Value = Part> {
    (prop::collection::btree_set(0..6_usize, 0..3), prop::option::of(0..FILES), 0..3_u8)
        .prop_map(|(inputs, file, text)| Part { inputs, file, text })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..FILES, 0..3_u8).prop_map(|(file, content)| Edit::File(file, content)),
        (any::<prop::sample::Index>(), 0..3_u8).prop_map(|(part, text)| Edit::Text(part, text)),
        (any::<prop::sample::Index>(), prop::collection::btree_set(0..6_usize, 0..3))
            .prop_map(|(part, inputs)| Edit::Inputs(part, inputs)),
        part().prop_map(Edit::Add),
        Just(Edit::Drop),
    ]
}

impl World {
    fn edit(&mut self, edit: &Edit) {
        let count = self.parts.len();
        match edit {
            Edit::File(file, content) => self.files[*file] = *content,
            Edit::Text(part, text) => self.parts[part.index(count)].text = *text,
            Edit::Inputs(part, inputs) => self.parts[part.index(count)].inputs.clone_from(inputs),
            Edit::Add(part) => self.parts.push(part.clone()),
            Edit::Drop if count > 1 => drop(self.parts.pop()),
            Edit::Drop => {}
        }
    }

    fn inputs(&self, part: usize) -> impl Iterator<Item = usize> {
        self.parts[part].inputs.iter().copied().filter(move |&input| input < part)
    }

    fn write(&self, place: &Place) {
        for (file, content) in self.files.iter().enumerate() {
            place.write(&format!("file{file}"), &format!("content {content}\n"));
        }
        let stages: Vec<String> = (0..self.parts.len())
            .map(|part| {
                let mut arguments = String::new();
                let mut inputs = String::new();
                for (place, input) in self.inputs(part).enumerate() {
                    write!(arguments, r#", "{{in.i{place}}}/x""#).unwrap();
                    write!(inputs, r#""i{place}": "p{input}", "#).unwrap();
                }
                let Part { file, text, .. } = &self.parts[part];
                if file.is_some() {
                    arguments += r#", "{file.0}""#;
                }
                let files = file.map(|file| format!("\"file{file}\"")).unwrap_or_default();
                format!(
                    r#""p{part}": Command(run: ["sh", "-c", "cat $@ /dev/null > $0/x; printf 'text %s' $TEXT >> $0/x", "{{out}}"{arguments}], inputs: {{{inputs}}}, files: [{files}], env: {{"TEXT": "{text}"}})"#
                )
            })
            .collect();
        place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// What each stage writes, computed here, and all that it depends on.
    fn expected(&self) -> Vec<(String, String)> {
        let mut results: Vec<(String, String)> = Vec::new();
        for (part, Part { file, text, .. }) in self.parts.iter().enumerate() {
            let inputs: Vec<&str> = self.inputs(part).map(|input| results[input].0.as_str()).collect();
            let source = file.map(|file| format!("content {}\n", self.files[file]));
            let output = format!("{}{}text {text}", inputs.concat(), source.as_deref().unwrap_or_default());
            let depends = format!("{inputs:?} {file:?} {source:?} {text}");
            results.push((output, depends));
        }
        results
    }
}

/// After each edit: exactly what has changed runs, and every result has the bytes that it should have. At the end: a
/// run from nothing gives the same artifacts.
fn check(mut world: World, edits: &[Edit]) -> Result<(), TestCaseError> {
    let place = Place::new();
    let mut computed = BTreeSet::new();
    let artifacts = |run: &Ran| -> Vec<String> {
        let stages = run.finished()["stages"].as_array().unwrap().clone();
        let mut named: Vec<String> =
            stages.iter().map(|stage| format!("{} {}", stage["name"], stage["artifact"])).collect();
        named.sort();
        named
    };
    let mut last = Vec::new();
    for step in 0..=edits.len() {
        if let Some(edit) = step.checked_sub(1).map(|index| &edits[index]) {
            world.edit(edit);
        }
        world.write(&place);
        let run = place.run(&["--jobs", "2"]);
        prop_assert_eq!(run.code, Some(0), "{:#?}", run);
        let expected = world.expected();
        let before = computed.len();
        computed.extend(expected.iter().map(|(_, depends)| depends.clone()));
        prop_assert_eq!(run.with_outcome("ran").len(), computed.len() - before, "{:#?}", run);
        for (part, (output, _)) in expected.iter().enumerate() {
            prop_assert_eq!(&place.result(&format!("p{part}"), "x"), output);
        }
        last = artifacts(&run);
    }
    let clean = place.run(&["--store", "clean"]);
    prop_assert_eq!(artifacts(&clean), last);
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 8, max_shrink_iters: 40, ..Config::default() })]

    #[test]
    fn whatever_is_edited_the_result_is_that_of_a_clean_run(
        parts in prop::collection::vec(part(), 1..5),
        files in any::<[u8; FILES]>().prop_map(|files| files.map(|content| content % 3)),
        edits in prop::collection::vec(edit(), 1..4),
    ) {
        check(World { parts, files }, &edits)?;
    }
}
