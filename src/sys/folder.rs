//! Folders, and what the system says of the files in them.

use super::{again, fail};
use rustix::io::Errno;
use std::fs::Metadata;
use std::io;
use std::path::Path;

fn number(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// The names in a folder that are text; if the system is short of memory, it is tried again for a while.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let names = again::persist(|| {
        fail::attempt("opendir")?;
        std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|error| number(&error))
    });
    let names: Vec<std::ffi::OsString> = names?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Makes a folder that others cannot enter, whatever the umask says.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fail::attempt("mkdir")?;
    std::fs::DirBuilder::new().mode(0o700).create(folder)
}

/// Removes a folder and all that is in it. It may be gone already; or it stays, if the system refuses.
pub(crate) fn remove(folder: &Path) {
    let _ = again::persist(|| {
        fail::attempt("rmdir")?;
        std::fs::remove_dir_all(folder).map_err(|error| number(&error))
    });
}

/// What there is to know about a file.
pub(crate) fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    fail::attempt("stat")?;
    std::fs::metadata(path)
}

/// Has the calling process work in another folder.
pub(crate) fn work_in(folder: &Path) -> io::Result<()> {
    fail::attempt("chdir")?;
    std::env::set_current_dir(folder)
}
