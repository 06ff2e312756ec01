//! Which files are documents, by their names, and how they are unpacked.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use flate2::bufread::GzDecoder;

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
    /// Files of documents.
    Archive(Archived),
}

/// The format of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archived {
    Zip,
    Tar,
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
    pub(super) const NAMES: &str = "`.txt`, `.jsonl`, `.tar` (these also with `.gz` or `.zst`), `.parquet` or `.zip`";
    /// Of those, the ones that are read within an archive.
    pub(super) const MEMBERS: &str = "`.txt` or `.jsonl` (both also with `.gz` or `.zst`)";

    // Names are compared as they are: what counts as a document must not depend on the file system.
    #[allow(clippy::case_sensitive_file_extension_comparisons)]
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, packing) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Packing::Gzip),
            Some((stem, "zst")) => (stem, Packing::Zstandard),
            Some((_, "tgz")) => return Some(Self { content: Content::Archive(Archived::Tar), packing: Packing::Gzip }),
            _ => (name, Packing::None),
        };
        let content = if stem.ends_with(".txt") {
            Content::Text
        } else if stem.ends_with(".jsonl") {
            Content::Lines { facts: name == "documents.jsonl" }
        } else if stem.ends_with(".tar") {
            Content::Archive(Archived::Tar)
        } else if name.ends_with(".parquet") {
            Content::Rows
        } else if name.ends_with(".zip") {
            Content::Archive(Archived::Zip)
        } else {
            return None;
        };
        Some(Self { content, packing })
    }

    /// Whether each document of a file can be found without reading what is in front of it.
    pub(super) fn has_direct_access(self) -> bool {
        match self.content {
            Content::Text | Content::Rows => true,
            Content::Lines { .. } => self.packing == Packing::None,
            Content::Archive(_) => false,
        }
    }
}

/// Most bytes of a document that was packed: a few bytes may unpack to more than any memory holds.
const MOST: u64 = 256 << 20;

/// The file below an unpacking reader; it tells how much of it was read.
pub(super) struct Packed(File);

impl Packed {
    /// Another handle on an open file.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self, DataError> {
        // Both have one position.
        file.try_clone().map(Self).map_err(DataError::io("read", path))
    }

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
        let packed = Packed::of(&file, path)?;
        Ok((self.unpack(Box::new(BufReader::new(file)), path)?, packed))
    }

    /// Reads what was packed into a file.
    pub(super) fn unpack(
        self,
        packed: Box<dyn BufRead + Send>,
        path: &Path,
    ) -> Result<Box<dyn BufRead + Send>, DataError> {
        Ok(match self {
            Self::None => packed,
            Self::Gzip => Box::new(BufReader::new(Gzip(Some(GzDecoder::new(packed))))),
            Self::Zstandard => {
                let decoder = zstd::Decoder::with_buffer(packed);
                Box::new(BufReader::new(Windowed(decoder.map_err(|error| refuse(self.name(), path, error))?)))
            }
        })
    }

    /// Its name, if there is any packing.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstandard => Some("Zstandard"),
        }
    }
}

/// A gzip file: one packed text or several, one behind the other. Zeros may fill it up, as tapes and those who write for them do;
/// anything else behind a packed text is damage.
struct Gzip<R: BufRead>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(text) = &mut self.0 {
            let read = text.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut packed) = self.0.take().map(GzDecoder::into_inner) else { break };
            if skip_zeros(&mut packed)? {
                self.0 = Some(GzDecoder::new(packed));
            }
        }
        Ok(0)
    }
}

/// Whether anything follows the zeros that come next.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros < bytes.len() || bytes.is_empty() {
            let follows = !bytes.is_empty();
            reader.consume(zeros);
            return Ok(follows);
        }
        reader.consume(zeros);
    }
}

/// What an error of a reader of a packed file means.
pub(super) fn refuse(packing: Option<&str>, path: &Path, error: io::Error) -> DataError {
    match packing {
        None => DataError::io("read", path)(error),
        Some(form) if error.kind() == io::ErrorKind::Unsupported => {
            DataError::content(path, format!("a {form} file that cannot be read: {error}"))
        }
        Some(form) => DataError::content(path, format!("no complete {form} file ({error}); fetch it again")),
    }
}

/// An error of a reader of a file that is whole, but not of a form that is read; to fetch it again would not help.
pub(super) fn unreadable(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, problem)
}

/// Tells Zstandard's files of a large window from damaged ones.
struct Windowed<R>(R);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            // The library tells errors apart by their texts alone.
            if error.to_string() == "Frame requires too much memory for decoding" {
                return unreadable("it was packed with a window of more than 128 MiB; pack it without --long");
            }
            error
        })
    }
}

/// Reads a document that goes to the end of a reader.
pub(super) fn read_text(reader: impl Read, path: &Path, packing: Option<&str>) -> Result<String, DataError> {
    let mut bytes = Vec::new();
    let mut reader = reader.take(if packing.is_some() { MOST + 1 } else { u64::MAX });
    reader.read_to_end(&mut bytes).map_err(|error| refuse(packing, path, error))?;
    if packing.is_some() {
        check_length(bytes.len(), path)?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        DataError::content(path, format!("no UTF-8 text: byte {at} cannot be read; convert the file to UTF-8"))
    })
}

/// Reads a line; that of a packed file with a bound on its length.
pub(super) fn read_line(
    reader: &mut dyn BufRead,
    line: &mut Vec<u8>,
    path: &Path,
    packing: Option<&str>,
) -> Result<usize, DataError> {
    let fault = |error| refuse(packing, path, error);
    if packing.is_none() {
        return reader.read_until(b'\n', line).map_err(fault);
    }
    let read = reader.take(MOST + 1).read_until(b'\n', line).map_err(fault)?;
    check_length(read, path)?;
    Ok(read)
}

fn check_length(length: usize, path: &Path) -> Result<(), DataError> {
    if length as u64 <= MOST {
        return Ok(());
    }
    let most = MOST >> 20;
    let problem = format!(
        "unpacks to a document of more than {most} MiB, which is taken for damage; unpack and split it if it is real"
    );
    Err(DataError::content(path, problem))
}
