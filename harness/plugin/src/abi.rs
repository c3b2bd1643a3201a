//! QEMU's plugin interface: looked up, called and answered here.
//!
//! Its versions differ in how instructions are read and counted (1: QEMU 7 and 8; 2: 9.0; from 3:
//! 9.1 on). Functions are looked up when QEMU loads the plugin instead of being linked against, so
//! that one file fits all.
#![expect(unsafe_code, reason = "the interface is one of C")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::{Options, Plugin};

/// Names this plugin to QEMU.
type Id = u64;
/// A counter of a scoreboard: the board, and the offset in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cell(*mut c_void, usize);

type OnBlock = unsafe extern "C" fn(Id, *mut c_void);
type OnExec = unsafe extern "C" fn(c_uint, *mut c_void);
type OnAccess = unsafe extern "C" fn(c_uint, u32, u64, *mut c_void);

/// Flags of callbacks: they don't look at registers.
const NO_REGS: c_int = 0;
/// The one operation of counters: addition.
const ADD: c_int = 0;
/// Loads and stores. QEMU 7.2 takes the flag of loads alone for that of stores.
const ACCESSES: c_int = 3;
/// Counters that are made at a time. QEMU 9 and later keep sixteen copies of each.
const CHUNK: usize = 1 << 14;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Looks a function up among those of QEMU.
fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle stands for the process's own symbols; the name is a C string.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The version of the interface that QEMU checks before it asks for anything.
#[unsafe(no_mangle)]
static qemu_plugin_version: AtomicI32 = AtomicI32::new(1);

/// Runs while the plugin is loaded, before QEMU looks at its version: QEMU 9 and later refuse
/// version 1, QEMU 8 and earlier know no other.
extern "C" fn choose_version() {
    if find(c"qemu_plugin_scoreboard_new").is_some() {
        qemu_plugin_version.store(2, Ordering::Relaxed);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static CHOOSE_VERSION: extern "C" fn() = choose_version;

/// What QEMU tells of itself.
#[repr(C)]
struct Info {
    target: *const c_char,
    oldest: c_int,
    version: c_int,
    is_system: bool,
    cpus: c_int,
    max_cpus: c_int,
}

/// How instructions are counted.
#[derive(Clone, Copy)]
enum Counting {
    /// Version 1: in memory of ours.
    Memory { inline: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, u64) },
    /// Later versions: in memory of QEMU's, one copy for each CPU.
    Board {
        new: unsafe extern "C" fn(usize) -> *mut c_void,
        find: unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void,
        inline: unsafe extern "C" fn(*mut c_void, c_int, Cell, u64),
    },
}

/// How the bytes of an instruction are read.
#[derive(Clone, Copy)]
enum Reading {
    /// Before version 3: QEMU lends them.
    Lent(unsafe extern "C" fn(*mut c_void) -> *const c_void),
    /// From version 3 on: QEMU copies them.
    Copied(unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> usize),
}

/// The functions of QEMU that the plugin uses.
#[derive(Clone, Copy)]
struct Qemu {
    on_translation: unsafe extern "C" fn(Id, OnBlock),
    on_exit: unsafe extern "C" fn(Id, OnBlock, *mut c_void),
    on_block: unsafe extern "C" fn(*mut c_void, OnExec, c_int, *mut c_void),
    on_instruction: unsafe extern "C" fn(*mut c_void, OnExec, c_int, *mut c_void),
    on_access: unsafe extern "C" fn(*mut c_void, OnAccess, c_int, c_int, *mut c_void),
    is_store: unsafe extern "C" fn(u32) -> bool,
    block_len: unsafe extern "C" fn(*mut c_void) -> usize,
    block_get: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    address: unsafe extern "C" fn(*mut c_void) -> u64,
    size: unsafe extern "C" fn(*mut c_void) -> usize,
    reading: Reading,
    counting: Counting,
}

/// A function of QEMU by name.
///
/// # Safety
/// `F` is the type of a pointer to that function.
unsafe fn function<F: Copy>(name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let found = find(name)
        .ok_or_else(|| format!("this QEMU has no function {}", name.to_string_lossy()))?;
    // SAFETY: both are pointers, and the caller knows the type.
    Ok(unsafe { std::mem::transmute_copy(&found) })
}

impl Qemu {
    fn find(version: c_int) -> Result<Self, String> {
        // SAFETY: in QEMU's header, the functions have the types of the fields, in each version
        // where they are looked up.
        unsafe {
            let data = c"qemu_plugin_insn_data";
            let reading = if version < 3 {
                Reading::Lent(function(data)?)
            } else {
                Reading::Copied(function(data)?)
            };
            let counting = if version < 2 {
                let inline = function(c"qemu_plugin_register_vcpu_insn_exec_inline")?;
                Counting::Memory { inline }
            } else {
                Counting::Board {
                    new: function(c"qemu_plugin_scoreboard_new")?,
                    find: function(c"qemu_plugin_scoreboard_find")?,
                    inline: function(c"qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu")?,
                }
            };
            Ok(Self {
                on_translation: function(c"qemu_plugin_register_vcpu_tb_trans_cb")?,
                on_exit: function(c"qemu_plugin_register_atexit_cb")?,
                on_block: function(c"qemu_plugin_register_vcpu_tb_exec_cb")?,
                on_instruction: function(c"qemu_plugin_register_vcpu_insn_exec_cb")?,
                on_access: function(c"qemu_plugin_register_vcpu_mem_cb")?,
                is_store: function(c"qemu_plugin_mem_is_store")?,
                block_len: function(c"qemu_plugin_tb_n_insns")?,
                block_get: function(c"qemu_plugin_tb_get_insn")?,
                address: function(c"qemu_plugin_insn_vaddr")?,
                size: function(c"qemu_plugin_insn_size")?,
                reading,
                counting,
            })
        }
    }

    /// Whether an access that QEMU tells of is a store.
    fn stores(&self, access: u32) -> bool {
        // SAFETY: `access` is what QEMU handed to the callback that asks.
        unsafe { (self.is_store)(access) }
    }
}

/// Counters that instructions add to while they run, without a call.
pub(crate) struct Counters {
    qemu: Qemu,
    chunks: Vec<Chunk>,
}

/// Memory of counters. It is never freed: translated code has its address.
enum Chunk {
    Memory(&'static [AtomicU64; CHUNK]),
    Board(*mut c_void),
}

// SAFETY: the pointers are QEMU's names of boards, which any thread may use.
unsafe impl Send for Counters {}

impl Counters {
    fn new(qemu: Qemu) -> Self {
        Self { qemu, chunks: Vec::new() }
    }

    /// Counts every execution of an instruction by this counter. Counters that don't exist yet are
    /// made, from zero.
    pub(crate) fn count(&mut self, instruction: &Instruction<'_>, counter: usize) {
        while self.chunks.len() <= counter / CHUNK {
            self.chunks.push(match self.qemu.counting {
                Counting::Memory { .. } => {
                    Chunk::Memory(Box::leak(Box::new([const { AtomicU64::new(0) }; CHUNK])))
                }
                Counting::Board { new, .. } => {
                    // SAFETY: `new` is QEMU's function of this version.
                    Chunk::Board(unsafe { new(CHUNK * size_of::<u64>()) })
                }
            });
        }
        let within = counter % CHUNK;
        match (&self.chunks[counter / CHUNK], self.qemu.counting) {
            (Chunk::Memory(cells), Counting::Memory { inline }) => {
                let cell = cells[within].as_ptr().cast();
                // SAFETY: the instruction is valid for the block's translation, the cell for ever.
                unsafe { inline(instruction.raw, ADD, cell, 1) };
            }
            (Chunk::Board(board), Counting::Board { inline, .. }) => {
                let cell = Cell(*board, within * size_of::<u64>());
                // SAFETY: likewise, and the cell is inside the board.
                unsafe { inline(instruction.raw, ADD, cell, 1) };
            }
            // All chunks are of the one kind that this QEMU has.
            _ => {}
        }
    }

    /// What the first `len` counters have counted so far.
    pub(crate) fn read(&self, len: usize) -> impl Iterator<Item = u64> + '_ {
        let cells = self.chunks.iter().flat_map(|chunk| self.cells(chunk));
        cells.map(|cell| cell.load(Ordering::Relaxed)).take(len)
    }

    /// What one counter has counted so far.
    pub(crate) fn get(&self, counter: usize) -> u64 {
        let chunk = self.chunks.get(counter / CHUNK).map(|chunk| self.cells(chunk));
        chunk.map_or(0, |cells| cells[counter % CHUNK].load(Ordering::Relaxed))
    }

    fn cells(&self, chunk: &Chunk) -> &[AtomicU64; CHUNK] {
        match (chunk, self.qemu.counting) {
            (Chunk::Board(board), Counting::Board { find, .. }) => {
                // SAFETY: the board has CHUNK numbers for the first CPU, the only one there is;
                // QEMU moves boards only to add CPUs.
                unsafe { &*find(*board, 0).cast::<[AtomicU64; CHUNK]>() }
            }
            (Chunk::Memory(cells), _) => cells,
            (Chunk::Board(_), Counting::Memory { .. }) => &ZEROS,
        }
    }
}

static ZEROS: [AtomicU64; CHUNK] = [const { AtomicU64::new(0) }; CHUNK];

/// A block of instructions while it is translated.
pub(crate) struct Block<'a> {
    qemu: &'a Qemu,
    raw: *mut c_void,
}

/// An instruction of a block.
pub(crate) struct Instruction<'a> {
    qemu: &'a Qemu,
    raw: *mut c_void,
}

impl Block<'_> {
    /// The block's instructions.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction<'_>> {
        let Self { qemu, raw } = *self;
        // SAFETY: the block is valid while it is translated, and so are its instructions.
        let len = unsafe { (qemu.block_len)(raw) };
        (0..len).map(move |index| {
            // SAFETY: likewise; the index is within the block.
            Instruction { qemu, raw: unsafe { (qemu.block_get)(raw, index) } }
        })
    }

    /// Has [`Plugin::at_block`] called with this address whenever the block begins.
    pub(crate) fn tell(&self, address: u64) {
        // SAFETY: as for `instructions`; the number travels in place of a pointer.
        unsafe { (self.qemu.on_block)(self.raw, at_block, NO_REGS, number(address)) };
    }
}

impl Instruction<'_> {
    /// The address in the guest.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: the instruction is valid while its block is translated.
        unsafe { (self.qemu.address)(self.raw) }
    }

    /// The bytes of the instruction, filled up with zeros, and how many they are.
    pub(crate) fn bytes(&self) -> ([u8; 16], usize) {
        let mut bytes = [0; 16];
        // SAFETY: the instruction is valid while its block is translated.
        let size = unsafe { (self.qemu.size)(self.raw) }.min(bytes.len());
        match self.qemu.reading {
            Reading::Lent(data) => {
                // SAFETY: QEMU lends as many bytes as the instruction has.
                unsafe {
                    std::ptr::copy_nonoverlapping(data(self.raw).cast(), bytes.as_mut_ptr(), size);
                }
            }
            Reading::Copied(data) => {
                // SAFETY: QEMU writes at most so many bytes.
                unsafe { data(self.raw, bytes.as_mut_ptr().cast(), size) };
            }
        }
        (bytes, size)
    }

    /// Has [`Plugin::at_marker`] called whenever the instruction is executed.
    pub(crate) fn tell_marker(&self, marker: u8) {
        let (qemu, marker) = (self.qemu, number(u64::from(marker)));
        // SAFETY: as for `address`; the number travels in place of a pointer.
        unsafe { (qemu.on_instruction)(self.raw, at_marker, NO_REGS, marker) };
    }

    /// Has [`Plugin::at_call`] called with the place on the stack and this address whenever the
    /// instruction has stored.
    pub(crate) fn tell_call(&self, to: u64) {
        // SAFETY: as for `address`; the number travels in place of a pointer.
        unsafe { (self.qemu.on_access)(self.raw, at_call, NO_REGS, ACCESSES, number(to)) };
    }

    /// Has [`Plugin::at_return`] called with the place on the stack and its block's address whenever
    /// the instruction has loaded.
    pub(crate) fn tell_return(&self, block: u64) {
        let (qemu, block) = (self.qemu, number(block));
        // SAFETY: as for `address`; the number travels in place of a pointer.
        unsafe { (qemu.on_access)(self.raw, at_return, NO_REGS, ACCESSES, block) };
    }
}

/// A number where QEMU keeps a pointer for us.
fn number(value: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(value as usize)
}

unsafe extern "C" fn at_translation(_: Id, block: *mut c_void) {
    crate::with(|plugin| {
        let qemu = plugin.counters.qemu;
        plugin.at_translation(&Block { qemu: &qemu, raw: block });
    });
}

unsafe extern "C" fn at_block(_: c_uint, address: *mut c_void) {
    if crate::follows_stacks() {
        crate::with(|plugin| plugin.at_block(address.addr() as u64));
    }
}

unsafe extern "C" fn at_marker(_: c_uint, marker: *mut c_void) {
    crate::with(|plugin| plugin.at_marker(marker.addr()));
}

unsafe extern "C" fn at_call(_: c_uint, access: u32, at: u64, to: *mut c_void) {
    if crate::follows_stacks() {
        crate::with(|plugin| {
            if plugin.counters.qemu.stores(access) {
                plugin.at_call(at, to.addr() as u64);
            }
        });
    }
}

unsafe extern "C" fn at_return(_: c_uint, access: u32, at: u64, block: *mut c_void) {
    if crate::follows_stacks() {
        crate::with(|plugin| {
            if !plugin.counters.qemu.stores(access) {
                plugin.at_return(at, block.addr() as u64);
            }
        });
    }
}

unsafe extern "C" fn at_exit(_: Id, _: *mut c_void) {
    crate::with(Plugin::at_exit);
}

/// Called by QEMU after it has loaded the plugin and checked its version.
///
/// # Safety
/// As QEMU calls it: `info` and the `argc` strings of `argv` are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU passes this structure, whose beginning all versions have in common.
    let info = unsafe { &*info.cast::<Info>() };
    // SAFETY: a C string.
    let target = unsafe { CStr::from_ptr(info.target) }.to_string_lossy();
    let args = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: QEMU passes `argc` C strings.
        unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy().into_owned()
    });
    let installed = crate::options(args).and_then(|options| match options {
        Options::Fork(options) => crate::fork::install(&options),
        Options::Count { out, stacks } => {
            crate::check(&target, info.is_system, info.max_cpus)?;
            let qemu = Qemu::find(info.version)?;
            crate::install(&out, stacks, Counters::new(qemu))?;
            // SAFETY: the callbacks have the types that QEMU wants, and stay loaded.
            unsafe {
                (qemu.on_translation)(id, at_translation);
                (qemu.on_exit)(id, at_exit, std::ptr::null_mut());
            }
            Ok(())
        }
    });
    match installed {
        Ok(()) => 0,
        Err(why) => {
            crate::refuse(&why);
            1
        }
    }
}
