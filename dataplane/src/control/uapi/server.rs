//! Serves a UAPI socket.
//!
//! In: a [`Listener`] and a [`Device`]. Out: answers, until the [`Server`] is dropped. A thread
//! accepts, one a connection answers: a client that is stuck holds up nobody else. Bounded: 16
//! connections, further ones wait; 30 s without a byte end one. The threads sleep when idle.
//!
//! Errors are answered so that `wg` understands them: it wants the errno of a failed `set` negative
//! (as wireguard-go sends it) and that of a failed `get` positive.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use inotify::Inotify;
use tracing::{debug, warn};

use super::listener::{Listener, SocketFile};
use super::parse::{Request, RequestError, read_request};
use super::stream::WipingReader;
use super::{Device, UapiError, format};
use crate::control::netlink::Netlink;
use crate::sys::host as sys;

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 16;
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often the file is looked at where it cannot be watched.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A pause after a connection that could not be accepted, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket being served. Dropping it waits for calls of the device that are under way, ends the
/// threads and removes the socket's file if it is still ours.
#[derive(Debug)]
pub struct Server {
    removed: Receiver<()>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `listener` from now on.
    ///
    /// # Errors
    /// The kernel's, if there are no descriptors or threads left.
    pub fn start(listener: Listener, device: Arc<dyn Device>) -> Result<Self, UapiError> {
        Self::try_start(listener, device).map_err(UapiError::Serve)
    }

    fn try_start(listener: Listener, device: Arc<dyn Device>) -> io::Result<Self> {
        listener.socket.set_nonblocking(true)?;
        let (stopped, stop) = io::pipe()?;
        let (ended, end) = io::pipe()?;
        let (tell_removed, removed) = bounded(1);
        let watch = listener.file.as_ref().and_then(watch);
        let mut acceptor = Acceptor {
            socket: listener.socket,
            file: listener.file,
            watch,
            tell_removed,
            stopped,
            ended,
            end,
            connections: [const { None }; CONNECTIONS_MAX],
            device,
        };
        let thread =
            thread::Builder::new().name("uapi".to_owned()).spawn(move || acceptor.run())?;
        Ok(Self { removed, stop: Some(stop), thread: Some(thread) })
    }

    /// Tells once when somebody has removed the socket's file, which means: stop.
    #[must_use]
    pub fn removed(&self) -> Receiver<()> {
        self.removed.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(file: &SocketFile) -> Option<Inotify> {
    file.watch()
        .inspect_err(|error| debug!(%error, "no inotify for the UAPI socket, looking now and then"))
        .ok()
}

struct Acceptor {
    socket: UnixListener,
    /// None if there never was one or it has been removed by somebody.
    file: Option<SocketFile>,
    watch: Option<Inotify>,
    tell_removed: Sender<()>,
    /// Readable, by its end, when the server is to stop.
    stopped: PipeReader,
    /// Brings the places of connections that have ended.
    ended: PipeReader,
    end: PipeWriter,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    device: Arc<dyn Device>,
}

struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Acceptor {
    fn run(&mut self) {
        loop {
            self.look_at_file();
            let free = self.connections.iter().position(Option::is_none);
            let unwatched = self.file.is_some() && self.watch.is_none();
            let mut fds = vec![self.stopped.as_fd(), self.ended.as_fd()];
            fds.extend(self.watch.as_ref().map(|watch| watch.as_fd()));
            fds.extend(free.map(|_| self.socket.as_fd()));
            let ready = match sys::poll_readable(&fds, unwatched.then_some(LOOK_INTERVAL)) {
                Ok(ready) => ready,
                Err(error) => {
                    warn!(%error, "the UAPI socket is no longer served");
                    break;
                }
            };
            if ready.first() == Some(&true) {
                break;
            }
            if ready.get(1) == Some(&true) {
                self.reap();
            }
            // With a free place the listener is the last one asked.
            if let (Some(place), Some(true)) = (free, ready.last()) {
                self.accept(place);
            }
        }
        self.end_connections();
    }

    /// Tells, once, if the file has gone.
    fn look_at_file(&mut self) {
        if let Some(watch) = &mut self.watch {
            // What happened does not matter: the file is there or it is not.
            let _ = watch.read_events(&mut [0; 1024]);
        }
        if self.file.as_ref().is_some_and(|file| !file.is_there()) {
            self.file = None;
            self.watch = None;
            let _ = self.tell_removed.try_send(());
        }
    }

    fn accept(&mut self, place: usize) {
        let started = match self.socket.accept() {
            Ok((stream, _)) => self.start(stream, place),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => Err(error),
        };
        match (started, self.connections.get_mut(place)) {
            (Ok(connection), Some(free)) => *free = Some(connection),
            (Ok(_), None) => {}
            (Err(error), _) => {
                warn!(%error, "a UAPI client could not be served");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }

    fn start(&self, stream: UnixStream, place: usize) -> io::Result<Connection> {
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let ours = stream.try_clone()?;
        let notice = EndNotice { end: self.end.try_clone()?, place };
        let device = Arc::clone(&self.device);
        let thread = thread::Builder::new().name("uapi-client".to_owned()).spawn(move || {
            // Also told when the device panics.
            let _notice = notice;
            if let Err(error) = serve(&stream, device.as_ref()) {
                debug!(%error, "a UAPI connection ended");
            }
        })?;
        Ok(Connection { stream: ours, thread })
    }

    fn reap(&mut self) {
        let mut places = [0; CONNECTIONS_MAX];
        let len = self.ended.read(&mut places).unwrap_or(0);
        for place in places.iter().take(len) {
            let connection = self.connections.get_mut(usize::from(*place)).and_then(Option::take);
            if let Some(Connection { thread, .. }) = connection {
                let _ = thread.join();
            }
        }
    }

    fn end_connections(&mut self) {
        // First the name, so that nobody finds a socket that is about to go.
        self.file = None;
        for connection in self.connections.iter().flatten() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        for place in &mut self.connections {
            if let Some(Connection { thread, .. }) = place.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Tells the acceptor, when dropped, that a connection has ended.
struct EndNotice {
    end: PipeWriter,
    place: usize,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Never blocks: a pipe takes 4096 bytes at least, and there are 16 places.
        let _ = self.end.write_all(&[u8::try_from(self.place).unwrap_or(u8::MAX)]);
    }
}

/// Answers one request after another until the client closes the connection.
fn serve(stream: &UnixStream, device: &dyn Device) -> io::Result<()> {
    let mut reader = WipingReader::new(stream);
    let mut writer = stream;
    loop {
        match read_request(&mut reader, &interface_index) {
            Ok(None) => return Ok(()),
            Ok(Some(Request::Get)) => match device.get() {
                Ok(status) => format::write_status(&status, &mut writer)?,
                Err(errno) => format::write_errno(errno, &mut writer)?,
            },
            Ok(Some(Request::Set(update))) => {
                let errno = device.set(update).err().unwrap_or(0);
                format::write_errno(-errno, &mut writer)?;
            }
            Err(error @ RequestError::Refused { errno, .. }) => {
                warn!("a UAPI request was refused, nothing was changed: {error}");
                format::write_errno(-errno, &mut writer)?;
            }
            Err(RequestError::Broken(error)) => return Err(error),
        }
    }
}

fn interface_index(name: &str) -> Option<u32> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link_by_name(name));
    link.ok().flatten().map(|link| link.index)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
