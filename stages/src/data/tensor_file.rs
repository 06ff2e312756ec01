//! One memory-mapped safetensors file of two-dimensional little-endian arrays.

use std::{
    borrow::Cow,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, View};

use super::DataError;

/// A number that stands in a tensor.
pub trait Element: Copy {
    /// The dtype in the file.
    const DTYPE: Dtype;
    /// Appends the little-endian bytes.
    fn write(self, bytes: &mut Vec<u8>);
    /// Reads little-endian bytes, of which `bytes` has a whole number of elements.
    fn read(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! element {
    ($type:ty, $dtype:ident) => {
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;

            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Vec<Self> {
                let (chunks, _) = bytes.as_chunks();
                chunks.iter().map(|chunk| Self::from_le_bytes(*chunk)).collect()
            }
        }
    };
}

element!(u8, U8);
element!(i32, I32);
element!(u32, U32);
element!(f32, F32);

/// An open file whose header has been checked against its size.
pub struct TensorFile {
    path: PathBuf,
    bytes: Mmap,
}

/// A checked place in a [`TensorFile`].
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) rows: usize,
    bytes: Range<usize>,
}

impl TensorFile {
    /// Maps a file. A truncated or foreign one is refused here.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("read", path))?;
        // SAFETY: artifacts are read-only files that nobody writes to once they are in the store, and whatever bytes
        // the map holds, they are only ever read as plain numbers.
        let bytes = unsafe { Mmap::map(&file) }.map_err(DataError::io("read", path))?;
        SafeTensors::deserialize(&bytes).map_err(|error| {
            let found = bytes.len();
            DataError::content(path, format!("no complete safetensors file ({error}); it has {found} bytes"))
        })?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).is_ok_and(|file| file.tensor(tensor).is_ok())
    }

    /// Finds a two-dimensional tensor of element type `T`; `rows` and `columns` are checked where given.
    pub(super) fn find<T: Element>(
        &self,
        tensor: &str,
        rows: Option<usize>,
        columns: Option<usize>,
    ) -> Result<Place, DataError> {
        let any = |size: Option<usize>| size.map_or("any".to_owned(), |size| size.to_string());
        let wrong = |found: String| DataError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected: format!("{:?} [{}, {}]", T::DTYPE, any(rows), any(columns)),
            found,
        };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| DataError::content(&self.path, error))?;
        let view = file.tensor(tensor).map_err(|_| {
            let mut names = file.names();
            names.sort_unstable();
            wrong(if names.is_empty() { "no tensor at all".to_owned() } else { format!("only {}", names.join(", ")) })
        })?;
        let shape = view.shape();
        let found = || wrong(format!("{:?} {shape:?}", view.dtype()));
        let &[found_rows, found_columns] = shape else { return Err(found()) };
        if view.dtype() != T::DTYPE
            || rows.is_some_and(|rows| rows != found_rows)
            || columns.is_some_and(|columns| columns != found_columns)
        {
            return Err(found());
        }
        // Offsets instead of the view, because a view borrows the map that it would have to live beside.
        let start = view.data().as_ptr() as usize - self.bytes.as_ptr() as usize;
        Ok(Place { rows: found_rows, bytes: start..start + view.data().len() })
    }

    /// One row of a tensor that [`Self::find`] found.
    pub(super) fn row<T: Element>(&self, place: &Place, row: usize) -> Vec<T> {
        T::read(self.row_bytes(place, row))
    }

    /// The bytes of one row.
    pub(super) fn row_bytes(&self, place: &Place, row: usize) -> &[u8] {
        let width = place.bytes.len() / place.rows.max(1);
        &self.bytes[place.bytes.start + row * width..][..width]
    }

    /// The bytes of all rows.
    pub(super) fn all_bytes(&self, place: &Place) -> &[u8] {
        &self.bytes[place.bytes.clone()]
    }

    /// One row of a two-dimensional tensor; `columns` is checked, and that there is such a row. It looks the tensor up
    /// each time: what is read often is better kept open as a token set or an array set.
    pub fn read_row<T: Element>(&self, tensor: &str, columns: usize, row: usize) -> Result<Vec<T>, DataError> {
        let place = self.find::<T>(tensor, None, Some(columns))?;
        if row >= place.rows {
            let problem = format!("tensor `{tensor}` has no row {row}, only {} (from 0)", place.rows);
            return Err(DataError::content(&self.path, problem));
        }
        Ok(self.row(&place, row))
    }

    /// A whole two-dimensional tensor, row by row, and its number of rows; `columns` is checked.
    pub fn read<T: Element>(&self, tensor: &str, columns: usize) -> Result<(usize, Vec<T>), DataError> {
        let place = self.find::<T>(tensor, None, Some(columns))?;
        Ok((place.rows, T::read(self.all_bytes(&place))))
    }
}

/// A tensor to write.
pub struct TensorOut {
    name: &'static str,
    dtype: Dtype,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl TensorOut {
    /// A tensor of rows of `columns` elements, given one after the other.
    pub fn new<T: Element>(name: &'static str, columns: usize, values: &[T]) -> Self {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        for value in values {
            value.write(&mut bytes);
        }
        Self { name, dtype: T::DTYPE, shape: [values.len() / columns.max(1), columns], bytes }
    }
}

impl View for &TensorOut {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes a safetensors file; its bytes depend on nothing but the tensors (the library sorts them).
pub fn write_tensors(path: &Path, tensors: &[TensorOut]) -> Result<(), DataError> {
    safetensors::serialize_to_file(tensors.iter().map(|tensor| (tensor.name, tensor)), None, path).map_err(|error| {
        match error {
            safetensors::SafeTensorError::IoError(source) => DataError::io("write", path)(source),
            other => DataError::content(path, other),
        }
    })
}
