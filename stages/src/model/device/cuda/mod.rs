//! Kernels of our own for CUDA devices. They are compiled for the device when they are first needed, from the text beside
//! this file, by the compiler that comes with every CUDA (NVRTC); candle's tensors go in and come out.

pub(super) mod attention;
pub(super) mod rows;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor,
    backend::BackendStorage,
    bail,
    cuda_backend::{
        WrapErr,
        cudarc::{
            driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg, sys::CUfunction_attribute_enum},
            nvrtc::{CompileOptions, compile_ptx_with_opts},
        },
    },
    op::BackpropOp,
};
use half::bf16;

/// The oldest architecture that has what the kernels use; drivers translate for newer ones.
const ARCHITECTURE: &str = "compute_80";

/// A text with kernels, compiled with some options.
struct Source {
    /// Tells it from others, with its options.
    name: String,
    text: &'static str,
    options: Vec<String>,
}

/// A number that a kernel takes.
#[derive(Clone, Copy)]
enum Number {
    Int(i32),
    Long(i64),
    Float(f32),
}

/// How a kernel is started.
struct Launch<'a> {
    source: &'a Source,
    kernel: &'a str,
    grid: (usize, usize, usize),
    threads: u32,
    /// Bytes of shared memory whose size the kernel does not know.
    memory: usize,
}

impl Launch<'_> {
    /// Starts the kernel with pointers to the numbers of `inputs`, then to those of new tensors of these types and shapes,
    /// and then `numbers`; answers the new tensors.
    ///
    /// # Safety
    /// The kernel has these parameters in this order, stays inside the tensors, writes every number of the new ones, and
    /// writes no input but such as nobody else reads.
    unsafe fn call<const N: usize>(
        &self,
        inputs: &[&Tensor],
        outputs: [(DType, &[usize]); N],
        numbers: &[Number],
    ) -> Result<[Tensor; N]> {
        let (Ok(_), Ok(_), Ok(_)) =
            (i32::try_from(self.grid.0), u16::try_from(self.grid.1), u16::try_from(self.grid.2))
        else {
            bail!("`{}` would need {:?} blocks, more than a device starts", self.kernel, self.grid)
        };
        let Device::Cuda(device) = inputs[0].device() else { bail!("a kernel for CUDA devices on another device") };
        let function = device
            .get_or_load_custom_func(self.kernel, &self.source.name, &compiled(self.source)?)?
            .into_cuda_function();
        let limit = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(limit, self.memory as i32).w()?;

        let guards: Vec<_> = inputs.iter().map(|tensor| tensor.storage_and_layout()).collect();
        let views = guards.iter().map(|(storage, layout)| {
            let Storage::Cuda(storage) = &**storage else { bail!("a tensor that is not on the device") };
            let Some((start, end)) = layout.contiguous_offsets() else { bail!("rows with gaps in `{}`", self.kernel) };
            View::of(storage, start, end)
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let mut made = Vec::with_capacity(N);
        for (dtype, shape) in &outputs {
            made.push(Room::new(device, *dtype, shape.iter().product())?);
        }
        let stream = device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for view in &views {
            match view {
                View::Bf16(view) => builder.arg(view),
                View::F32(view) => builder.arg(view),
                View::U32(view) => builder.arg(view),
            };
        }
        for room in &mut made {
            match room {
                Room::Bf16(room) => builder.arg(room),
                Room::F32(room) => builder.arg(room),
                Room::U32(room) => builder.arg(room),
            };
        }
        for number in numbers {
            match number {
                Number::Int(number) => builder.arg(number),
                Number::Long(number) => builder.arg(number),
                Number::Float(number) => builder.arg(number),
            };
        }
        let grid_dim = (self.grid.0 as u32, self.grid.1 as u32, self.grid.2 as u32);
        let config = LaunchConfig { grid_dim, block_dim: (self.threads, 1, 1), shared_mem_bytes: self.memory as u32 };
        // SAFETY: what the kernel takes and does is the caller's promise; all of it lives until the kernel is in the stream, and
        // what the stream frees later is freed after it.
        unsafe { builder.launch(config) }.w()?;
        let tensors = made.into_iter().zip(outputs).map(|(room, (_, shape))| {
            Tensor::from_storage(Storage::Cuda(room.storage(device)), shape, BackpropOp::none(), false)
        });
        tensors.collect::<Vec<_>>().try_into().map_err(|_| Error::Msg("a tensor too few".to_owned()))
    }
}

/// Brings the f32 numbers of a tensor to those of the host, as many, without a copy on the way.
pub(super) fn read(tensor: &Tensor, numbers: &mut [f32]) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor that is not on the device") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("numbers with gaps") };
    if end - start != numbers.len() {
        bail!("{} numbers for room for {}", end - start, numbers.len());
    }
    let stream = storage.device().cuda_stream();
    stream.memcpy_dtoh(&storage.as_cuda_slice::<f32>()?.slice(start..end), numbers).w()?;
    stream.synchronize().w()
}

/// The numbers of a tensor.
enum View<'a> {
    Bf16(CudaView<'a, bf16>),
    F32(CudaView<'a, f32>),
    U32(CudaView<'a, u32>),
}

impl<'a> View<'a> {
    fn of(storage: &'a CudaStorage, start: usize, end: usize) -> Result<Self> {
        Ok(match storage.dtype() {
            DType::BF16 => Self::Bf16(storage.as_cuda_slice::<bf16>()?.slice(start..end)),
            DType::F32 => Self::F32(storage.as_cuda_slice::<f32>()?.slice(start..end)),
            DType::U32 => Self::U32(storage.as_cuda_slice::<u32>()?.slice(start..end)),
            other => bail!("no kernel takes numbers of the type {other:?}"),
        })
    }
}

/// Memory for a new tensor.
enum Room {
    Bf16(CudaSlice<bf16>),
    F32(CudaSlice<f32>),
    U32(CudaSlice<u32>),
}

impl Room {
    fn new(device: &CudaDevice, dtype: DType, len: usize) -> Result<Self> {
        // SAFETY: the kernel that it is made for writes every number before anybody reads one.
        unsafe {
            Ok(match dtype {
                DType::BF16 => Self::Bf16(device.alloc(len)?),
                DType::F32 => Self::F32(device.alloc(len)?),
                DType::U32 => Self::U32(device.alloc(len)?),
                other => bail!("no kernel makes numbers of the type {other:?}"),
            })
        }
    }

    fn storage(self, device: &CudaDevice) -> CudaStorage {
        match self {
            Self::Bf16(room) => CudaStorage::wrap_cuda_slice(room, device.clone()),
            Self::F32(room) => CudaStorage::wrap_cuda_slice(room, device.clone()),
            Self::U32(room) => CudaStorage::wrap_cuda_slice(room, device.clone()),
        }
    }
}

/// The kernels of a text in the form that drivers translate. Compiling takes about a second, so it is kept.
fn compiled(source: &Source) -> Result<Arc<str>> {
    static COMPILED: Mutex<BTreeMap<String, Arc<str>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = compiled.get(&source.name) {
        return Ok(Arc::clone(text));
    }
    let options =
        CompileOptions { options: source.options.clone(), arch: Some(ARCHITECTURE), ..CompileOptions::default() };
    let text = compile_ptx_with_opts(source.text, options)
        .map_err(|error| Error::Msg(format!("cannot compile the kernels `{}`: {error}", source.name)))?;
    let text: Arc<str> = text.to_src().into();
    compiled.insert(source.name.clone(), Arc::clone(&text));
    Ok(text)
}
