//! Files that stages exchange: token sets, per-token arrays, corpora.
//!
//! Every reader checks what it opens (a truncated or foreign file is an error that names the file, the tensor, what
//! was expected and what was found); every writer gives the same bytes for the same content.

mod arrays;
mod corpus;
mod error;
mod grouping;
mod json;
mod layout;
mod table;
mod tensor_file;
mod text_tokenizer;
mod token_meaning;
mod tokens;
mod tokens_writer;

pub use arrays::{ArrayKind, ArraySet, ArraySetWriter, ArraysMetadata, ScoreWindows};
pub use corpus::{Corpus, Document, DocumentPlace, Documents, Fact};
pub use error::DataError;
pub use grouping::{Item, groups};
pub(crate) use json::sorted as sorted_json;
pub use json::{read_json, write_json};
pub use layout::{PART_SEQUENCES, PartLayout, part_name};
pub use table::rows_of;
pub use tensor_file::{Element, TensorFile, TensorOut, write_tensors};
pub use text_tokenizer::TextTokenizer;
pub use token_meaning::renamed_special_tokens;
pub use tokens::{GroundTruth, Origin, TokenSet, TokensMetadata};
pub use tokens_writer::TokenSetWriter;
