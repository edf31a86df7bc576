//! The socket: `/var/run/wireguard/NAME.sock`, or one that was handed over.
//!
//! In: a folder and a name, or a descriptor in `WG_UAPI_FD`. Out: a [`Listener`] whose file is
//! removed with it if it is still ours. The file is never, not even for a moment, open to others.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};
use tracing::debug;

use super::UapiError;
use crate::control::values::InterfaceName;
use crate::sys;

/// Where `wg` looks.
pub const DIR: &str = "/var/run/wireguard";
/// Names the descriptor of a listening socket by its number, as wireguard-go has it.
pub const FD_VARIABLE: &str = "WG_UAPI_FD";

/// A socket that listens; connections wait until it is served.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) file: Option<SocketFile>,
}

impl Listener {
    /// Takes the socket of `name` in `dir`, which is [`DIR`] but for tests.
    ///
    /// # Errors
    /// [`UapiError::Live`] if another process serves it, else the step that failed.
    pub fn bind(dir: &Path, name: &InterfaceName) -> Result<Self, UapiError> {
        make_dir(dir)?;
        let path = dir.join(format!("{name}.sock"));
        let socket = bind_private(&path)?;
        let file = SocketFile::new(path.clone()).map_err(|error| UapiError::Create {
            what: "look at",
            path,
            error,
        })?;
        Ok(Self { socket, file: Some(file) })
    }

    /// Takes the socket that was handed over in [`FD_VARIABLE`]; none if that is not set.
    ///
    /// # Errors
    /// [`UapiError::Inherited`] if it is no listening Unix socket.
    pub fn inherited() -> Result<Option<Self>, UapiError> {
        let value = env::var_os(FD_VARIABLE).filter(|value| !value.is_empty());
        value.map(|value| Self::from_number(&value.to_string_lossy())).transpose()
    }

    pub(super) fn from_number(value: &str) -> Result<Self, UapiError> {
        let refuse = |problem: String| UapiError::Inherited {
            variable: FD_VARIABLE,
            value: value.to_owned(),
            problem,
        };
        let number = value.parse().map_err(|_| refuse("it is no number".to_owned()))?;
        let fd = sys::inherited::duplicate(number).map_err(|error| refuse(error.to_string()))?;
        let option = |option| {
            let value = sys::host::socket_option(fd.as_fd(), libc::SOL_SOCKET, option);
            value.map_err(|error| refuse(error.to_string()))
        };
        if option(libc::SO_DOMAIN)? != libc::AF_UNIX || option(libc::SO_ACCEPTCONN)? != 1 {
            return Err(refuse("it is a socket of another kind".to_owned()));
        }
        let socket = UnixListener::from(fd);
        let address = socket.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        // A socket without a name, or whose file is gone, is served all the same.
        let file = path.and_then(|path| SocketFile::new(path.to_owned()).ok());
        Ok(Self { socket, file })
    }

    /// Where it is, as far as known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

/// The file of a socket of ours; removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let id = file_id(&path)?;
        Ok(Self { path, id })
    }

    /// Whether the path still leads to our socket.
    pub(super) fn is_there(&self) -> bool {
        file_id(&self.path).is_ok_and(|id| id == self.id)
    }

    /// A descriptor that becomes readable when something may have happened to the file.
    pub(super) fn watch(&self) -> io::Result<Inotify> {
        let inotify = Inotify::init()?;
        // A socket in use outlives its name: losing that is a change of its attributes.
        let mask = WatchMask::ATTRIB | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
        inotify.watches().add(&self.path, mask)?;
        Ok(inotify)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        } else {
            debug!(path = %self.path.display(), "the UAPI socket is not ours any more");
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn make_dir(dir: &Path) -> Result<(), UapiError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parents = dir.parent().map_or(Ok(()), fs::create_dir_all);
    let made = parents.and_then(|()| DirBuilder::new().mode(0o700).create(dir));
    match made {
        // Another process was faster.
        Err(_) if dir.is_dir() => Ok(()),
        made => made.map_err(|error| UapiError::Create {
            what: "create the folder",
            path: dir.to_owned(),
            error,
        }),
    }
}

/// Binds under another name in a folder that only we can enter, makes the socket private, then
/// moves it into place: it listens and is closed to others before anybody can find it. (`wg`
/// removes a socket that it finds but cannot connect to.)
fn bind_private(path: &Path) -> Result<UnixListener, UapiError> {
    let failed = |what| move |error| UapiError::Create { what, path: path.to_owned(), error };
    remove_if_stale(path)?;
    let nursery = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_dir_all(&nursery);
    DirBuilder::new().mode(0o700).create(&nursery).map_err(failed("make room for"))?;
    let young = nursery.join("s");
    let bound = UnixListener::bind(&young).and_then(|listener| {
        fs::set_permissions(&young, Permissions::from_mode(0o600))?;
        // A hard link, unlike a rename, does not replace what appeared meanwhile.
        fs::hard_link(&young, path)?;
        Ok(listener)
    });
    let _ = fs::remove_dir_all(&nursery);
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => UapiError::Live { path: path.to_owned() },
        _ => failed("create the UAPI socket")(error),
    })
}

/// A socket that refuses connections was left behind by a process that is gone.
fn remove_if_stale(path: &Path) -> Result<(), UapiError> {
    let failed = |what| move |error| UapiError::Create { what, path: path.to_owned(), error };
    // To connect to an ordinary file is refused just as well.
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Err(failed("replace")(io::Error::other("it is no socket")));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(UapiError::Live { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(path = %path.display(), "removing a stale UAPI socket");
            fs::remove_file(path).map_err(failed("remove the stale UAPI socket"))
        }
        Err(error) => Err(failed("look at the UAPI socket")(error)),
    }
}
