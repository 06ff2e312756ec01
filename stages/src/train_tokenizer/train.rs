//! Byte-level BPE as GPT-2 has it: bytes as the alphabet, words split by its regular expression.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use serde_json::json;
use tokenizers::{
    AddedToken, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
    processors::template::TemplateProcessing,
};

use super::TrainTokenizer;
use crate::{
    data::{Corpus, write_json},
    stage::{Context, StageError},
};

const BOS: &str = "<s>";
const EOS: &str = "</s>";

pub(super) fn run(settings: &TrainTokenizer, context: &Context) -> Result<(), StageError> {
    let folders = settings.text.iter().map(|text| context.input(text)).collect::<Result<Vec<_>, _>>()?;
    let corpus = Corpus::open(folders)?;
    let mut tokenizer = untrained()?;
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .vocab_size(settings.vocabulary)
            .show_progress(false)
            .special_tokens([BOS, EOS].map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );

    // The library wants plain texts: the first error ends them and is kept aside.
    let problem = Mutex::new(None);
    let (mut bytes, mut characters) = (0, 0_u64);
    let total = corpus.bytes();
    let texts = corpus.documents().map_while(|document| {
        let checked = context.check_canceled().and_then(|()| document.map_err(StageError::from)).and_then(|document| {
            bytes += document.bytes;
            characters += document.text.len() as u64;
            // The library counts pairs in 32 bits with a sign; no pair can be seen more often than there are bytes.
            if characters > i32::MAX as u64 {
                return Err(StageError::Failed(
                    "the corpora have more than 2 GiB of text, more than the tokenizer trainer can count; choose a \
                     part of them"
                        .to_owned(),
                ));
            }
            context.progress(bytes, total, "bytes", "counting words");
            Ok(document.text)
        });
        checked.map_err(|error| *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error)).ok()
    });
    context.in_pool(|| {
        let result = tokenizer.train(&mut trainer, texts).map(|_| ());
        result.map_err(|error| StageError::Failed(format!("training the tokenizer failed: {error}")))
    })?;
    if let Some(error) = problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }

    let reached = tokenizer.get_vocab_size(true);
    if reached < settings.vocabulary {
        context.warn(format!(
            "the corpora hold only enough text for {reached} tokens, fewer than the {} asked for",
            settings.vocabulary
        ));
    }
    write(&tokenizer, context)
}

fn untrained() -> Result<Tokenizer, StageError> {
    let bug = |error: &dyn std::fmt::Display| StageError::Bug(format!("tokenizer settings: {error}"));
    let byte_level = ByteLevel::new(false, false, true);
    let bos_first = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|builder| builder.try_pair(format!("{BOS} $A {BOS}:1 $B:1")))
        .map_err(|error| bug(&error))?
        .special_tokens(vec![(BOS, 0)])
        .build()
        .map_err(|error| bug(&error))?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level)).with_post_processor(Some(bos_first));
    Ok(tokenizer)
}

fn write(tokenizer: &Tokenizer, context: &Context) -> Result<(), StageError> {
    let path = context.output().join("tokenizer.json");
    let text = tokenizer.to_string(true).map_err(|error| StageError::Bug(format!("tokenizer.json: {error}")))?;
    fs::write(&path, text).map_err(StageError::io("write", &path))?;
    let config = json!({
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": true,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    Ok(write_json(&context.output().join("tokenizer_config.json"), &config)?)
}
