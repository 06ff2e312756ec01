//! All stage kinds. Adding one means one room and one line here.

use crate::stage::{Kind, KindInfo, Stage};

type Read<E> = Result<Box<dyn Stage>, E>;

/// Reads a stage of one kind from text, and knows what it is.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What is known of the kind without settings.
    pub info: KindInfo,
    from_ron: fn(&ron::Options, &str) -> Read<ron::error::SpannedError>,
    from_json: fn(&str) -> Read<serde_json::Error>,
}

impl Entry {
    const fn of<K: Kind>() -> Self {
        Self {
            info: KindInfo::of::<K>(),
            from_ron: |options, text| Ok(Box::new(options.from_str::<K>(text)?)),
            from_json: |text| Ok(Box::new(serde_json::from_str::<K>(text)?)),
        }
    }

    /// Reads settings as they stand in a graph: `Kind(field: value, …)`.
    pub fn from_ron(&self, options: &ron::Options, text: &str) -> Result<Box<dyn Stage>, ron::error::SpannedError> {
        (self.from_ron)(options, text)
    }

    /// Reads settings as they stand in a job file. Maps keep their order, since a kind may use it.
    pub fn from_json(&self, text: &str) -> Result<Box<dyn Stage>, serde_json::Error> {
        (self.from_json)(text)
    }
}

/// Every kind, in the order in which help texts list them: the order of the pipeline.
pub const KINDS: [Entry; 13] = [
    Entry::of::<crate::download::Download>(),
    Entry::of::<crate::synthesize::Synthesize>(),
    Entry::of::<crate::train_tokenizer::TrainTokenizer>(),
    Entry::of::<crate::tokenize::Tokenize>(),
    Entry::of::<crate::init_model::InitModel>(),
    Entry::of::<crate::extend_rope::ExtendRope>(),
    Entry::of::<crate::score::Score>(),
    Entry::of::<crate::postprocess::Postprocess>(),
    Entry::of::<crate::train::Train>(),
    Entry::of::<crate::merge_adapter::MergeAdapter>(),
    Entry::of::<crate::evaluate::Evaluate>(),
    Entry::of::<crate::report::Report>(),
    Entry::of::<crate::command::Command>(),
];

/// The kind of that name.
pub fn find(name: &str) -> Option<Entry> {
    KINDS.into_iter().find(|entry| entry.info.name == name)
}

/// The RON dialect in which settings are written: options without `Some`, newtypes without their name.
pub fn ron_options() -> ron::Options {
    use ron::extensions::Extensions;
    ron::Options::default().with_default_extension(
        Extensions::IMPLICIT_SOME | Extensions::UNWRAP_NEWTYPES | Extensions::UNWRAP_VARIANT_NEWTYPES,
    )
}
