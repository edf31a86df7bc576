//! The control socket: one engine's state, over a Unix socket that only its owner may open.
//!
//! In: lines; `status` is the only request. Out: one line of JSON each, on the same connection.
//! One thread serves all clients and sleeps between requests. Bounded: 16 clients, 256 bytes a
//! line, 60 s of silence, and a client that does not take its answer is dropped.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::status::Status;
use super::values::InterfaceName;
use crate::sys::host as sys;

/// Moves the folder of control sockets elsewhere.
pub const RUN_DIR_VARIABLE: &str = "RINGTUN_RUN_DIR";
const RUN_DIR: &str = "/run/ringtun";
const SUFFIX: &str = ".sock";
const CLIENTS_MAX: usize = 16;
const LINE_LEN_MAX: usize = 256;
const SILENCE_MAX: Duration = Duration::from_secs(60);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// Why a control socket could not be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another engine answers there.
    #[error(
        "another ringtun already serves {}; stop it first, or set {RUN_DIR_VARIABLE} to another \
         folder (it may be in another network namespace)",
        path.display()
    )]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The folder or socket could not be made.
    #[error(
        "cannot {what} {}: {error}. Run as root, or set {RUN_DIR_VARIABLE} to a folder you can \
         write to (`ringtun show` needs the same setting)",
        path.display()
    )]
    Create {
        /// The step.
        what: &'static str,
        /// The folder or socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Nobody answers.
    #[error(
        "no ringtun answers at {}: {error}. `ringtun show` without a name lists those that run",
        path.display()
    )]
    Absent {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// We may not ask.
    #[error("not permitted to open {}: {error}; run as the user that started it", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The answer cannot be understood.
    #[error("{} answers something that is no status: {problem}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The folder of control sockets.
#[must_use]
pub fn run_dir() -> PathBuf {
    env::var_os(RUN_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(RUN_DIR), PathBuf::from)
}

/// Where the engine of a device listens.
#[must_use]
pub fn path_of(name: &InterfaceName) -> PathBuf {
    run_dir().join(format!("{name}{SUFFIX}"))
}

/// The control sockets there are, live or stale, by name.
pub fn list() -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(run_dir()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let is_socket = |path: &PathBuf| path.to_string_lossy().ends_with(SUFFIX);
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_socket).collect();
    paths.sort();
    Ok(paths)
}

/// Asks the engine at `path` for its state.
pub fn query(path: &Path) -> Result<Status, SocketError> {
    let absent = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => SocketError::Forbidden { path: path.to_owned(), error },
        _ => SocketError::Absent { path: path.to_owned(), error },
    };
    let mut stream = UnixStream::connect(path).map_err(absent)?;
    stream.set_read_timeout(Some(QUERY_TIMEOUT)).map_err(absent)?;
    stream.set_write_timeout(Some(QUERY_TIMEOUT)).map_err(absent)?;
    stream.write_all(b"status\n").map_err(absent)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_line(&mut line).map_err(absent)?;
    serde_json::from_str(&line)
        .map_err(|error| SocketError::Answer { path: path.to_owned(), problem: error.to_string() })
}

/// A control socket being served; dropping it ends the service and removes the socket.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Takes the socket of `name`; connections wait until [`Self::serve`].
    pub fn bind(name: &InterfaceName) -> Result<Self, SocketError> {
        Self::bind_in(&run_dir(), name)
    }

    fn bind_in(dir: &Path, name: &InterfaceName) -> Result<Self, SocketError> {
        make_run_dir(dir)?;
        let path = dir.join(format!("{name}{SUFFIX}"));
        let listener = bind_private(&path)?;
        Ok(Self { path, listener: Some(listener), stop: None, thread: None })
    }

    /// Answers from now on with what `status` says at the time.
    pub fn serve(
        &mut self,
        status: impl FnMut() -> Status + Send + 'static,
    ) -> Result<(), SocketError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let failed = |error| SocketError::Create { what: "serve", path: self.path.clone(), error };
        listener.set_nonblocking(true).map_err(failed)?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let mut server = Server { listener, stopped, clients: Vec::new(), status };
        let thread = thread::Builder::new()
            .name("control-socket".to_owned())
            .spawn(move || server.run())
            .map_err(failed)?;
        self.stop = Some(stop);
        self.thread = Some(thread);
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // First the name, so that nobody finds a socket that is about to go.
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "the control socket was gone already");
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn make_run_dir(dir: &Path) -> Result<(), SocketError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|error| SocketError::Create {
        what: "create the folder",
        path: dir.to_owned(),
        error,
    })
}

/// Binds so that the socket is never, not even for a moment, open to others: under another name in
/// a folder of ours (0700), then made private, then moved into place.
pub(super) fn bind_private(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |what| move |error| SocketError::Create { what, path: path.to_owned(), error };
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
        io::ErrorKind::AlreadyExists => SocketError::Live { path: path.to_owned() },
        _ => failed("create the control socket")(error),
    })
}

/// A socket that refuses connections was left behind by a process that is gone.
fn remove_if_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |error| SocketError::Create { what, path: path.to_owned(), error };
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(path = %path.display(), "removing a stale control socket");
            fs::remove_file(path).map_err(failed("remove the stale control socket"))
        }
        Err(error) => Err(failed("look at the control socket")(error)),
    }
}

struct Server<S> {
    listener: UnixListener,
    stopped: PipeReader,
    clients: Vec<Client>,
    status: S,
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    last_heard: Instant,
}

impl<S: FnMut() -> Status> Server<S> {
    fn run(&mut self) {
        loop {
            let mut fds = vec![self.stopped.as_fd(), self.listener.as_fd()];
            fds.extend(self.clients.iter().map(|client| client.stream.as_fd()));
            // Only connected clients need the clock; without one the thread sleeps for good.
            let timeout = (!self.clients.is_empty()).then_some(SILENCE_MAX);
            let ready = match sys::poll_readable(&fds, timeout) {
                Ok(ready) => ready,
                Err(error) => {
                    warn!(%error, "the control socket is no longer served");
                    return;
                }
            };
            if ready[0] {
                return;
            }
            self.serve_clients(&ready[2..]);
            if ready[1] {
                self.accept();
            }
        }
    }

    fn serve_clients(&mut self, ready: &[bool]) {
        let status = &mut self.status;
        let mut ready = ready.iter();
        self.clients.retain_mut(|client| match ready.next() {
            Some(true) => client.serve(status).is_ok(),
            _ => client.last_heard.elapsed() < SILENCE_MAX,
        });
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.clients.len() >= CLIENTS_MAX {
            debug!("a control client was turned away: {CLIENTS_MAX} are connected");
            return;
        }
        if stream.set_nonblocking(true).is_ok() {
            self.clients.push(Client { stream, line: Vec::new(), last_heard: Instant::now() });
        }
    }
}

impl Client {
    /// Reads what there is and answers complete lines; an error ends the connection.
    fn serve(&mut self, status: &mut impl FnMut() -> Status) -> io::Result<()> {
        self.last_heard = Instant::now();
        let mut bytes = [0; LINE_LEN_MAX];
        let len = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        for byte in &bytes[..len] {
            if *byte == b'\n' {
                let answer = answer(&self.line, status);
                self.line.clear();
                self.stream.write_all(&answer)?;
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(*byte);
            } else {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
}

fn answer(request: &[u8], status: &mut impl FnMut() -> Status) -> Vec<u8> {
    let mut line = match request.trim_ascii() {
        b"status" => serde_json::to_vec(&status()).unwrap_or_default(),
        _ => br#"{"error":"unknown request; `status` is the only one"}"#.to_vec(),
    };
    line.push(b'\n');
    line
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
