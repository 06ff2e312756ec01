//! Questions of MMLU, in the two forms in which they are published: CSV files without a header, and the hub's Parquet files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use parquet::record::{Field, Row};

use crate::{data::rows_of, stage::StageError};

pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
/// Folders of the hub's form that repeat the questions of the others, or are no subject.
const COLLECTIONS: [&str; 2] = ["all", "auxiliary_train"];
const EXPECTED: &str = "expected `test/SUBJECT_test.csv`, or `SUBJECT/test-*.parquet` as the hub has them";

/// One question with its four answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) choices: [String; 4],
    pub(super) correct: usize,
}

/// The questions of a folder, found but not yet read.
pub(super) struct Questions {
    folder: PathBuf,
    /// Files of the subjects' questions, in order of the subjects' names.
    subjects: BTreeMap<String, Files>,
}

enum Files {
    Csv(PathBuf),
    /// The folder of a subject's Parquet files.
    Parquet(PathBuf),
}

impl Questions {
    pub(super) fn find(folder: &Path) -> Result<Self, StageError> {
        let mut subjects = BTreeMap::new();
        let csv = folder.join("test");
        if csv.is_dir() {
            for path in entries(&csv)? {
                if let Some(name) = name(&path).strip_suffix("_test.csv") {
                    subjects.insert(name.to_owned(), Files::Csv(path.clone()));
                }
            }
        }
        // Where both forms are, the first one known stays the one that is read.
        if subjects.is_empty() && folder.is_dir() {
            for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
                let name = name(&path).to_owned();
                if !COLLECTIONS.contains(&name.as_str()) && !parts(&path, "test")?.is_empty() {
                    subjects.insert(name, Files::Parquet(path));
                }
            }
        }
        if subjects.is_empty() {
            return Err(StageError::input(folder, format!("no questions found, {EXPECTED}")));
        }
        Ok(Self { folder: folder.to_owned(), subjects })
    }

    /// The names of the subjects, in their order.
    pub(super) fn subjects(&self) -> impl Iterator<Item = &str> {
        self.subjects.keys().map(String::as_str)
    }

    /// The questions of a subject.
    pub(super) fn test(&self, subject: &str) -> Result<Vec<Question>, StageError> {
        match self.subjects.get(subject) {
            Some(Files::Csv(path)) => read_csv(path),
            Some(Files::Parquet(folder)) => read_parquet(folder, "test"),
            None => Err(StageError::Bug(format!("the subject {subject} was not found"))),
        }
    }

    /// Answered questions of a subject to put in front, as many as are wanted.
    pub(super) fn examples(&self, subject: &str, shots: usize, task: &str) -> Result<Vec<Question>, StageError> {
        let (path, mut found) = match self.subjects.get(subject) {
            Some(Files::Csv(_)) => {
                let path = self.folder.join("dev").join(format!("{subject}_dev.csv"));
                let found = read_csv(&path)?;
                (path, found)
            }
            Some(Files::Parquet(folder)) => (folder.clone(), read_parquet(folder, "dev")?),
            None => return Err(StageError::Bug(format!("the subject {subject} was not found"))),
        };
        if found.len() < shots {
            let problem =
                format!("has {} questions to put in front, `shots` of task `{task}` asks for {shots}", found.len());
            return Err(StageError::input(path, problem));
        }
        found.truncate(shots);
        Ok(found)
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// What lies in a folder, in order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StageError> {
    let entries = fs::read_dir(folder).map_err(StageError::io("read", folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(StageError::io("read", folder)));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

/// The Parquet files of a split of a subject.
fn parts(folder: &Path, split: &str) -> Result<Vec<PathBuf>, StageError> {
    let is_part = |path: &PathBuf| {
        let rest = name(path).strip_prefix(split).and_then(|rest| rest.strip_suffix(".parquet"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    Ok(entries(folder)?.into_iter().filter(is_part).collect())
}

fn read_csv(path: &Path) -> Result<Vec<Question>, StageError> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_path(path)
        .map_err(|error| StageError::input(path, error))?;
    let mut questions = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| StageError::input(path, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |problem: String| {
            StageError::input(
                path,
                format!("line {line}: {problem}, expected a question, four answers and A, B, C or D"),
            )
        };
        let fields: Vec<&str> = record.iter().collect();
        let [text, a, b, c, d, letter] = fields[..] else {
            return Err(wrong(format!("found {} fields", fields.len())));
        };
        let correct = LETTERS.iter().position(|known| *known == letter.trim());
        let correct = correct.ok_or_else(|| wrong(format!("found `{letter}` as the last field")))?;
        let choices = [a, b, c, d].map(str::to_owned);
        questions.push(Question { text: text.to_owned(), choices, correct });
    }
    Ok(questions)
}

fn read_parquet(folder: &Path, split: &str) -> Result<Vec<Question>, StageError> {
    let mut questions = Vec::new();
    for path in parts(folder, split)? {
        for (number, row) in rows_of(&path)?.into_iter().enumerate() {
            let question = question(&row).map_err(|problem| {
                let expected = "expected `question`, `choices` (four texts) and `answer` (0 to 3)";
                StageError::input(&path, format!("row {}: {problem}, {expected}", number + 1))
            })?;
            questions.push(question);
        }
    }
    Ok(questions)
}

fn question(row: &Row) -> Result<Question, String> {
    let column = |name: &str| {
        let found = row.get_column_iter().find(|(found, _)| *found == name);
        found.map(|(_, field)| field).ok_or_else(|| format!("no column `{name}`"))
    };
    let text = |field: &Field| match field {
        Field::Str(text) => Ok(text.clone()),
        other => Err(format!("found {other} where a text should be")),
    };
    let Field::ListInternal(choices) = column("choices")? else { return Err("`choices` is no list".to_owned()) };
    let choices: Vec<String> = choices.elements().iter().map(text).collect::<Result<_, _>>()?;
    let choices = choices.try_into().map_err(|found: Vec<String>| format!("found {} choices", found.len()))?;
    let answer = column("answer")?;
    let number = match answer {
        Field::Long(number) => usize::try_from(*number).ok(),
        Field::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let correct = number.filter(|number| *number < LETTERS.len());
    let correct = correct.ok_or_else(|| format!("found {answer} as the answer"))?;
    Ok(Question { text: text(column("question")?)?, choices, correct })
}
