use std::{fs, path::Path};

use insta::assert_snapshot;
use twdag::graph::{Graph, Overrides};

const GOOD: &str = r#"Graph(version: 1, stages: { "a": Command(run: ["true"]) })"#;

/// What is said about a file, without the folder it lies in.
fn told(path: &Path) -> String {
    let message = Graph::load(path, &Overrides::default()).expect_err("a bad file").render(false);
    message.replace(&path.parent().expect("a folder").display().to_string(), "FOLDER")
}

#[test]
fn a_file_that_does_not_exist() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_snapshot!(told(&folder.path().join("missing.ron")), @r#"
    error: the graph file `FOLDER/missing.ron` does not exist
    --> FOLDER/missing.ron
     = help: check the path; it is relative to the current folder
    "#);
}

#[test]
fn a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let graphs = folder.path().join("graphs");
    fs::create_dir(&graphs).expect("a folder");
    assert_snapshot!(told(&graphs), @r#"
    error: `FOLDER/graphs` is a folder, expected a graph file
    --> FOLDER/graphs
     = help: name a file in it, such as `graphs/quickstart.ron`
    "#);
}

#[test]
fn a_file_that_is_no_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("latin1.ron");
    fs::write(&path, b"Graph(\n    version: 1,\n    title: \"Gr\xf6\xdfe\",\n)").expect("a file");
    assert_snapshot!(told(&path), @r#"
    error: the file is not UTF-8 text
     --> FOLDER/latin1.ron:3:15
      |
    3 |     title: "Gr��e",
      |               ^ byte 37 is 0xf6
      |
      = help: save it as UTF-8
    "#);
}

#[test]
fn a_file_too_large_for_a_graph() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.ron");
    fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    assert!(told(&path).starts_with("error: the file is larger than 16 MiB"));
}

#[test]
fn the_workspace_is_the_nearest_folder_above_with_a_workspace_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let graphs = folder.path().join("team/graphs");
    fs::create_dir_all(&graphs).expect("folders");
    let path = graphs.join("mine.ron");
    fs::write(&path, GOOD).expect("a file");
    let workspace = || Graph::load(&path, &Overrides::default()).expect("a good graph").workspace;
    assert_eq!(workspace(), std::env::current_dir().expect("a current folder"));
    fs::write(folder.path().join("twdag.ron"), "").expect("a file");
    assert_eq!(workspace(), folder.path());
    fs::write(graphs.join("twdag.ron"), "").expect("a file");
    assert_eq!(workspace(), graphs);
    assert_eq!(Graph::load(&path, &Overrides::default()).expect("a good graph").name, "mine");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("windows.ron");
    fs::write(&path, format!("\u{feff}{}", GOOD.replace(' ', "\r\n"))).expect("a file");
    assert_eq!(Graph::load(&path, &Overrides::default()).expect("a good graph").nodes().len(), 1);
}
