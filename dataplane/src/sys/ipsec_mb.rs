//! ChaCha20-Poly1305 by Intel's IPsec Multi-Buffer library, where it is installed.
//!
//! In: a key, a nonce, a text. Out: the text encrypted or decrypted where it lies, and its tag. The
//! library is looked for when the program runs; nothing is linked. What cannot be used (another
//! version, a processor it is not faster on, a build that leaves secrets behind) is refused with
//! the reason.
//!
//! Only exported functions are called, and the manager stays opaque: the one layout that is taken
//! for granted is the beginning of `IMB_JOB`. It is the same in the headers of 1.3.0, 1.4.0 and
//! 1.5.0 (all with the soname ending in 1), as compared field by field with a C program.
//!
//! One message is one job. ChaCha20-Poly1305 has no multi-buffer form in these versions: a job is
//! done when its submission returns, and bursts of 32 gain 1 %. The form of submission that does
//! not check what a job asks for saves 2 %: only [`Manager::seal`] and `open` fill one.
//!
//! **What it keeps.** A job holds pointers to the key, never the key. `aead_chacha20_poly1305`
//! expands nothing: the key goes through vector registers, which a build with `SAFE_DATA` clears,
//! and such a build is asked for. On the worker's stack may stay what the last message was
//! encrypted with, up to 1,024 bytes of key stream and its one-time Poly1305 key, until the next
//! one overwrites them; neither yields the session's key.

use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::{NonNull, null};
use std::sync::Arc;

const FILE: &str = "libIPSec_MB.so.1";
/// `imb_get_version` of the versions whose `IMB_JOB` is known.
const VERSIONS: [(c_uint, &str); 3] = [(0x1_0300, "1.3"), (0x1_0400, "1.4"), (0x1_0500, "1.5")];
const FEATURE_SAFE_DATA: u64 = 1 << 14;

/// `IMB_MGR`, of which we know nothing.
#[repr(C)]
struct Opaque {
    _nothing: [u8; 0],
    _not_sync: PhantomData<*mut ()>,
}

/// The beginning of `IMB_JOB`; what follows is for other algorithms and stays as allocated, zero.
#[repr(C)]
struct Job {
    enc_keys: *const c_void,
    dec_keys: *const c_void,
    key_len: u64,
    src: *const u8,
    dst: *mut u8,
    cipher_start: u64,
    cipher_len: u64,
    hash_start: u64,
    hash_len: u64,
    iv: *const u8,
    iv_len: u64,
    tag: *mut u8,
    tag_len: u64,
    aad: *const c_void,
    aad_len: u64,
    context: *mut c_void,
    status: c_int,
    cipher_mode: c_int,
    direction: c_int,
    hash: c_int,
    chain_order: c_int,
}

#[cfg(target_arch = "x86_64")]
const _: () = {
    assert!(offset_of!(Job, key_len) == 16 && offset_of!(Job, src) == 24);
    assert!(offset_of!(Job, dst) == 32 && offset_of!(Job, cipher_start) == 40);
    assert!(offset_of!(Job, cipher_len) == 48 && offset_of!(Job, hash_start) == 56);
    assert!(offset_of!(Job, hash_len) == 64 && offset_of!(Job, iv) == 72);
    assert!(offset_of!(Job, iv_len) == 80 && offset_of!(Job, tag) == 88);
    assert!(offset_of!(Job, tag_len) == 96 && offset_of!(Job, aad) == 104);
    assert!(offset_of!(Job, aad_len) == 112 && offset_of!(Job, context) == 120);
    assert!(offset_of!(Job, status) == 128 && offset_of!(Job, cipher_mode) == 132);
    assert!(offset_of!(Job, direction) == 136 && offset_of!(Job, hash) == 140);
    assert!(offset_of!(Job, chain_order) == 144);
    // sizeof(IMB_JOB): 200 in 1.3, 240 in 1.4 and 1.5; `user_data` is at 152.
    assert!(size_of::<Job>() == 152);
};

const STATUS_COMPLETED: c_int = 3;
const CIPHER_CHACHA20_POLY1305: c_int = 19;
const HASH_CHACHA20_POLY1305: c_int = 29;
/// `IMB_DIR_ENCRYPT` with `IMB_ORDER_CIPHER_HASH`, `IMB_DIR_DECRYPT` with `IMB_ORDER_HASH_CIPHER`.
const ENCRYPT: c_int = 1;
const DECRYPT: c_int = 2;

// SAFETY: types only, as intel-ipsec-mb.h declares the functions; each call says why it may be.
type Alloc = unsafe extern "C" fn(u64) -> *mut Opaque;
type Free = unsafe extern "C" fn(*mut Opaque);
type Init = unsafe extern "C" fn(*mut Opaque);
type ToJob = unsafe extern "C" fn(*mut Opaque) -> *mut Job;

/// Why the library is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Another architecture, or an older one.
    #[error("this processor has no AVX-512 with IFMA, without which it is not faster")]
    Processor,
    /// Not there.
    #[error("ipsec-mb cannot be loaded: {0}")]
    Missing(libloading::Error),
    /// Not what it should be.
    #[error("{FILE} lacks a function: {0}")]
    Function(libloading::Error),
    /// A layout that nobody has looked at.
    #[error("{FILE} is version {}.{}.{}, and only 1.3 to 1.5 are known", .0 >> 16, .0 >> 8 & 255,
        .0 & 255)]
    Version(c_uint),
    /// It would leave key material in registers.
    #[error("{FILE} was built without SAFE_DATA, so it leaves secrets in registers")]
    Unsafe,
}

/// The library, loaded and found usable.
pub struct Library {
    version: &'static str,
    alloc: Alloc,
    free: Free,
    init: Init,
    next_job: ToJob,
    submit_job: ToJob,
    /// Keeps the functions where they are.
    _loaded: libloading::Library,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Library({})", self.version)
    }
}

/// Whether the library is faster than ring on this processor, as far as was measured: 2.8 against
/// 1.9 GB/s by AVX-512 with IFMA. By AVX2 it makes 1.5.
#[must_use]
pub fn processor_gains() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512cd")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512ifma")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("aes")
            && std::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Library {
    /// Looks for it in the usual places of shared libraries.
    pub fn load() -> Result<Arc<Self>, LoadError> {
        if !processor_gains() {
            return Err(LoadError::Processor);
        }
        // SAFETY: a distribution's library, whose constructors do nothing that this process minds.
        let loaded = unsafe { libloading::Library::new(FILE) }.map_err(LoadError::Missing)?;
        let version: unsafe extern "C" fn() -> c_uint = function(&loaded, c"imb_get_version")?;
        // SAFETY: as declared in intel-ipsec-mb.h; takes nothing, returns a constant.
        let number = unsafe { version() };
        let known = VERSIONS.iter().find(|(known, _)| *known == number);
        let &(_, version) = known.ok_or(LoadError::Version(number))?;
        let features: unsafe extern "C" fn() -> u64 = function(&loaded, c"imb_get_feature_flags")?;
        // SAFETY: as declared in intel-ipsec-mb.h; takes nothing, asks the processor.
        let features = unsafe { features() };
        if features & FEATURE_SAFE_DATA == 0 {
            return Err(LoadError::Unsafe);
        }
        Ok(Arc::new(Self {
            version,
            alloc: function(&loaded, c"alloc_mb_mgr")?,
            free: function(&loaded, c"free_mb_mgr")?,
            init: function(&loaded, c"init_mb_mgr_avx512")?,
            next_job: function(&loaded, c"get_next_job_avx512")?,
            submit_job: function(&loaded, c"submit_job_nocheck_avx512")?,
            _loaded: loaded,
        }))
    }

    /// `1.3`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// A manager for one thread at a time: 200 KB, everything it will ever need.
    pub fn manager(self: &Arc<Self>) -> io::Result<Manager> {
        // SAFETY: as declared in intel-ipsec-mb.h; no flags.
        let manager = NonNull::new(unsafe { (self.alloc)(0) })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let manager = Manager { manager, library: Arc::clone(self) };
        // SAFETY: just allocated by the same library, and the processor has what it needs.
        unsafe { (self.init)(manager.manager.as_ptr()) };
        Ok(manager)
    }
}

/// `T` must be the function's type.
fn function<T: Copy>(loaded: &libloading::Library, name: &std::ffi::CStr) -> Result<T, LoadError> {
    // SAFETY: the callers above give each name the type that intel-ipsec-mb.h declares for it, the
    // same in every version of `VERSIONS`, and keep `loaded` as long as the function.
    let symbol = unsafe { loaded.get::<T>(name.to_bytes_with_nul()) };
    symbol.map(|symbol| *symbol).map_err(LoadError::Function)
}

/// A multi-buffer manager: it may move between threads but not be shared.
pub struct Manager {
    manager: NonNull<Opaque>,
    library: Arc<Library>,
}

// SAFETY: the library keeps what belongs to a manager in the manager, and nothing of a thread.
unsafe impl Send for Manager {}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: allocated by the same library, freed once, no job under way.
        unsafe { (self.library.free)(self.manager.as_ptr()) };
    }
}

impl Manager {
    /// Encrypts `text` where it lies and returns its tag.
    #[inline]
    #[must_use]
    pub fn seal(&self, key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> Option<[u8; 16]> {
        self.run(ENCRYPT, key, nonce, text)
    }

    /// Decrypts `text` where it lies and returns the tag that it must have come with to be
    /// authentic; comparing is left to the caller.
    #[inline]
    #[must_use]
    pub fn open(&self, key: &[u8; 32], nonce: &[u8; 12], text: &mut [u8]) -> Option<[u8; 16]> {
        self.run(DECRYPT, key, nonce, text)
    }

    fn run(
        &self,
        direction: c_int,
        key: &[u8; 32],
        nonce: &[u8; 12],
        text: &mut [u8],
    ) -> Option<[u8; 16]> {
        let mut tag = [0; 16];
        let len = text.len() as u64;
        let filled = Job {
            enc_keys: key.as_ptr().cast(),
            dec_keys: key.as_ptr().cast(),
            key_len: key.len() as u64,
            src: text.as_ptr(),
            dst: text.as_mut_ptr(),
            cipher_start: 0,
            cipher_len: len,
            hash_start: 0,
            hash_len: len,
            iv: nonce.as_ptr(),
            iv_len: nonce.len() as u64,
            tag: tag.as_mut_ptr(),
            tag_len: tag.len() as u64,
            aad: null(),
            aad_len: 0,
            context: std::ptr::null_mut(),
            status: 0,
            cipher_mode: CIPHER_CHACHA20_POLY1305,
            direction,
            hash: HASH_CHACHA20_POLY1305,
            chain_order: direction,
        };
        // SAFETY: an initialised manager, used by this thread alone (it is not `Sync`), with no job
        // between its making and its submission, for `run` does not call itself.
        let job = NonNull::new(unsafe { (self.library.next_job)(self.manager.as_ptr()) })?;
        // SAFETY: the next job of the manager's own, at least as long as `Job`, used by nobody.
        unsafe { job.write(filled) };
        // SAFETY: the job is filled as the header asks for, and everything it points at outlives
        // the call: it is done when the call returns.
        let done = unsafe { (self.library.submit_job)(self.manager.as_ptr()) };
        if done != job.as_ptr() {
            // A job that is still under way points into this frame. No version known does that.
            std::process::abort();
        }
        // SAFETY: the job just submitted; it stays readable until the next one is asked for.
        let status = unsafe { (*done).status };
        (status == STATUS_COMPLETED).then_some(tag)
    }
}
