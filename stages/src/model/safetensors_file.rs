//! Reading and writing safetensors files: named, shaped f32 data, in a fixed order of bytes.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use half::f16;
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};

use super::ModelError;

/// A memory-mapped file of tensors.
pub(super) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where the numbers begin in the file.
    start: usize,
}

impl TensorFile {
    /// Maps a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io("read", path))?;
        let broken = |problem: String| ModelError::Checkpoint {
            path: path.to_owned(),
            problem: format!("not a whole safetensors file ({problem}); download or write it again"),
        };
        // SAFETY: the mapping is only unsound if the file changes while mapped; artifacts never change once written.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| broken(error.to_string()))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| match cut_tensor(&map) {
            Some((tensor, end)) => ModelError::Tensor {
                path: path.to_owned(),
                tensor,
                problem: format!(
                    "ends at byte {end} of the file, which has {}: it was cut short; download or write it again",
                    map.len()
                ),
            },
            None => broken(error.to_string()),
        })?;
        Ok(Self { path: path.to_owned(), map, metadata, start: size_of::<u64>() + header })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names in the file, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    fn fail(&self, name: &str, problem: String) -> ModelError {
        ModelError::Tensor { path: self.path.clone(), tensor: name.to_owned(), problem }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.metadata.info(name).ok_or_else(|| self.fail(name, "missing".to_owned()))
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        Ok(self.info(name)?.shape.clone())
    }

    /// Refuses a tensor that is not there, or of another shape or type, by what the header says.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let fail = |problem: String| self.fail(name, problem);
        let info = self.info(name)?;
        if info.shape != shape {
            return Err(fail(format!("found shape {:?}, expected {shape:?}", info.shape)));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(fail(format!("found {:?}, expected F32, BF16 or F16", info.dtype)));
        }
        Ok(())
    }

    /// Copies a tensor of bytes of the given shape into `target`.
    pub(super) fn read_bytes(&self, name: &str, shape: &[usize], target: &mut [u8]) -> Result<(), ModelError> {
        let info = self.info(name)?;
        if info.shape != shape || info.dtype != Dtype::U8 {
            let found = format!("found {:?} of shape {:?}, expected U8 of shape {shape:?}", info.dtype, info.shape);
            return Err(self.fail(name, found));
        }
        self.take(info, |bytes| target.copy_from_slice(bytes));
        Ok(())
    }

    /// Copies a tensor of the given shape, widened to f32, into `target`.
    pub(super) fn read(&self, name: &str, shape: &[usize], target: &mut [f32]) -> Result<(), ModelError> {
        self.check(name, shape)?;
        let info = self.info(name)?;
        self.take(info, |bytes| match info.dtype {
            Dtype::F16 => widen(bytes, target, |bytes| f16::from_le_bytes(bytes).to_f32()),
            // The upper half of an f32.
            Dtype::BF16 => widen(bytes, target, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
            _ => widen(bytes, target, f32::from_le_bytes),
        });
        Ok(())
    }

    /// Reads the bytes of a tensor, and gives the memory in which the system holds them back: else the file would count a
    /// second time beside what was read from it.
    fn take(&self, info: &TensorInfo, read: impl FnOnce(&[u8])) {
        let (from, to) = (self.start + info.data_offsets.0, self.start + info.data_offsets.1);
        read(&self.map[from..to]);
        // SAFETY: the map is read-only and shared with the file, so that pages that were given back come again from there.
        // It is advice: whether the system takes it changes no byte.
        #[cfg(target_os = "linux")]
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from) };
    }
}

/// The first tensor whose bytes are not all there, and where they would end, if the header of a broken file can be read.
fn cut_tensor(file: &[u8]) -> Option<(String, usize)> {
    let header = usize::try_from(u64::from_le_bytes(*file.first_chunk()?)).ok()?;
    let start = header.checked_add(size_of::<u64>())?;
    let metadata: Metadata = serde_json::from_slice(file.get(size_of::<u64>()..start)?).ok()?;
    metadata.offset_keys().into_iter().find_map(|name| {
        let end = start.checked_add(metadata.info(&name)?.data_offsets.1)?;
        (end > file.len()).then_some((name, end))
    })
}

/// Turns the bytes of each number into an f32; the header has promised that the sizes fit.
fn widen<const N: usize>(bytes: &[u8], target: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (target, bytes) in target.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *target = number(*bytes);
    }
}

/// Numbers to write.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    U8(&'a [u8]),
}

impl Numbers<'_> {
    /// Their bytes in the file.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::U8(values) => values.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::U8(_) => Dtype::U8,
        }
    }

    fn write(&self, file: &mut impl io::Write) -> io::Result<()> {
        match self {
            Self::F32(values) => values.chunks(1 << 16).try_for_each(|values| {
                file.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            }),
            Self::U8(values) => file.write_all(values),
        }
    }
}

/// A named, shaped slice to write.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
    pub(super) values: Numbers<'a>,
}

/// Writes tensors as one file, those of wide numbers first; the bytes depend on names, shapes and values only.
pub(super) fn write(path: &Path, tensors: &[Named<'_>]) -> Result<(), ModelError> {
    // The order in which the format's own library writes.
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|tensor| (matches!(tensor.values, Numbers::U8(_)), tensor.name));
    let mut end = 0;
    let header = sorted.iter().map(|tensor| {
        let start = end;
        end += tensor.values.size();
        let info =
            TensorInfo { dtype: tensor.values.dtype(), shape: tensor.shape.to_vec(), data_offsets: (start, end) };
        (tensor.name.to_owned(), info)
    });
    // One entry at most: a map of several has no fixed order in the header. `transformers` asks for this one.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |problem: String| ModelError::Checkpoint { path: path.to_owned(), problem };
    let header = Metadata::new(Some(metadata), header.collect()).map_err(|error| failed(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| failed(error.to_string()))?;
    // Numbers start at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        sorted.iter().try_for_each(|tensor| tensor.values.write(&mut file))?;
        file.flush()
    };
    write().map_err(ModelError::io("write", path))
}

/// The innermost message, without the backtrace that candle may add.
pub(super) fn root(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => root(inner),
        other => other.to_string(),
    }
}
