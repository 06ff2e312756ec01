//! What the program prints, kept in a file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Lines that an error repeats.
const TAIL_LINES: usize = 20;
/// Bytes at the end of the file that are looked at for them.
const TAIL_BYTES: u64 = 16 << 10;

/// The file that takes standard output and standard error.
#[derive(Clone)]
pub(super) struct Log {
    path: PathBuf,
}

impl Log {
    /// Opens the file twice, for the two streams. What is in it stays.
    pub(super) fn open(path: &Path) -> io::Result<(Self, File, File)> {
        let output = File::options().create(true).append(true).open(path)?;
        let errors = output.try_clone()?;
        Ok((Self { path: path.to_owned() }, output, errors))
    }

    /// The last lines; empty if nothing was printed or the file is gone.
    pub(super) fn tail(&self) -> Vec<String> {
        let text = self.end().unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.drain(..lines.len().saturating_sub(TAIL_LINES));
        lines
    }

    /// The last line that is not empty. A line that a program rewrites with carriage returns counts as last written.
    pub(super) fn last_line(&self) -> String {
        let text = self.end().unwrap_or_default();
        let last = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty());
        last.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(120).collect()
    }

    fn end(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
