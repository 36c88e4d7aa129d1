//! Finds and loads libmy_llm_ffi.so and, with it, libtvm_ffi.so. Counterpart: `sys.rs`.

use std::ffi::{c_char, c_int, c_void, CStr, CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::sys::{Api, Version};

const LIBRARY: &str = "libmy_llm_ffi.so";
const TVM_LIBRARY: &str = "libtvm_ffi.so";
/// Names of the environment variables that say where the two are.
const FOLDER_VARIABLE: &str = "MY_LLM_FFI_LIBDIR";
const TVM_FOLDER_VARIABLE: &str = "TVM_FFI_LIBDIR";

#[link(name = "dl")]
extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;
const RTLD_NOLOAD: c_int = 4;

struct Loaded {
    api: Api,
    path: PathBuf,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the library from where it is installed; whatever needs it calls this by itself.
///
/// Looked at, in this order: the folder in the environment variable `MY_LLM_FFI_LIBDIR`; the one
/// that `python -m my_llm_ffi.config --libdir` said when this crate was built; the system's own
/// search path. `libtvm_ffi.so` is the one that the process has already; or that of the folder in
/// `TVM_FFI_LIBDIR`; or the one that is installed beside the library.
///
/// # Errors
/// `ImportError` where no library is found or it does not load; says what was tried. A later call
/// tries anew.
pub fn load() -> Result<()> {
    api().map(|_| ())
}

/// Loads the library from a folder: the one that `python -m my_llm_ffi.config --libdir` prints.
///
/// # Errors
/// `ImportError` where it does not load, or was loaded from another folder already.
pub fn load_from(folder: impl AsRef<Path>) -> Result<()> {
    let path = folder.as_ref().join(LIBRARY);
    let loaded = load_first(std::slice::from_ref(&path))?;
    if loaded.path == path || same_file(&loaded.path, &path) {
        return Ok(());
    }
    Err(refused(&format!("{} is loaded already", loaded.path.display())))
}

/// The file that was loaded; None before.
pub fn library_path() -> Option<&'static Path> {
    LOADED.get().map(|loaded| loaded.path.as_path())
}

/// The C functions; loads them at the first call.
#[inline]
pub(crate) fn api() -> Result<&'static Api> {
    match LOADED.get() {
        Some(loaded) => Ok(&loaded.api),
        None => load_first(&candidates()).map(|loaded| &loaded.api),
    }
}

/// The C functions, for those who hold what came from them.
#[inline]
pub(crate) fn loaded_api() -> &'static Api {
    &LOADED.get().expect("an object exists, so that the library is loaded").api
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn candidates() -> Vec<PathBuf> {
    if let Some(folder) = non_empty(std::env::var_os(FOLDER_VARIABLE)) {
        return vec![Path::new(&folder).join(LIBRARY)];
    }
    let built = Path::new(env!("MY_LLM_FFI_BUILD_LIBDIR"));
    let mut all = vec![];
    if !built.as_os_str().is_empty() {
        all.push(built.join(LIBRARY));
    }
    all.push(PathBuf::from(LIBRARY));
    all
}

fn non_empty(value: Option<OsString>) -> Option<OsString> {
    value.filter(|text| !text.is_empty())
}

fn load_first(candidates: &[PathBuf]) -> Result<&'static Loaded> {
    let _guard = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded);
    }
    let mut tried = vec![];
    for path in candidates {
        match open(path) {
            Ok(api) => return Ok(LOADED.get_or_init(|| Loaded { api, path: path.clone() })),
            Err(why) => tried.push(why),
        }
    }
    Err(refused(&format!(
        "{}; set {FOLDER_VARIABLE} to what `python -m my_llm_ffi.config --libdir` prints",
        tried.join("; ")
    )))
}

fn refused(why: &str) -> Error {
    Error::new("ImportError", format!("my_llm_ffi: {why}"))
}

/// The table of functions, from a library that stays loaded to the end of the process.
fn open(path: &Path) -> std::result::Result<Api, String> {
    if path.components().count() > 1 && !path.is_file() {
        return Err(format!("{} is not there", path.display()));
    }
    // The one that the process has, with its registry, or a folder's; else the library's own path
    // (RUNPATH) finds it.
    let _known = dl(Path::new(TVM_LIBRARY), RTLD_NOW | RTLD_NOLOAD).or_else(|_| open_tvm(path));
    dl(path, RTLD_NOW)?;
    let tvm = dl(Path::new(TVM_LIBRARY), RTLD_NOW | RTLD_NOLOAD)?;
    // SAFETY: the symbols are those of tvm-ffi, as its soname says.
    let api = unsafe { Api::fill(|name| symbol(tvm, name)) }?;
    let mut version = Version { major: 0, minor: 0, patch: 0 };
    // SAFETY: writes one structure.
    unsafe { (api.version)(&mut version) };
    match version {
        Version { major: 0, minor: 1, .. } => Ok(api),
        other => Err(format!("{TVM_LIBRARY} is {other:?}, expected 0.1")),
    }
}

fn open_tvm(library: &Path) -> std::result::Result<*mut c_void, String> {
    let built = env!("MY_LLM_FFI_BUILD_TVM_LIBDIR");
    let named = non_empty(std::env::var_os(TVM_FOLDER_VARIABLE)).map(PathBuf::from);
    let beside = library.parent().map(|folder| folder.join("../../tvm_ffi/lib"));
    let asked = (!built.is_empty()).then(|| PathBuf::from(built));
    let folders = [named, beside, asked];
    let mut found = folders.into_iter().flatten().map(|folder| folder.join(TVM_LIBRARY));
    let path = found.find(|path| path.is_file()).ok_or("it is in no folder")?;
    dl(&path, RTLD_NOW)
}

fn dl(path: &Path, flags: c_int) -> std::result::Result<*mut c_void, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| "a path holds NUL")?;
    // SAFETY: both take a NUL-terminated string; dlerror's text is this thread's until the next.
    unsafe {
        let handle = dlopen(name.as_ptr(), flags);
        if handle.is_null() {
            return Err(last_error(&format!("{} is not loaded", path.display())));
        }
        Ok(handle)
    }
}

/// # Safety
/// Of this thread, after a call of `dlopen` or `dlsym` that failed.
unsafe fn last_error(otherwise: &str) -> String {
    // SAFETY: as above.
    let text = unsafe { dlerror() };
    if text.is_null() {
        return otherwise.to_string();
    }
    // SAFETY: dlerror returns a NUL-terminated string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// `name` ends with NUL.
fn symbol(handle: *mut c_void, name: &'static str) -> std::result::Result<*mut c_void, String> {
    // SAFETY: a handle of dlopen and a NUL-terminated string.
    let address = unsafe { dlsym(handle, name.as_ptr().cast()) };
    if address.is_null() {
        // SAFETY: dlsym failed just now.
        return Err(unsafe { last_error("a symbol is missing") });
    }
    Ok(address)
}
