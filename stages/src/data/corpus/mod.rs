//! Text corpora: files of one document each, of one document a line (JSON), or with a column of documents (Parquet), and archives
//! of such files.

mod archive;
mod form;
mod lines;
mod rows;

use std::{
    fs, iter,
    path::{Path, PathBuf},
    vec,
};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use self::{
    archive::Archive,
    form::{Content, Form, read_text},
    lines::Lines,
    rows::Rows,
};
use super::DataError;

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name: `id` of its line, if there is one; else the path of the file below the corpus folder, for a line or row
    /// with its number in the file, from 1. A member's path follows that of its archive.
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
    /// Where in the file.
    within: Within,
}

/// Where a document lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Within {
    /// It is the file.
    Whole,
    /// A line: where it begins, in bytes of the unpacked file, and the lines before it.
    Line { offset: u64, lines: usize },
    /// A row: its row group, its number there, and the rows of the groups before.
    Row { group: usize, row: usize, before: usize },
    /// A document of an archive: the number of those before it there.
    Member { before: usize },
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

/// The documents of some corpus folders, found but not yet read.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<CorpusFile>,
    column: String,
}

#[derive(Clone, Debug)]
struct CorpusFile {
    path: PathBuf,
    name: String,
    form: Form,
    bytes: u64,
}

/// The field of JSON lines and the column of Parquet files that holds the text, if no other is named.
const COLUMN: &str = "text";

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
                let problem = format!("no text found: expected files that end in {}", Form::NAMES);
                return Err(DataError::content(folder, problem));
            }
            found.sort_by(|left, right| left.name.as_bytes().cmp(right.name.as_bytes()));
            files.append(&mut found);
        }
        Ok(Self { files, column: COLUMN.to_owned() })
    }

    /// Takes the text from another field of JSON lines and column of Parquet files than `text`.
    #[must_use]
    pub fn with_column(self, column: &str) -> Self {
        Self { column: column.to_owned(), ..self }
    }

    /// The size of all files, to show progress by.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether [`Corpus::documents_at`] finds each document without reading what is in front of it. In packed lines and archives it
    /// passes by what comes before.
    pub fn has_direct_access(&self) -> bool {
        self.files.iter().all(|file| file.form.has_direct_access())
    }

    /// Reads the documents in order, one at a time.
    pub fn documents(&self) -> Documents {
        let files = self.files.clone().into_iter().enumerate();
        Documents { files, column: self.column.clone(), open: None, failed: false }
    }

    /// Reads documents that another look at the same corpus has found, best in their order there: a file that must be read from its
    /// start is then read once.
    pub fn documents_at(&self, places: Vec<DocumentPlace>) -> DocumentsAt<'_> {
        DocumentsAt { corpus: self, places: places.into_iter(), open: None }
    }
}

/// Reads the documents at some places of a [`Corpus`].
pub struct DocumentsAt<'c> {
    corpus: &'c Corpus,
    places: vec::IntoIter<DocumentPlace>,
    /// The number of a file of several documents, and where it is read.
    open: Option<(usize, Open)>,
}

impl Iterator for DocumentsAt<'_> {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.places.next()?;
        Some(self.find(place).and_then(|document| {
            document.ok_or_else(|| DataError::content("corpus", format!("there is no document at {place:?} any more")))
        }))
    }
}

impl DocumentsAt<'_> {
    fn find(&mut self, place: DocumentPlace) -> Result<Option<Document>, DataError> {
        let Some(file) = self.corpus.files.get(place.file) else { return Ok(None) };
        if let Within::Row { group, row, before } = place.within {
            return Rows::open_at(file, place.file, &self.corpus.column, group, row, before)?.advance();
        }
        let open = match self.open.take() {
            Some((number, open)) if number == place.file && open.is_before(place.within) => Some(open),
            _ => Open::at_start(file, place.file, &self.corpus.column)?,
        };
        let Some(open) = open else { return whole(file, place.file).map(Some) };
        let (_, open) = self.open.insert((place.file, open));
        match (open, place.within) {
            (Open::Lines(lines), Within::Line { offset, lines: before }) => lines.find(offset, before),
            (Open::Archive(archive), Within::Member { before }) => archive.find(before),
            _ => Ok(None),
        }
    }
}

/// Iterates over the documents of a [`Corpus`] and ends after the first error. It holds one document at a time, of a Parquet file
/// the page that the document lies in, and of a zip archive the directory.
pub struct Documents {
    files: iter::Enumerate<vec::IntoIter<CorpusFile>>,
    column: String,
    open: Option<Open>,
    failed: bool,
}

/// A file of several documents.
enum Open {
    Lines(Lines),
    Rows(Box<Rows>),
    Archive(Box<Archive>),
}

impl Open {
    /// Opens a file, unless it is one document.
    fn at_start(file: &CorpusFile, number: usize, column: &str) -> Result<Option<Self>, DataError> {
        Ok(Some(match file.form.content {
            Content::Text => return Ok(None),
            Content::Lines { .. } => Self::Lines(Lines::open(file, number, column)?),
            Content::Rows => Self::Rows(Box::new(Rows::open_at(file, number, column, 0, 0, 0)?)),
            Content::Archive(archived) => Self::Archive(Box::new(Archive::open(file, number, archived, column)?)),
        }))
    }

    /// Whether a document comes only after what was read.
    fn is_before(&self, place: Within) -> bool {
        match (self, place) {
            (Self::Lines(lines), Within::Line { offset, .. }) => lines.is_before(offset),
            (Self::Archive(archive), Within::Member { before }) => archive.is_before(before),
            _ => false,
        }
    }

    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        match self {
            Self::Lines(lines) => lines.advance(),
            Self::Rows(rows) => rows.advance(),
            Self::Archive(archive) => archive.advance(),
        }
    }
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
            if let Some(document) = self.open.as_mut().map_or(Ok(None), Open::advance)? {
                return Ok(Some(document));
            }
            self.open = None;
            let Some((number, file)) = self.files.next() else { return Ok(None) };
            match Open::at_start(&file, number, &self.column)? {
                None => return whole(&file, number).map(Some),
                open => self.open = open,
            }
        }
    }
}

/// A file that is one document.
fn whole(file: &CorpusFile, number: usize) -> Result<Document, DataError> {
    let (reader, _) = file.form.packing.open(&file.path)?;
    let packing = file.form.packing.name();
    let text = read_text(reader, &file.path, packing)?;
    let place = DocumentPlace { file: number, within: Within::Whole };
    Ok(Document { id: file.name.clone(), text, facts: None, bytes: file.bytes, place })
}
