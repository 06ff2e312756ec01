//! Text corpora: `documents.jsonl`, or `.txt` and `.txt.gz` files of one document each.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    iter,
    path::{Path, PathBuf},
    vec,
};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::DataError;

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name: `id` in `documents.jsonl`, else the path of the file below the corpus folder.
    pub id: String,
    /// The text.
    pub text: String,
    /// Facts planted in the text; `None` if nothing is known of them.
    pub facts: Option<Vec<Fact>>,
    /// Bytes of the corpus file that it took, to show progress by.
    pub bytes: u64,
    /// Where it lies.
    pub place: DocumentPlace,
}

/// Where a document lies in its [`Corpus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentPlace {
    /// The number of the file, in the order of the corpus.
    file: usize,
    /// In `documents.jsonl`, where the document begins, in bytes; else 0.
    offset: u64,
    /// In `documents.jsonl`, the lines before it; else 0.
    lines: usize,
}

/// A fact that one place of a document states and another place needs. Ranges are half-open, in bytes of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What the fact is about.
    pub key: String,
    /// What only the planted sentence tells.
    pub value: String,
    /// Where it is stated.
    pub planted: [usize; 2],
    /// The part of the value, where it is needed again, that nothing but the planted sentence tells.
    pub needed: [usize; 2],
}

#[derive(Deserialize)]
struct Line {
    id: String,
    text: String,
    #[serde(default)]
    facts: Option<Vec<Fact>>,
}

/// The documents of some corpus folders, found but not yet read.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<CorpusFile>,
}

#[derive(Clone, Debug)]
struct CorpusFile {
    path: PathBuf,
    name: String,
    form: Form,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Jsonl,
    Text,
    Gzip,
}

impl Form {
    // Names are compared as they are: what counts as a document must not depend on the file system.
    #[allow(clippy::case_sensitive_file_extension_comparisons)]
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        if name == "documents.jsonl" {
            Some(Self::Jsonl)
        } else if name.ends_with(".txt") {
            Some(Self::Text)
        } else if name.ends_with(".txt.gz") {
            Some(Self::Gzip)
        } else {
            None
        }
    }
}

impl Corpus {
    /// Finds the documents below folders (or in single files), folder by folder, within one in byte order of the
    /// paths. Other files are passed over; a folder without any document is an error.
    pub fn open<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for folder in folders {
            let folder = folder.as_ref();
            let mut found = Vec::new();
            for entry in WalkDir::new(folder).follow_links(true) {
                let entry = entry.map_err(|error| DataError::io("read", folder)(error.into()))?;
                let Some(form) = Form::of(entry.path()).filter(|_| entry.file_type().is_file()) else { continue };
                let path = entry.path().to_owned();
                let bytes = fs::metadata(&path).map_err(DataError::io("read", &path))?.len();
                let below = path.strip_prefix(folder).ok().filter(|below| !below.as_os_str().is_empty());
                let name = below.unwrap_or(Path::new(entry.file_name())).to_string_lossy().into_owned();
                found.push(CorpusFile { path, name, form, bytes });
            }
            if found.is_empty() {
                let problem = "no text found: expected `documents.jsonl`, or files that end in `.txt` or `.txt.gz`";
                return Err(DataError::content(folder, problem));
            }
            found.sort_by(|left, right| left.name.as_bytes().cmp(right.name.as_bytes()));
            files.append(&mut found);
        }
        Ok(Self { files })
    }

    /// The size of all files, to show progress by.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads the documents in order, one at a time.
    pub fn documents(&self) -> Documents {
        Documents { files: self.files.clone().into_iter().enumerate(), lines: None, failed: false }
    }

    /// Reads one document, found by another look at the same corpus.
    pub fn document(&self, place: DocumentPlace) -> Result<Document, DataError> {
        let gone = || DataError::content("corpus", format!("there is no document at {place:?} any more"));
        let file = self.files.get(place.file).ok_or_else(gone)?;
        match file.form {
            Form::Jsonl => Lines::open(file, place)?.advance()?.ok_or_else(gone),
            Form::Text | Form::Gzip => whole(file, place.file),
        }
    }
}

/// Iterates over the documents of a [`Corpus`]; holds one document at a time and ends after the first error.
pub struct Documents {
    files: iter::Enumerate<vec::IntoIter<CorpusFile>>,
    lines: Option<Lines>,
    failed: bool,
}

struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    file: usize,
    offset: u64,
    line: usize,
}

impl Iterator for Documents {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl Documents {
    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        loop {
            if let Some(lines) = &mut self.lines {
                if let Some(document) = lines.advance()? {
                    return Ok(Some(document));
                }
                self.lines = None;
            }
            let Some((number, file)) = self.files.next() else { return Ok(None) };
            match file.form {
                Form::Jsonl => {
                    self.lines = Some(Lines::open(&file, DocumentPlace { file: number, offset: 0, lines: 0 })?);
                }
                Form::Text | Form::Gzip => return whole(&file, number).map(Some),
            }
        }
    }
}

/// A file that is one document.
fn whole(file: &CorpusFile, number: usize) -> Result<Document, DataError> {
    let bytes = if file.form == Form::Gzip {
        let packed = File::open(&file.path).map_err(DataError::io("read", &file.path))?;
        let mut bytes = Vec::new();
        MultiGzDecoder::new(BufReader::new(packed)).read_to_end(&mut bytes).map_err(|error| {
            DataError::content(&file.path, format!("no complete gzip file ({error}); fetch it again"))
        })?;
        bytes
    } else {
        fs::read(&file.path).map_err(DataError::io("read", &file.path))?
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        DataError::content(&file.path, format!("no UTF-8 text: byte {at} cannot be read; convert the file to UTF-8"))
    })?;
    let place = DocumentPlace { file: number, offset: 0, lines: 0 };
    Ok(Document { id: file.name.clone(), text, facts: None, bytes: file.bytes, place })
}

impl Lines {
    fn open(file: &CorpusFile, place: DocumentPlace) -> Result<Self, DataError> {
        let mut open = File::open(&file.path).map_err(DataError::io("read", &file.path))?;
        open.seek(SeekFrom::Start(place.offset)).map_err(DataError::io("read", &file.path))?;
        let DocumentPlace { file: number, offset, lines } = place;
        Ok(Self { path: file.path.clone(), reader: BufReader::new(open), file: number, offset, line: lines })
    }

    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(DataError::io("read", &self.path))?;
            if read == 0 {
                return Ok(None);
            }
            let place = DocumentPlace { file: self.file, offset: self.offset, lines: self.line };
            self.line += 1;
            self.offset += read as u64;
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let line: Line = serde_json::from_slice(&bytes).map_err(|error| {
                // The library counts lines from the start of what it was given, which is one line here.
                let what = error.to_string();
                let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
                self.wrong(format!("line {}, column {}: no document ({what})", self.line, error.column()))
            })?;
            for (number, fact) in line.facts.iter().flatten().enumerate() {
                for (name, [from, to]) in [("planted", fact.planted), ("needed", fact.needed)] {
                    if from >= to || line.text.get(from..to).is_none() {
                        let (at, length) = (self.line, line.text.len());
                        return Err(self.wrong(format!(
                            "line {at}, fact {number}: `{name}` [{from}, {to}] is no range of characters of a text of \
                             {length} bytes"
                        )));
                    }
                }
            }
            return Ok(Some(Document { id: line.id, text: line.text, facts: line.facts, bytes: read as u64, place }));
        }
    }

    fn wrong(&self, problem: String) -> DataError {
        DataError::content(&self.path, problem)
    }
}
