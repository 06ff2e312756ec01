//! The contract between a stage kind and whoever runs it.

mod collect;
mod context;
mod error;
mod estimate;
mod isolation;
mod kind;
mod manner;
mod part;
mod reference;

pub use context::{Context, ContextBuilder, StageEvent};
pub(crate) use error::MAKE_ROOM;
pub use error::{Blame, SettingError, StageError};
pub use estimate::{Estimate, Outlook, Outlooks, Work};
pub use isolation::{Allowed, Isolation};
pub use kind::{CPU_F32, Kind, KindInfo, Numerics, Source, Stage};
pub use manner::Manner;
pub use part::{FinishedPart, Part, Split};
pub use reference::{Reference, SourcePath};
