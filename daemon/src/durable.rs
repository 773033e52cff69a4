//! Files that are there, whole, after a power cut; or not there at all.
//!
//! [`write`] goes temp file, fsync, rename, fsync of the directory: a reader sees the old bytes or the new bytes, never
//! a mixture, and once `write` returned, the new ones for ever.  Knows nothing about: what the bytes mean.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What failed, on which path.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    #[error("{path} names no file in a directory")]
    NoName { path: PathBuf },
    #[error("create {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("sync {path} to disk")]
    Sync {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("rename {from} to {to}")]
    Rename {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("create directory {path}")]
    CreateDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("sync directory {path} to disk")]
    SyncDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Replaces the file by one with these bytes, readable by its owner only. One writer per path at a time.
///
/// A crash may leave `.<name>.tmp` behind; the next write of the same path overwrites it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    let temp = temp_of(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .map_err(|source| DurableError::Create { path: temp.clone(), source })?;
    file.write_all(bytes).map_err(|source| DurableError::Write { path: temp.clone(), source })?;
    file.sync_all().map_err(|source| DurableError::Sync { path: temp.clone(), source })?;
    drop(file);
    rename(&temp, path)
}

/// Renames within one directory, for good. The file itself must have been synced before.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(|source| DurableError::Rename { from: from.into(), to: to.into(), source })?;
    sync_dir(parent_of(to)?)
}

/// Removes the file for good; `false` if there was none.
pub fn remove(path: &Path) -> Result<bool, DurableError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(DurableError::Remove { path: path.into(), source });
        }
    }
    sync_dir(parent_of(path)?)?;
    Ok(true)
}

/// Makes the directory and its missing parents, each entered durably in the one above.
pub fn create_dir_all(path: &Path) -> Result<(), DurableError> {
    if path.is_dir() {
        return Ok(());
    }
    // A relative path of one component has the empty path as parent: the working directory, which exists.
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir_all(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        // Somebody else made it between our look and our attempt.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(source) => {
            return Err(DurableError::CreateDir { path: path.into(), source });
        }
    }
    sync_dir(parent_of(path)?)
}

/// Makes renames, creations and removals in this directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), DurableError> {
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| DurableError::SyncDir { path: dir.into(), source })
}

fn parent_of(path: &Path) -> Result<&Path, DurableError> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(DurableError::NoName { path: path.into() }),
    }
}

fn temp_of(path: &Path) -> Result<PathBuf, DurableError> {
    let name = path.file_name().ok_or_else(|| DurableError::NoName { path: path.into() })?;
    let mut temp = OsString::from(".");
    temp.push(name);
    temp.push(".tmp");
    Ok(path.with_file_name(temp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        write(&path, b"a first, longer text").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(dir.path()), ["meta"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_leftover_of_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        fs::write(dir.path().join(".meta.tmp"), b"half of something that was much longer").unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["meta"]);
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_bytes_and_names_the_operation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"old").unwrap();
        let error = write(&path, b"new").unwrap_err();
        assert!(matches!(error, DurableError::Rename { .. }), "{error:?}");
        assert!(error.to_string().contains("rename") && error.to_string().contains("meta"), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
        let missing = dir.path().join("nowhere/meta");
        assert!(matches!(write(&missing, b"new").unwrap_err(), DurableError::Create { .. }));
    }

    #[test]
    fn removing_tells_whether_there_was_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        write(&path, b"x").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        let file = dir.path().join("file");
        write(&file, b"x").unwrap();
        assert!(create_dir_all(&file.join("below")).is_err());
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        assert!(matches!(write(Path::new("/"), b"x"), Err(DurableError::NoName { .. })));
        assert!(matches!(write(Path::new("a/.."), b"x"), Err(DurableError::NoName { .. })));
    }
}
