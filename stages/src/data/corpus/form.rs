//! Which files are documents, by their names, and how they are unpacked.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::super::DataError;

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) content: Content,
    pub(super) packing: Packing,
}

/// What is in a file, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// One document.
    Text,
    /// A document in each line, as JSON.
    Lines {
        /// Whether lines may tell of planted facts: they do in files that stages write.
        facts: bool,
    },
    /// Parquet.
    Rows,
}

/// How a file is packed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstandard,
}

impl Form {
    /// The ends of names that [`Form::of`] knows.
    pub(super) const NAMES: &str = "`.txt`, `.jsonl` (both also with `.gz` or `.zst`) or `.parquet`";

    // Names are compared as they are: what counts as a document must not depend on the file system.
    #[allow(clippy::case_sensitive_file_extension_comparisons)]
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, packing) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Packing::Gzip),
            Some((stem, "zst")) => (stem, Packing::Zstandard),
            _ => (name, Packing::None),
        };
        let content = if stem.ends_with(".txt") {
            Content::Text
        } else if stem.ends_with(".jsonl") {
            Content::Lines { facts: name == "documents.jsonl" }
        } else if name.ends_with(".parquet") {
            Content::Rows
        } else {
            return None;
        };
        Some(Self { content, packing })
    }

    pub(super) fn is_packed_lines(self) -> bool {
        matches!(self.content, Content::Lines { .. }) && self.packing != Packing::None
    }
}

/// The file below an unpacking reader; it tells how much of it was read.
pub(super) struct Packed(File);

impl Packed {
    /// Bytes read so far, those included that wait in a buffer.
    pub(super) fn position(&mut self) -> u64 {
        // Only ever used to show progress.
        self.0.stream_position().unwrap_or_default()
    }
}

impl Packing {
    /// Opens a file to read what was packed into it.
    pub(super) fn open(self, path: &Path) -> Result<(Box<dyn BufRead + Send>, Packed), DataError> {
        let file = File::open(path).map_err(DataError::io("read", path))?;
        // Both have one position.
        let packed = Packed(file.try_clone().map_err(DataError::io("read", path))?);
        let file = BufReader::new(file);
        let reader: Box<dyn BufRead + Send> = match self {
            Self::None => Box::new(file),
            Self::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            Self::Zstandard => {
                let decoder = zstd::Decoder::with_buffer(file).map_err(|error| self.refuse(path, error))?;
                Box::new(BufReader::new(decoder))
            }
        };
        Ok((reader, packed))
    }

    /// What an error of a reader means.
    pub(super) fn refuse(self, path: &Path, error: io::Error) -> DataError {
        let form = match self {
            Self::None => return DataError::io("read", path)(error),
            Self::Gzip => "gzip",
            Self::Zstandard => "Zstandard",
        };
        DataError::content(path, format!("no complete {form} file ({error}); fetch it again"))
    }
}
