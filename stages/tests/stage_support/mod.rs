//! A folder of made inputs for each test, and stages that run on them.

#![allow(dead_code, unreachable_pub, reason = "a room of several test targets, of which each uses its own share")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, whatever goes wrong is a failure of the test")]

pub mod toy;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;
use twdag_stages::{
    data::{ArrayKind, ArraySetWriter, GroundTruth, Origin, PartLayout, TokenSet, TokenSetWriter},
    registry::ron_options,
    stage::{Context, Kind, StageError, StageEvent},
};

/// The pretrained models, corpora and reference values that tests only read.
pub const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

/// The folder of a pretrained model.
pub fn model_folder(name: &str) -> PathBuf {
    Path::new(DATA).join("models").join(name)
}

/// A model of 0.26 M parameters with 512 tokens in its vocabulary; BOS is 1.
pub fn stories() -> PathBuf {
    model_folder("stories260k")
}

/// A folder of folders. Every one of them is an input, under its name, of the stages that run here.
pub struct Room {
    folder: TempDir,
    outside: BTreeMap<String, PathBuf>,
}

impl Room {
    /// An empty one, whose input `model` is [`stories`].
    pub fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder"), outside: BTreeMap::new() }.with("model", stories())
    }

    /// The same with an input that lies elsewhere.
    pub fn with(mut self, name: &str, folder: impl Into<PathBuf>) -> Self {
        self.outside.insert(name.to_owned(), folder.into());
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes sequences of the tokenizer of [`stories`] as `tokens`.
    pub fn tokens(&self, sequences: &[Vec<u32>], truth: Option<&[GroundTruth]>) {
        let folder = self.path("tokens");
        fs::create_dir_all(&folder).expect("a folder");
        let mut writer = TokenSetWriter::new(&folder, sequences[0].len(), truth.is_some());
        for (index, ids) in sequences.iter().enumerate() {
            let origin = Origin { document: 0, number: index as u32 };
            writer.push(ids, origin, truth.map(|truth| &truth[index])).expect("a sequence");
        }
        writer.finish(&stories().join("tokenizer.json"), Some(1), 512, 1).expect("tokens.json");
    }

    /// Writes one number for each target of `tokens`, all rows one after the other.
    pub fn arrays(&self, name: &str, kind: ArrayKind, values: &[f32]) {
        fs::create_dir_all(self.path(name)).expect("a folder");
        let tokens = TokenSet::open(&self.path("tokens")).expect("tokens");
        let layout = PartLayout::even(tokens.sequences());
        let writer = ArraySetWriter::new(&self.path(name), kind, layout, tokens.length(), tokens.digest(), None);
        writer.write_part(0, values).expect("a part");
        writer.finish().expect("the describing file");
    }

    /// Runs a stage into the folder `name`, which is emptied first; its scratch folder `NAME.scratch` stays. Where
    /// `watch` answers an event with true, the stage is asked to stop.
    pub fn run<K: Kind>(
        &self,
        name: &str,
        threads: usize,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<(), StageError> {
        let (output, scratch) = (self.path(name), self.path(&format!("{name}.scratch")));
        if output.exists() {
            fs::remove_dir_all(&output).expect("removed");
        }
        let stage: K = ron_options().from_str(settings).expect(settings);
        stage.check()?;
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        let mut context = Context::builder(&output, &scratch);
        for (name, folder) in self.inputs() {
            context = context.input(name.as_str(), folder);
        }
        fs::create_dir_all(&output).expect("an output folder");
        fs::create_dir_all(&scratch).expect("a scratch folder");
        let context = context
            .threads(threads)
            .cancel(cancel)
            .events(move |event| {
                if watch(&event) {
                    flag.store(true, Ordering::Relaxed);
                }
            })
            .build();
        stage.run(&context)
    }

    fn inputs(&self) -> BTreeMap<String, PathBuf> {
        let mut inputs: BTreeMap<String, PathBuf> = fs::read_dir(self.folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .collect();
        inputs.extend(self.outside.clone());
        inputs
    }

    /// Every file of a folder with its content.
    pub fn files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(self.path(name))
            .expect("a folder")
            .map(|entry| {
                let path = entry.expect("an entry").path();
                (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(path).expect("a file"))
            })
            .collect();
        files.sort();
        files
    }
}

/// Lets a stage run to its end.
pub fn in_peace(_: &StageEvent) -> bool {
    false
}
