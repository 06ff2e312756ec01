//! How long a thread may keep a processor while others wait for it. It stands here because it needs a call that no safe library has.

/// The shortest slice that the kernel gives, in nanoseconds.
#[cfg(target_os = "linux")]
const SHORTEST: u64 = 100_000;
/// `SCHED_OTHER` and `SCHED_BATCH`, the policies under which threads have slices.
#[cfg(target_os = "linux")]
const FAIR: [u32; 2] = [0, 3];

/// Asks the kernel for short time slices for the calling thread, and not for what it starts. A thread that has little to do each time
/// gets its turn sooner with them, as soon as it is woken, and no more time than before. Kernels before Linux 6.12 have no such slices and do
/// nothing of the kind. A thread with another policy or a raised priority keeps what it has.
pub fn shorten() {
    #[cfg(target_os = "linux")]
    {
        let size = size_of::<libc::sched_attr>() as u32;
        // SAFETY: all fields are numbers.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes no more than `size` bytes to the structure, which outlives the call; 0 is the calling thread.
        let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        // What the thread starts would lose a raised priority.
        if got != 0 || !FAIR.contains(&attributes.sched_policy) || attributes.sched_nice < 0 {
            return;
        }
        attributes.size = size;
        attributes.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
        attributes.sched_runtime = SHORTEST;
        // SAFETY: the kernel reads `size` bytes of the structure, which outlives the call.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}
