//! Threads that are held, and made once more in a new process.
#![expect(unsafe_code, reason = "signal handlers, and threads that no library makes")]

use std::arch::asm;
use std::ffi::{c_int, c_long, c_void};
use std::fmt;
use std::fs;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use rustix::process::Pid;

/// The signal that a thread is held by. QEMU's threads block all but those that tell of a program's own
/// mistakes, and of these it has no handler for this one.
const SIGNAL: c_int = libc::SIGILL;
/// Threads that can be held.
const THREADS: usize = 64;
/// Seconds that they have to get there: one may be deep in the kernel.
const WITHIN: i64 = 5;

/// What makes a new process: with this alone, its end is told to QEMU's parent as QEMU's own is.
pub(super) const FORK: u64 = libc::CLONE_PARENT as u64;

/// Why there is no new process. Made where nothing may be allocated.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    what: &'static str,
    errno: i32,
}

impl Failure {
    /// With what the last system call says of it.
    pub(super) fn now(what: &'static str) -> Self {
        Self { what, errno: io::Error::last_os_error().raw_os_error().unwrap_or_default() }
    }

    pub(super) const fn of(what: &'static str) -> Self {
        Self { what, errno: 0 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

/// What a thread is made of.
struct Held {
    /// The frame from which the kernel has it go on.
    context: AtomicU64,
    /// Its thread-local storage.
    storage: AtomicU64,
    /// Where its number is kept, which the kernel clears at its end.
    number: AtomicU64,
    /// Its name.
    name: [AtomicU64; 2],
    /// [`WAITED`] or [`WORKED`] when all that is known.
    ready: AtomicU32,
}

/// The thread waited in the kernel, for others or for what comes from outside.
const WAITED: u32 = 1;
/// It did not: it may hold a mutex that knows it by its number, and could not unlock it under another.
const WORKED: u32 = 2;

static HELD: [Held; THREADS] = [const {
    Held {
        context: AtomicU64::new(0),
        storage: AtomicU64::new(0),
        number: AtomicU64::new(0),
        name: [const { AtomicU64::new(0) }; 2],
        ready: AtomicU32::new(0),
    }
}; THREADS];
/// How many of them are in use.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Changes when those that are held may go on.
static ROUND: AtomicU32 = AtomicU32::new(0);
/// Threads are to be held.
static HOLDING: AtomicBool = AtomicBool::new(false);

/// Has threads be held when they are asked to.
pub(super) fn hold_on_request() -> io::Result<()> {
    // SAFETY: all zeroes are a value of this type; the handler keeps to what handlers may do.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = hold;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, ptr::null_mut())
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves signals to QEMU's threads.
pub(super) fn block_signals() {
    // SAFETY: the set is filled in before it is used.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
    }
}

/// Notes what its thread is made of, and keeps it until it may go on.
extern "C" fn hold(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // In a new process the thread goes on with this as it is while it is held.
    // SAFETY: it is each thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let restore = || {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    };
    // SAFETY: the kernel fills it in.
    if unsafe { (*info).si_code } != libc::SI_TKILL {
        // An instruction that there is not: as it would be without this handler, when it comes again.
        // SAFETY: allowed in a handler.
        unsafe { libc::signal(SIGNAL, libc::SIG_DFL) };
        return;
    }
    if !HOLDING.load(SeqCst) {
        // It comes late.
        return;
    }
    let round = ROUND.load(SeqCst);
    if let Some(held) = HELD.get(COUNT.fetch_add(1, SeqCst)) {
        let (mut storage, mut number, mut name) = (0_u64, 0_u64, [0_u64; 2]);
        // SAFETY: the calls write to the address that they are given, the first one 16 bytes.
        let known = unsafe {
            libc::prctl(libc::PR_GET_NAME, &raw mut name);
            let of_storage = (libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut storage);
            libc::syscall(of_storage.0, of_storage.1, of_storage.2) == 0
                && libc::prctl(PR_GET_TID_ADDRESS, &raw mut number) == 0
        };
        held.context.store(context as u64, SeqCst);
        held.storage.store(storage, SeqCst);
        held.name.iter().zip(name).for_each(|(held, name)| held.store(name, SeqCst));
        held.number.store(if known { number } else { 0 }, SeqCst);
        restore();
        // SAFETY: it is what the kernel passes to a handler of this kind.
        let waited = unsafe { waited(&*context.cast()) };
        held.ready.store(if waited { WAITED } else { WORKED }, SeqCst);
        wake(&held.ready);
    }
    while ROUND.load(SeqCst) == round {
        wait(&ROUND, round, ptr::null());
    }
    restore();
}

/// Whether a thread that was interrupted waited in the kernel: its system call was interrupted, or is to be
/// made once more.
///
/// # Safety
/// The context is of a thread of this process.
unsafe fn waited(context: &libc::ucontext_t) -> bool {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let register = |number: c_int| context.uc_mcontext.gregs[number.cast_unsigned() as usize];
    let (result, at) = (register(libc::REG_RAX), register(libc::REG_RIP) as *const [u8; 2]);
    // SAFETY: both are code, which the thread has executed or is about to.
    let (before, next) = unsafe { (at.byte_sub(2).read_unaligned(), at.read_unaligned()) };
    let operation = register(libc::REG_RSI) as c_int & libc::FUTEX_CMD_MASK;
    let waits = matches!(operation, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET);
    before == SYSCALL && result == -i64::from(libc::EINTR)
        || next == SYSCALL && result == libc::SYS_futex && waits
}

/// `ARCH_GET_FS` of `asm/prctl.h`.
const ARCH_GET_FS: c_long = 0x1003;
/// Of `linux/prctl.h`; a kernel without checkpoints doesn't know it.
const PR_GET_TID_ADDRESS: c_int = 40;

fn wait(word: &AtomicU32, value: u32, limit: *const libc::timespec) {
    let how = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is there for as long as it is waited for.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), how, value, limit) };
}

fn wake(word: &AtomicU32) {
    let how = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel only looks for those who wait at this address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), how, c_int::MAX) };
}

/// The numbers of all threads but this one.
pub(super) fn others() -> Result<Vec<i32>, String> {
    let broken = |e: io::Error| format!("read /proc/self/task: {e}");
    let this = rustix::thread::gettid().as_raw_pid();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc/self/task").map_err(broken)? {
        let name = entry.map_err(broken)?.file_name();
        others.extend(name.to_string_lossy().parse::<i32>().ok().filter(|&number| number != this));
    }
    Ok(others)
}

/// The name of this process, which is its first thread's.
pub(super) fn process_name() -> [u64; 2] {
    let text = fs::read("/proc/self/comm").unwrap_or_default();
    let mut name = [0_u8; 16];
    text.iter().take(15).filter(|&&byte| byte != b'\n').zip(&mut name).for_each(|(b, n)| *n = *b);
    [0, 8].map(|at| {
        let part = [0, 1, 2, 3, 4, 5, 6, 7].map(|byte| name[at + byte]);
        u64::from_ne_bytes(part)
    })
}

/// All threads but this one, held until this is dropped.
///
/// One of them may hold what the heap is locked by. So nothing may be allocated until then, nor in the new
/// process before they go on.
pub(super) struct Parked {
    count: usize,
}

impl Parked {
    /// Holds these threads, which have to be all others; gives nothing when one of them did not wait. After a
    /// failure it may not be tried again: one of them may only then come to be held.
    pub(super) fn new(others: &[i32]) -> Result<Option<Self>, Failure> {
        if others.len() > THREADS {
            return Err(Failure::of("it has too many threads"));
        }
        COUNT.store(0, SeqCst);
        HELD.iter().for_each(|held| held.ready.store(0, SeqCst));
        HOLDING.store(true, SeqCst);
        let parked = Self { count: others.len() };
        let process = rustix::process::getpid().as_raw_pid();
        for &thread in others {
            // SAFETY: they have a handler for it.
            if unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) } != 0 {
                return Err(Failure::now("a thread can't be told to hold"));
            }
        }
        let deadline = now() + WITHIN;
        let look_again = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        for held in &HELD[..parked.count] {
            while held.ready.load(SeqCst) == 0 {
                if now() > deadline {
                    return Err(Failure::of("a thread does not hold"));
                }
                wait(&held.ready, 0, &raw const look_again);
            }
            if held.number.load(SeqCst) == 0 {
                return Err(Failure::of(
                    "the kernel does not tell where a thread's number is kept",
                ));
            }
        }
        // One more would be missing in the new process.
        if threads() != Some(parked.count + 1) {
            return Err(Failure::of("a thread was started"));
        }
        let waited = |held: &Held| held.ready.load(SeqCst) == WAITED;
        Ok(HELD[..parked.count].iter().all(waited).then_some(parked))
    }

    /// Makes a process of this name, which gets ready and then goes on as this one would. Gives its
    /// number.
    pub(super) fn fork(
        &self,
        name: &[u64; 2],
        ready: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<i32, Failure> {
        // SAFETY: like `fork`, which would also run what only another new process needs.
        let made = unsafe { libc::syscall(libc::SYS_clone, FORK, 0_u64, 0_u64, 0_u64, 0_u64) };
        match made {
            0 => match ready().and_then(|()| self.revive()) {
                Ok(()) => {
                    call_oneself(name);
                    loop {
                        // SAFETY: waits.
                        unsafe { libc::pause() };
                    }
                }
                Err(why) => fail(why),
            },
            1.. => i32::try_from(made).map_err(|_| Failure::of("its number is too large")),
            _ => Err(Failure::now("the kernel makes no process")),
        }
    }

    /// In the new process: makes the threads that were held, which go on at once.
    fn revive(&self) -> Result<(), Failure> {
        let flags = (libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_SETTLS
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_CLEARTID) as u64;
        HOLDING.store(false, SeqCst);
        for held in &HELD[..self.count] {
            // A thread begins with the name of the one that made it.
            call_oneself(&held.name.each_ref().map(|part| part.load(SeqCst)));
            let number = held.number.load(SeqCst);
            let made: isize;
            // SAFETY: the new thread only returns from the handler that the frame is of, which is at
            // the end of the stack that it is given; nobody else has that stack.
            unsafe {
                asm!(
                    "syscall",
                    "test rax, rax",
                    "jnz 2f",
                    "mov eax, {sigreturn}",
                    "syscall",
                    "ud2",
                    "2:",
                    sigreturn = const libc::SYS_rt_sigreturn,
                    inlateout("rax") libc::SYS_clone as isize => made,
                    in("rdi") flags,
                    in("rsi") held.context.load(SeqCst),
                    in("rdx") number,
                    in("r10") number,
                    in("r8") held.storage.load(SeqCst),
                    lateout("rcx") _,
                    lateout("r11") _,
                );
            }
            if made < 0 {
                return Err(Failure::of("the kernel makes no thread"));
            }
        }
        Ok(())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        HOLDING.store(false, SeqCst);
        ROUND.fetch_add(1, SeqCst);
        wake(&ROUND);
    }
}

/// Gives this thread a name, and the process too when it is the first.
fn call_oneself(name: &[u64; 2]) {
    // SAFETY: the kernel reads 16 bytes at most.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Seconds of a clock that only goes forward.
fn now() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills it in.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec
}

/// How many threads there are.
fn threads() -> Option<usize> {
    // SAFETY: all zeroes are a value of this type, and the call fills it in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above; a directory has a link for each one in it, and two.
    let known = unsafe { libc::stat(c"/proc/self/task".as_ptr(), &raw mut stat) } == 0;
    known.then(|| usize::try_from(stat.st_nlink).unwrap_or_default().saturating_sub(2))
}

/// In a new process: ends with the thread that started QEMU.
pub(super) fn belong_to(parent: Pid) -> Result<(), Failure> {
    // SAFETY: system calls with numbers.
    let belongs = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid() == parent.as_raw_pid()
    };
    if belongs { Ok(()) } else { Err(Failure::of("it has no parent to end with")) }
}

/// Ends a new process that nobody will know of.
pub(super) fn kill(process: i32) {
    // SAFETY: a process of ours.
    unsafe { libc::kill(process, libc::SIGKILL) };
}

/// In a new process that can't go on.
fn fail(why: Failure) -> ! {
    // SAFETY: writes bytes that are there, and ends.
    unsafe {
        libc::write(2, why.what.as_ptr().cast(), why.what.len());
        libc::_exit(70)
    }
}
