//! Standard output and standard error of the program. A reader that goes away (`| head`) is no error: what it
//! would have read is dropped. A file that cannot be written to is one, which the exit code tells in the end.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::OnceLock,
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use rustix::io::Errno;

/// Good news.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Bad news.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something to look at.
pub(super) const NOTE: Style = AnsiColor::Yellow.on_default();
/// Something that stands back.
pub(super) const FAINT: Style = Style::new().dimmed();
/// Something that stands out.
pub(super) const STRONG: Style = Style::new().bold();

/// Text in a style; colour codes are removed on the way out if nobody wants them.
pub(super) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Why something is missing in standard output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes text to standard output; see [`lost`].
pub(super) fn out(text: impl Display) {
    let stream = io::stdout();
    if let Err(error) = whole(AutoStream::choice(&stream), text, stream.lock())
        && !has_no_reader(&error)
    {
        // The first one tells where the gap begins.
        let _ = LOST.set(error);
    }
}

/// Why something that was to go to standard output is not there, if somebody reads that.
pub(super) fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// A pipe whose other end is closed, or a terminal that is gone.
fn has_no_reader(error: &io::Error) -> bool {
    [Errno::PIPE, Errno::IO].iter().any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}

/// Writes a document as JSON to standard output.
pub(super) fn json(document: &impl serde::Serialize) {
    // Documents are text, numbers and digests: they always have a JSON form.
    out(serde_json::to_string_pretty(document).unwrap_or_default() + "\n");
}

/// Writes text to standard error.
pub(super) fn err(text: impl Display) {
    let stream = io::stderr();
    drop_errors(whole(AutoStream::choice(&stream), text, stream.lock()));
}

/// Writes text at once, so that what others write to the same place comes before or after it.
fn whole(colors: ColorChoice, text: impl Display, mut stream: impl Write) -> io::Result<()> {
    let mut bytes = AutoStream::new(Vec::new(), colors);
    write!(bytes, "{text}")?;
    stream.write_all(&bytes.into_inner())?;
    stream.flush()
}

/// There is nobody left to tell when the place where one tells things is broken.
fn drop_errors(result: io::Result<()>) {
    let _ = result;
}

/// Rows in columns, each as wide as its widest cell; the last column is not padded. Cells may be painted.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: &str| anstream::adapter::strip_str(cell).to_string().chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(if column == 0 { "  " } else { "   " });
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - width(cell)));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn painted_cells_line_up() {
        let rows = [
            vec!["a".to_owned(), paint(GOOD, "cached"), "x".to_owned()],
            vec!["longer".to_owned(), "run".to_owned(), "y".to_owned()],
        ];
        let plain = anstream::adapter::strip_str(&table(&rows)).to_string();
        assert_eq!(plain, "  a        cached   x\n  longer   run      y\n");
    }
}
