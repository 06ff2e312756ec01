//! Documents of a text column of Parquet files.

use std::{fs::File, path::PathBuf};

use parquet::{
    basic::Type,
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::ByteArrayType,
    file::reader::{FileReader, SerializedFileReader},
};

use super::{
    super::{
        DataError,
        table::{broken, guarded},
    },
    CorpusFile, Document, DocumentPlace, Within,
};

/// A Parquet file, and where it is read. In memory are its footer and the page that the next row lies in.
pub(super) struct Rows {
    path: PathBuf,
    name: String,
    bytes: u64,
    reader: SerializedFileReader<File>,
    /// The number of the column.
    column: usize,
    /// Whether rows may be null.
    is_optional: bool,
    values: Option<ColumnReaderImpl<ByteArrayType>>,
    file: usize,
    group: usize,
    row: usize,
    /// Rows of the groups before.
    before: usize,
}

impl Rows {
    /// Opens a file at a row of a row group, with so many rows in the groups `before`.
    pub(super) fn open_at(
        file: &CorpusFile,
        number: usize,
        column: &str,
        group: usize,
        row: usize,
        before: usize,
    ) -> Result<Self, DataError> {
        let open = File::open(&file.path).map_err(DataError::io("read", &file.path))?;
        let broken = |error| broken(&file.path, error);
        let reader = SerializedFileReader::new(open).map_err(broken)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let columns = schema.columns();
        let Some(index) = columns.iter().position(|found| found.path().string() == column) else {
            let names: Vec<String> = columns.iter().map(|found| format!("`{}`", found.path().string())).collect();
            let problem = format!("no column `{column}`; the file has {}", names.join(", "));
            return Err(DataError::content(&file.path, problem));
        };
        let found = &columns[index];
        if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 || found.max_def_level() > 1 {
            let problem =
                format!("the column `{column}` holds {}, expected one text in each row", found.physical_type());
            return Err(DataError::content(&file.path, problem));
        }
        let is_optional = found.max_def_level() == 1;
        let mut rows = Self {
            path: file.path.clone(),
            name: file.name.clone(),
            bytes: file.bytes,
            reader,
            column: index,
            is_optional,
            values: None,
            file: number,
            group,
            row: 0,
            before,
        };
        if row > 0 && rows.open_group()? {
            let skipped = rows.values.as_mut().map_or(Ok(0), |values| guarded(|| values.skip_records(row)));
            rows.row = skipped.map_err(broken)?;
        }
        Ok(rows)
    }

    /// Opens the row group that is to be read; whether there is one.
    fn open_group(&mut self) -> Result<bool, DataError> {
        if self.group >= self.reader.num_row_groups() {
            return Ok(false);
        }
        // The library takes for granted that they are right.
        let chunk = self.reader.metadata().row_group(self.group).column(self.column);
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let inside = |start: i64, length: i64| {
            let end = u64::try_from(start).ok()?.checked_add(u64::try_from(length).ok()?)?;
            (end <= self.bytes).then_some(())
        };
        if inside(start, chunk.compressed_size()).is_none() {
            let problem = format!("row group {} is said to lie outside the file; fetch it again", self.group);
            return Err(DataError::content(&self.path, problem));
        }
        let group = self.reader.get_row_group(self.group);
        let column = group.and_then(|group| guarded(|| group.get_column_reader(self.column)));
        let ColumnReader::ByteArrayColumnReader(values) = column.map_err(|error| broken(&self.path, error))? else {
            return Err(DataError::content(&self.path, "a row group has another schema than the file; fetch it again"));
        };
        self.values = Some(values);
        Ok(true)
    }

    /// The next document. A row that is null holds none.
    pub(super) fn advance(&mut self) -> Result<Option<Document>, DataError> {
        loop {
            if self.values.is_none() && !self.open_group()? {
                return Ok(None);
            }
            let Some(values) = &mut self.values else { return Ok(None) };
            let (mut levels, mut found) = (Vec::new(), Vec::with_capacity(1));
            let levels = self.is_optional.then_some(&mut levels);
            let read = guarded(|| values.read_records(1, levels, None, &mut found));
            let read = read.map_err(|error| broken(&self.path, error))?;
            if read.0 == 0 {
                self.before += self.row;
                self.group += 1;
                self.row = 0;
                self.values = None;
                continue;
            }
            let within = Within::Row { group: self.group, row: self.row, before: self.before };
            self.row += 1;
            let number = self.before + self.row;
            let Some(value) = found.pop() else { continue };
            let text = String::from_utf8(value.data().to_vec()).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                DataError::content(&self.path, format!("row {number}: no UTF-8 text: byte {at} cannot be read"))
            })?;
            let place = DocumentPlace { file: self.file, within };
            let id = format!("{}:{number}", self.name);
            return Ok(Some(Document { id, text, facts: None, bytes: self.share(number), place }));
        }
    }

    /// What a row takes of the file, as if all were of one size; together they take all of it.
    fn share(&self, number: usize) -> u64 {
        let rows = u64::try_from(self.reader.metadata().file_metadata().num_rows()).unwrap_or_default().max(1);
        let until = |number: u64| u64::try_from(u128::from(self.bytes) * u128::from(number) / u128::from(rows));
        let number = number as u64;
        until(number).unwrap_or_default().saturating_sub(until(number - 1).unwrap_or_default())
    }
}
