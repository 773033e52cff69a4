//! The admin socket where no service manager made it: a socket in the file system, for root and one group.

use nix::unistd::Group;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Whoever is in it may administer this node.
const GROUP: &str = "konsul";

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    #[error("another process listens on {path}; give this one its own `http.admin_socket`")]
    InUse { path: PathBuf },
    #[error("{path} is there and is no socket; move it away, or set `http.admin_socket`")]
    NoSocket { path: PathBuf },
    #[error("{op} {path}")]
    File {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Listens at `path`, in place of a socket that an earlier process left behind.
pub fn bind(path: &Path) -> Result<UnixListener, AdminSocketError> {
    let failed = |op| move |source| AdminSocketError::File { op, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(AdminSocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(AdminSocketError::InUse { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    // Made beside it: at its place it may be used by those who may, and by nobody before that.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    drop(fs::remove_file(&beside));
    let listener = UnixListener::bind(&beside).map_err(failed("listen on"))?;
    let placed = restrict(&beside).and_then(|()| fs::rename(&beside, path));
    if let Err(source) = placed {
        drop(fs::remove_file(&beside));
        return Err(failed("make")(source));
    }
    listener.set_nonblocking(true).map_err(failed("make non-blocking"))?;
    Ok(listener)
}

/// For this process's user, and for the group if there is one and this process may give files to it.
fn restrict(path: &Path) -> io::Result<()> {
    let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
    let given = group.is_some_and(|group| chown(path, None, Some(group)).is_ok());
    fs::set_permissions(path, Permissions::from_mode(if given { 0o660 } else { 0o600 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let listener = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path), Err(AdminSocketError::InUse { .. })));
        drop(listener);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path), Err(AdminSocketError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
