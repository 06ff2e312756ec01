//! Multiple choice in the format of MMLU, prompted as the lm-evaluation-harness does (`tasks/mmlu`): the four letters
//! are compared by their log-likelihood.

use serde_json::{Map, json};

use super::{
    position::Mean,
    questions::{LETTERS, Question, Questions},
    run::{Bench, Findings},
    text::{Pair, Prompter, answers},
};
use crate::stage::{Reference, SettingError, StageError};

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

pub(super) fn measure(
    bench: &Bench<'_>,
    name: &str,
    data: &Reference,
    shots: usize,
    limit: Option<usize>,
    wanted: Option<&[String]>,
) -> Result<Findings, StageError> {
    let folder = bench.context.input(data)?;
    let found = Questions::find(folder)?;
    if let Some(wanted) = wanted
        && let Some(at) = wanted.iter().position(|subject| !found.subjects().any(|known| known == subject))
    {
        let expected = format!("one of {}", found.subjects().collect::<Vec<_>>().join(", "));
        return Err(SettingError::new(format!("tasks.{name}.subjects.{at}"), &wanted[at], expected).into());
    }
    let is_wanted = |subject: &&str| wanted.is_none_or(|wanted| wanted.iter().any(|name| name == subject));
    let mut all = Vec::new();
    for subject in found.subjects().filter(is_wanted) {
        let mut questions = found.test(subject)?;
        questions.truncate(limit.unwrap_or(usize::MAX));
        let examples = if shots > 0 { found.examples(subject, shots, name)? } else { Vec::new() };
        all.push((subject.to_owned(), examples, questions));
    }
    let total: usize = all.iter().map(|(_, _, questions)| questions.len()).sum();
    if total == 0 {
        return Err(StageError::input(folder, "its files hold no question"));
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
