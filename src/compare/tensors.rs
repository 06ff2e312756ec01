//! Tensor beside tensor, read in pieces: files may be larger than memory.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use safetensors::tensor::{Metadata, TensorInfo};

use super::{
    Bounds, CompareError, ElementDifferences, FirstElement, TensorDifference, TensorFacts, bytes::fill,
    element::Element, meaning::Meaning,
};

/// A longer header is no header.
const LONGEST_HEADER: u64 = 100 << 20;
const CHUNK: usize = 1 << 20;

/// An open file of tensors.
pub(super) struct Tensors {
    path: PathBuf,
    file: File,
    data: u64,
    metadata: Metadata,
}

impl Tensors {
    /// Reads the header; the inner error says in plain words why it is none.
    pub(super) fn open(path: &Path) -> Result<Result<Self, String>, CompareError> {
        let mut file = File::open(path).map_err(CompareError::of(path))?;
        let wrong = |problem: &str| Ok(Err(format!("{} is no safetensors file: {problem}", path.display())));
        let mut length = [0; 8];
        if fill(&mut file, &mut length).map_err(CompareError::of(path))? < length.len() {
            return wrong("it is shorter than 8 bytes");
        }
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER {
            return wrong("its header would be longer than 100 MiB");
        }
        let mut header = Vec::new();
        file.by_ref().take(length).read_to_end(&mut header).map_err(CompareError::of(path))?;
        let metadata: Metadata = match serde_json::from_slice(&header) {
            Ok(metadata) => metadata,
            Err(error) => return wrong(&format!("its header cannot be read ({error})")),
        };
        let data = 8 + length;
        let (found, expected) =
            (file.metadata().map_err(CompareError::of(path))?.len().saturating_sub(data), metadata.data_len() as u64);
        if found != expected {
            return wrong(&format!("its header tells of {expected} bytes of data, and it has {found}"));
        }
        Ok(Ok(Self { path: path.to_owned(), file, data, metadata }))
    }

    fn names(&self) -> BTreeSet<String> {
        self.metadata.tensors().into_keys().collect()
    }

    /// Type, shape and place of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    fn seek(&mut self, offset: usize) -> Result<(), CompareError> {
        let place = SeekFrom::Start(self.data + offset as u64);
        self.file.seek(place).map(drop).map_err(CompareError::of(&self.path))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), CompareError> {
        self.file.read_exact(buffer).map_err(CompareError::of(&self.path))
    }
}

/// What two files of tensors have in common and what not.
pub(super) struct Found {
    /// How many tensors are the same.
    pub(super) same: usize,
    /// The others.
    pub(super) differing: Vec<TensorDifference>,
    /// Whether the headers differ in more than those.
    pub(super) header_differs: bool,
}

/// Compares two files of tensors; the inner error says in plain words why that is not possible.
pub(super) fn compare(
    one: &Path,
    other: &Path,
    meaning: &Meaning<'_>,
    bounds: &dyn Fn(&str) -> Option<Bounds>,
) -> Result<Result<Found, String>, CompareError> {
    let (mut one, mut other) = match (Tensors::open(one)?, Tensors::open(other)?) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(problem), _) | (_, Err(problem)) => return Ok(Err(problem)),
    };
    let (mut same, mut differing) = (0, Vec::new());
    let (mut same_facts, mut same_order) = (true, true);
    for name in one.names().union(&other.names()) {
        let facts = |tensors: &Tensors| {
            let info = tensors.info(name)?;
            Some(TensorFacts { dtype: format!("{:?}", info.dtype), shape: info.shape.clone() })
        };
        let (first, second) = (facts(&one), facts(&other));
        let place = |tensors: &Tensors| tensors.info(name).map(|info| info.data_offsets);
        same_facts &= first == second;
        same_order &= place(&one) == place(&other);
        let comparable = matches!((&first, &second), (Some(first), Some(second)) if first.shape == second.shape);
        let elements = if comparable { elements(name, (&mut one, &mut other), meaning, bounds(name))? } else { None };
        if first == second && elements.as_ref().is_some_and(|elements| elements.differing == 0) {
            same += 1;
        } else {
            differing.push(TensorDifference { name: name.clone(), one: first, other: second, elements });
        }
    }
    // Where tensors have another type or shape, those behind them lie elsewhere for that reason.
    let header_differs = one.metadata.metadata() != other.metadata.metadata() || (same_facts && !same_order);
    Ok(Ok(Found { same, differing, header_differs }))
}

/// Compares two tensors of the same shape; nothing for types that are not known.
fn elements(
    name: &str,
    (one, other): (&mut Tensors, &mut Tensors),
    meaning: &Meaning<'_>,
    bounds: Option<Bounds>,
) -> Result<Option<ElementDifferences>, CompareError> {
    let (Some(first), Some(second)) = (one.info(name).cloned(), other.info(name).cloned()) else { return Ok(None) };
    let widths = (first.dtype.bitsize() / 8, second.dtype.bitsize() / 8);
    let zeros = ([0; 16], [0; 16]);
    let known = Element::read(first.dtype, &zeros.0[..widths.0.min(16)]).is_some()
        && Element::read(second.dtype, &zeros.1[..widths.1.min(16)]).is_some();
    if !known {
        return Ok(None);
    }
    let count: usize = first.shape.iter().product();
    let same_type = first.dtype == second.dtype;
    let (mut differing, mut outside, mut greatest, mut sum, mut place) = (0_u64, 0_u64, 0.0_f64, 0.0_f64, None);
    one.seek(first.data_offsets.0)?;
    other.seek(second.data_offsets.0)?;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < count {
        let length = (count - done).min(CHUNK);
        here.resize(length * widths.0, 0);
        there.resize(length * widths.1, 0);
        one.read(&mut here)?;
        other.read(&mut there)?;
        if !(same_type && here == there) {
            let pairs = here.chunks_exact(widths.0).zip(there.chunks_exact(widths.1));
            for (index, (left, right)) in pairs.enumerate() {
                if same_type && left == right {
                    continue;
                }
                let (Some(left), Some(right)) = (Element::read(first.dtype, left), Element::read(second.dtype, right))
                else {
                    continue;
                };
                if !same_type && left == right {
                    continue;
                }
                let difference = left.difference(right);
                let is_outside = !bounds.is_some_and(|bounds| bounds.hold(difference, left.magnitude()));
                differing += 1;
                outside += u64::from(is_outside);
                greatest = greatest.max(difference);
                sum += difference;
                if is_outside && place.is_none() {
                    place = Some((done + index, left, right));
                }
            }
        }
        done += length;
    }
    let first = place.map(|(at, left, right)| {
        let index = index(at, &first.shape);
        let meaning = meaning.of(name, &index, (left, right));
        FirstElement { index, one: left.json(), other: right.json(), meaning }
    });
    let mean = if count == 0 { 0.0 } else { sum / count as f64 };
    Ok(Some(ElementDifferences {
        count: count as u64,
        differing,
        greatest,
        mean,
        outside: bounds.is_some().then_some(outside),
        first,
    }))
}

/// The place in each dimension of the element number `at`, the last dimension being contiguous.
fn index(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (place, &size) in index.iter_mut().zip(shape).rev() {
        *place = at % size.max(1);
        at /= size.max(1);
    }
    index
}
