//! Parquet files, with errors that name them.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::Row,
};

use super::DataError;

/// All rows of a small file.
pub fn rows_of(path: &Path) -> Result<Vec<Row>, DataError> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    guarded(|| SerializedFileReader::new(file)?.get_row_iter(None)?.collect()).map_err(|error| broken(path, error))
}

/// Calls the library, which takes pages for what they say of themselves: it panics at some that are damaged. What it read with
/// is not used again then.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let damaged = |_| Err(ParquetError::General("a damaged page".to_owned()));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(damaged)
}

/// What an error of the library means.
pub(super) fn broken(path: &Path, error: ParquetError) -> DataError {
    match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => DataError::io("read", path)(*error),
            Err(error) => DataError::content(path, format!("no complete Parquet file ({error}); fetch it again")),
        },
        error => DataError::content(path, format!("no complete Parquet file ({error}); fetch it again")),
    }
}
