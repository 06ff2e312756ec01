//! Multiple choice in the format of MMLU, prompted as the lm-evaluation-harness does (`tasks/mmlu`): the four letters
//! are compared by their log-likelihood.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, json};

use super::{
    position::Mean,
    run::{Bench, Findings},
    text::{Pair, Prompter, answers},
};
use crate::stage::{Reference, SettingError, StageError};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// One question with its four answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    text: String,
    choices: [String; 4],
    correct: usize,
}

impl Question {
    fn prompt(&self) -> String {
        let mut prompt = self.text.trim().to_owned();
        for (letter, choice) in LETTERS.iter().zip(&self.choices) {
            prompt.extend(["\n", letter, ". ", choice]);
        }
        prompt + "\nAnswer:"
    }

    fn answered(&self) -> String {
        format!("{} {}\n\n", self.prompt(), LETTERS[self.correct])
    }
}

/// The whole prompt: what it is about, answered questions, the question.
fn prompt(subject: &str, shots: &[Question], question: &Question) -> String {
    let about = subject.replace('_', " ");
    let shots: String = shots.iter().map(Question::answered).collect();
    format!("The following are multiple choice questions (with answers) about {about}.\n\n{shots}{}", question.prompt())
}

fn read(path: &Path) -> Result<Vec<Question>, StageError> {
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

/// Subjects of the folder and their files of questions, in order of their names.
fn subjects(data: &Path) -> Result<Vec<(String, PathBuf)>, StageError> {
    let folder = data.join("test");
    let entries = fs::read_dir(&folder).map_err(|error| {
        StageError::input(&folder, format!("cannot be read ({error}), expected a folder of `SUBJECT_test.csv`"))
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(StageError::io("read", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix("_test.csv"));
        if let Some(name) = name {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn measure(
    bench: &Bench<'_>,
    name: &str,
    data: &Reference,
    shots: usize,
    limit: Option<usize>,
    wanted: Option<&[String]>,
) -> Result<Findings, StageError> {
    let folder = bench.context.input(data)?;
    let mut found = subjects(folder)?;
    if let Some(wanted) = wanted {
        if let Some(at) = wanted.iter().position(|subject| !found.iter().any(|(name, _)| name == subject)) {
            let known: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            let expected = format!("one of {}", known.join(", "));
            return Err(SettingError::new(format!("tasks.{name}.subjects.{at}"), &wanted[at], expected).into());
        }
        found.retain(|(name, _)| wanted.contains(name));
    }
    let mut all = Vec::new();
    for (subject, path) in found {
        let mut questions = read(&path)?;
        questions.truncate(limit.unwrap_or(usize::MAX));
        let mut examples = Vec::new();
        if shots > 0 {
            let path = folder.join("dev").join(format!("{subject}_dev.csv"));
            examples = read(&path)?;
            if examples.len() < shots {
                let problem = format!("has {} questions, `shots` of task `{name}` asks for {shots}", examples.len());
                return Err(StageError::input(path, problem));
            }
            examples.truncate(shots);
        }
        all.push((subject, examples, questions));
    }
    let total: usize = all.iter().map(|(_, _, questions)| questions.len()).sum();
    if total == 0 {
        return Err(StageError::input(folder, "no question found, expected `test/SUBJECT_test.csv`"));
    }
    let prompter = Prompter::open(bench)?;
    let context = bench.model()?.1.config().context;
    let (mut accuracy, mut shortened, mut by_subject, mut predictions) =
        (Mean::default(), 0_usize, Map::new(), Vec::new());
    for (subject, examples, questions) in &all {
        let mut own = Mean::default();
        for (number, question) in questions.iter().enumerate() {
            bench.advance(accuracy.count, total)?;
            let (pairs, cut) = fitting(&prompter, context, subject, examples, question)?;
            shortened += usize::from(cut);
            let losses: Vec<f64> = answers(bench, &pairs)?.iter().map(|answer| answer.loss).collect();
            // Of equal ones the first, as argmax has it.
            let chosen = (1..4).fold(0, |best, letter| if losses[letter] < losses[best] { letter } else { best });
            own.add(u8::from(chosen == question.correct));
            accuracy.add(u8::from(chosen == question.correct));
            predictions.push(json!({
                "task": name, "subject": subject, "question": number, "chosen": LETTERS[chosen],
                "correct": LETTERS[question.correct], "losses": losses, "shortened": cut,
            }));
        }
        by_subject.insert(subject.clone(), json!({ "accuracy": own.get(), "questions": own.count }));
    }
    Ok(Findings {
        metrics: json!({
            "kind": "MultipleChoice", "accuracy": accuracy.get(), "questions": accuracy.count,
            "by_subject": by_subject, "shortened": shortened,
        }),
        predictions,
    })
}

/// The prompt with each of the four letters. If it is longer than the context, answered questions are left out, the
/// first ones first, then tokens from the left; says whether that was so.
fn fitting(
    prompter: &Prompter,
    context: usize,
    subject: &str,
    examples: &[Question],
    question: &Question,
) -> Result<(Vec<Pair>, bool), StageError> {
    let mut left_out = 0;
    loop {
        let prompt = prompt(subject, &examples[left_out..], question);
        let mut pairs = LETTERS
            .iter()
            .map(|letter| prompter.encode_pair(&prompt, &format!(" {letter}")))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = pairs.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        if longest > context && left_out < examples.len() {
            left_out += 1;
            continue;
        }
        for (ids, prompt) in &mut pairs {
            // At least one token of the prompt has to stay, or the answer is predicted by nothing.
            let extra = ids.len().saturating_sub(context.max(2)).min(*prompt - 1);
            ids.drain(..extra);
            *prompt -= extra;
        }
        return Ok((pairs, longest > context || left_out > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, prompt};

    #[test]
    fn the_prompt_is_that_of_the_harness() {
        let shot = Question {
            text: " What is 1 + 1?".to_owned(),
            choices: ["1", "2", "3", "4"].map(str::to_owned),
            correct: 1,
        };
        let question = Question {
            text: "What is 2 + 2?".to_owned(),
            choices: ["1", "2", "3", "4"].map(str::to_owned),
            correct: 3,
        };
        insta::assert_snapshot!(prompt("elementary_mathematics", &[shot], &question), @r"
        The following are multiple choice questions (with answers) about elementary mathematics.

        What is 1 + 1?
        A. 1
        B. 2
        C. 3
        D. 4
        Answer: B

        What is 2 + 2?
        A. 1
        B. 2
        C. 3
        D. 4
        Answer:
        ");
    }
}
