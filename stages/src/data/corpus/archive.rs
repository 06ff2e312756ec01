//! Documents of archives: zip, and tar however it is packed. Nothing is unpacked to the disk; members are read one after the other, in
//! the order of the archive.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex},
};

use flate2::{CrcReader, bufread::DeflateDecoder};
use tar::EntryType;
use zip::{CompressionMethod, ZipArchive, result::ZipError};

use super::{
    super::DataError,
    CorpusFile, Document, DocumentPlace, Within,
    form::{Archived, Content, Form, Packed, Packing, read_text, refuse, unreadable},
    lines::{Lines, Source},
};

/// Most bytes of the headers of one member of a tar archive, long names and extensions included.
const HEADERS: u64 = 1 << 20;
/// What tar's headers and members are filled up to.
const BLOCK: u64 = 512;
/// Most zeros after the end of a tar archive: writers fill up to some blocks, and a few packed bytes may unpack to any number.
const FILLING: u64 = 1 << 30;
/// What the names of a pax header begin with that tells of holes.
const SPARSE: &[u8] = b"GNU.sparse.";
/// Kinds of files in the mode of a Unix system, and two of them.
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive, and where it is read.
pub(super) struct Archive {
    path: PathBuf,
    name: String,
    column: String,
    file: usize,
    members: Members,
    lines: Option<Lines>,
    /// Documents before the next one.
    before: usize,
    /// Bytes of the archive that were counted.
    counted: u64,
    /// Names of the documents so far: two of one name would get one id.
    names: HashSet<String>,
}

enum Members {
    Tar {
        tape: Arc<Mutex<Tape>>,
        packed: Packed,
    },
    /// With the number of the next member, and the bytes of those before.
    Zip {
        archive: Box<ZipArchive<BufReader<File>>>,
        next: usize,
        bytes: u64,
    },
}

/// A file in an archive.
struct Member {
    /// Its path in the archive, without `.`.
    name: String,
    reader: Box<dyn BufRead + Send>,
}

/// What a member of an archive is.
enum Found {
    File(Member),
    /// A folder, or a remark about the archive.
    Nothing,
    End,
}

impl Archive {
    pub(super) fn open(file: &CorpusFile, number: usize, archived: Archived, column: &str) -> Result<Self, DataError> {
        let members = match archived {
            Archived::Tar => {
                let (reader, packed) = file.form.packing.open(&file.path)?;
                Members::Tar { tape: Arc::new(Mutex::new(Tape { reader, rest: 0, padding: 0 })), packed }
            }
            Archived::Zip => {
                let open = File::open(&file.path).map_err(DataError::io("read", &file.path))?;
                let archive = ZipArchive::new(BufReader::new(open)).map_err(|error| broken(&file.path, error))?;
                if archive.has_duplicate_names() {
                    return Err(DataError::content(
                        &file.path,
                        "two members have the same name; pack the archive anew",
                    ));
                }
                Members::Zip { archive: Box::new(archive), next: 0, bytes: 0 }
            }
        };
        Ok(Self {
            path: file.path.clone(),
            name: file.name.clone(),
            column: column.to_owned(),
            file: number,
            members,
            lines: None,
            before: 0,
            counted: 0,
            names: HashSet::new(),
        })
    }

    /// Whether a document comes only after what was read.
    pub(super) fn is_before(&self, before: usize) -> bool {
        self.before <= before
    }

    /// The next document.
    pub(super) fn advance(&mut self) -> Result<Option<Document>, DataError> {
        self.find(self.before)
    }

    /// The document with so many before it. Texts on the way there are passed by unread.
    pub(super) fn find(&mut self, wanted: usize) -> Result<Option<Document>, DataError> {
        loop {
            let document = self.lines.as_mut().map_or(Ok(None), Lines::advance)?;
            if let Some(mut document) = document {
                if self.pass() < wanted {
                    continue;
                }
                document.place.within = Within::Member { before: wanted };
                document.bytes = self.taken();
                return Ok(Some(document));
            }
            self.lines = None;
            let member = match self.next()? {
                Found::End if !self.names.is_empty() => return Ok(None),
                Found::End => {
                    let problem =
                        format!("no text found in the archive: expected members that end in {}", Form::MEMBERS);
                    return Err(DataError::content(&self.path, problem));
                }
                Found::Nothing => continue,
                Found::File(member) => member,
            };
            let path = self.path.join(&member.name);
            let Some(form) = Form::of(Path::new(&member.name)).filter(|_| !is_about_files(&member.name)) else {
                continue;
            };
            if !self.names.insert(member.name.clone()) {
                let problem = format!("two members have the same name, `{}`; pack the archive anew", member.name);
                return Err(DataError::content(&self.path, problem));
            }
            let id = format!("{}/{}", self.name, member.name);
            match form.content {
                Content::Text => {
                    if self.pass() < wanted {
                        continue;
                    }
                    let (reader, archived) = (form.packing.unpack(member.reader, &path)?, self.form());
                    let text = read_text(reader, &path, form.packing.name().or(Some(archived)))?;
                    let place = DocumentPlace { file: self.file, within: Within::Member { before: wanted } };
                    return Ok(Some(Document { id, text, facts: None, bytes: self.taken(), place }));
                }
                Content::Lines { facts } => {
                    let reader = form.packing.unpack(member.reader, &path)?;
                    let packing = form.packing.name().or(Some(self.form()));
                    let source = Source { path, name: id, reader, packing, packed: None, file: self.file };
                    self.lines = Some(Lines::read_from(source, &self.column, facts));
                }
                Content::Rows => {
                    let problem =
                        "a Parquet file is not read line by line, so not within an archive; unpack the archive";
                    return Err(DataError::content(path, problem));
                }
                Content::Archive(_) => {
                    return Err(DataError::content(path, "an archive within an archive; unpack the outer one"));
                }
            }
        }
    }

    /// Counts a document, and says how many came before it.
    fn pass(&mut self) -> usize {
        self.before += 1;
        self.before - 1
    }

    fn form(&self) -> &'static str {
        match self.members {
            Members::Tar { .. } => "tar",
            Members::Zip { .. } => "zip",
        }
    }

    /// Bytes of the archive that were read since this was last asked.
    fn taken(&mut self) -> u64 {
        let read = match &mut self.members {
            Members::Tar { packed, .. } => packed.position(),
            Members::Zip { bytes, .. } => *bytes,
        };
        let before = std::mem::replace(&mut self.counted, read);
        read.saturating_sub(before)
    }

    fn next(&mut self) -> Result<Found, DataError> {
        match &mut self.members {
            Members::Tar { tape, .. } => {
                let fault = |error| refuse(Some("tar"), &self.path, error);
                let found = tape.lock().map_err(|_| poisoned(&self.path))?.next().map_err(fault)?;
                let Some((name, kind)) = found else { return Ok(Found::End) };
                let what = match kind {
                    EntryType::Regular | EntryType::Continuous => {
                        let name = inside(&self.path, &name)?;
                        let reader = Box::new(BufReader::new(TapeMember(Arc::clone(tape))));
                        return Ok(Found::File(Member { name, reader }));
                    }
                    EntryType::Directory => return inside(&self.path, &name).map(|_| Found::Nothing),
                    EntryType::XGlobalHeader => return Ok(Found::Nothing),
                    EntryType::Symlink | EntryType::Link => "a link",
                    EntryType::Char | EntryType::Block | EntryType::Fifo => "a device",
                    EntryType::GNUSparse => "a file with holes",
                    _ => "of an unknown kind",
                };
                Err(no_file(&self.path, &name, what))
            }
            Members::Zip { archive, next, bytes } => {
                if *next >= archive.len() {
                    return Ok(Found::End);
                }
                let (found, length) = zip_member(archive, *next, &self.path)?;
                *next += 1;
                *bytes += length;
                Ok(found)
            }
        }
    }
}

/// The member of a zip archive with that number in its directory, and how many bytes it takes there.
fn zip_member(
    archive: &mut ZipArchive<BufReader<File>>,
    number: usize,
    path: &Path,
) -> Result<(Found, u64), DataError> {
    let member = archive.by_index_raw(number).map_err(|error| broken(path, error))?;
    let name = member.name().map_err(|error| broken(path, error))?.into_owned();
    let kind = member.unix_mode().unwrap_or_default() & KIND;
    if member.is_symlink() {
        return Err(no_file(path, &name, "a link"));
    }
    if kind != 0 && kind != FOLDER && kind != FILE {
        return Err(no_file(path, &name, "a device"));
    }
    let name = inside(path, &name)?;
    if member.is_dir() {
        return Ok((Found::Nothing, 0));
    }
    let place = path.join(&name);
    if member.encrypted() {
        return Err(DataError::content(
            place,
            "is encrypted; unpack the archive with its password, and pack it without",
        ));
    }
    let start = member.data_start().ok_or_else(|| DataError::content(&place, "has no place in the archive"))?;
    let (method, length, size, crc) = (member.compression(), member.compressed_size(), member.size(), member.crc32());
    let mut file = File::open(path).map_err(DataError::io("read", path))?;
    file.seek(SeekFrom::Start(start)).map_err(DataError::io("read", path))?;
    let packed = BufReader::new(file.take(length));
    let unpacked: Box<dyn Read + Send> = match method {
        CompressionMethod::STORE => Box::new(packed),
        CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(packed)),
        CompressionMethod::ZSTD => Packing::Zstandard.unpack(Box::new(packed), &place)?,
        other => {
            let problem =
                format!("is packed with {other}, expected Deflate, Zstandard or nothing; pack the archive anew");
            return Err(DataError::content(place, problem));
        }
    };
    let checked = Checked { reader: CrcReader::new(unpacked), rest: size, crc };
    Ok((Found::File(Member { name, reader: Box::new(BufReader::new(checked)) }), length))
}

/// A member of a zip archive, whose size and checksum must be what its directory says.
struct Checked {
    reader: CrcReader<Box<dyn Read + Send>>,
    rest: u64,
    crc: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let rest = self.rest.checked_sub(read as u64);
        self.rest = rest.ok_or_else(|| io::Error::other("it is longer than the archive's directory says"))?;
        if read == 0 && !buffer.is_empty() && (self.rest > 0 || self.reader.crc().sum() != self.crc) {
            return Err(io::Error::other("size or checksum differ from the archive's directory"));
        }
        Ok(read)
    }
}

/// A tar archive on its way. Its members cannot be read twice, nor in another order.
struct Tape {
    reader: Box<dyn BufRead + Send>,
    /// Bytes of the open member that were not read.
    rest: u64,
    /// Bytes that fill up its last block.
    padding: u64,
}

impl Tape {
    /// Name and kind of the next member.
    fn next(&mut self) -> io::Result<Option<(Vec<u8>, EntryType)>> {
        let skipped = self.rest + self.padding;
        if io::copy(&mut self.reader.by_ref().take(skipped), &mut io::sink())? < skipped {
            return Err(ended_early());
        }
        (self.rest, self.padding) = (0, 0);
        // The format ends with a block of zeros, so that an archive which was cut between two members shows.
        if self.reader.fill_buf()?.is_empty() {
            return Err(ended_early());
        }
        // The library reads headers and leaves the reader where the member begins.
        let mut headers = tar::Archive::new(self.reader.by_ref().take(HEADERS));
        let Some(entry) = headers.entries()?.next() else { return self.end().map(|()| None) };
        let mut entry = entry?;
        (self.rest, self.padding) = (entry.size(), entry.size().next_multiple_of(BLOCK) - entry.size());
        let (name, kind) = (entry.path_bytes().into_owned(), entry.header().entry_type());
        if kind == EntryType::XGlobalHeader {
            return Ok(Some((name, kind)));
        }
        // A member with holes may be called a plain file; its bytes are then a list of the holes, and what is between them.
        let mut extensions = entry.pax_extensions()?.into_iter().flatten().filter_map(Result::ok);
        let is_sparse = extensions.any(|extension| extension.key_bytes().starts_with(SPARSE));
        Ok(Some((name, if is_sparse { EntryType::GNUSparse } else { kind })))
    }

    /// Reads what follows the last member, as only then the checksums of a packing are looked at.
    fn end(&mut self) -> io::Result<()> {
        let mut filling = 0;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(unreadable(
                    "more follows behind its end, as if archives were put one behind the other; pack their files into one, or \
                     give each archive a file of its own",
                ));
            }
            let length = bytes.len();
            self.reader.consume(length);
            filling += length as u64;
            if filling > FILLING {
                return Err(unreadable("more than 1 GiB of zeros follow behind its end; pack it anew"));
            }
        }
    }
}

/// What is left of the open member of a tape.
struct TapeMember(Arc<Mutex<Tape>>);

impl Read for TapeMember {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tape =
            self.0.lock().map_err(|_| io::Error::other("another thread failed while it read the archive"))?;
        let most = tape.rest.min(buffer.len() as u64) as usize;
        let read = tape.reader.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(ended_early());
        }
        tape.rest -= read as u64;
        Ok(read)
    }
}

fn ended_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends early")
}

fn poisoned(path: &Path) -> DataError {
    DataError::io("read", path)(io::Error::other("another thread failed while it read the archive"))
}

/// A member's name as a path below the archive. One that leads elsewhere is refused, although nothing is written there: nobody
/// packs such an archive by accident.
fn inside(path: &Path, name: impl AsRef<[u8]>) -> Result<String, DataError> {
    let refused = |problem| DataError::content(path, format!("the member `{}` {problem}", shown(name.as_ref())));
    let text = std::str::from_utf8(name.as_ref())
        .map_err(|_| refused("has a name that is no UTF-8; pack the archive anew"))?;
    let mut plain = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => plain.push(part.to_string_lossy()),
            Component::CurDir => {}
            _ => return Err(refused("leads out of the archive; do not trust it")),
        }
    }
    if text.contains(char::is_control) {
        return Err(refused("has a name with control characters; do not trust it"));
    }
    Ok(plain.join("/"))
}

/// Whether a member is what macOS packs beside files, about them: their attributes, under names that look like those of documents.
fn is_about_files(name: &str) -> bool {
    name.starts_with("__MACOSX/") || name.rsplit('/').next().is_some_and(|file| file.starts_with("._"))
}

fn no_file(path: &Path, name: impl AsRef<[u8]>, what: &str) -> DataError {
    let name = shown(name.as_ref());
    DataError::content(
        path,
        format!("the member `{name}` is {what}, expected files and folders; pack the archive anew"),
    )
}

/// A name that may hold anything, for a message.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn broken(path: &Path, error: ZipError) -> DataError {
    match error {
        ZipError::Io(error) => refuse(Some("zip"), path, error),
        ZipError::UnsupportedArchive(what) => {
            DataError::content(path, format!("a zip file that cannot be read ({what}); pack the archive anew"))
        }
        error => DataError::content(path, format!("no complete zip file ({error}); fetch it again")),
    }
}
