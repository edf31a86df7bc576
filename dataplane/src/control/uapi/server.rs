//! The socket itself: who may connect, for how long, and what a connection may ask.
//!
//! A thread for each connection, at most [`CONNECTIONS_MAX`]: a client that does nothing holds up
//! nobody else, and is dropped after [`SILENCE_MAX`].

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::parse::SetParser;
use super::{Device, format};
use crate::control::socket::{SocketError, bind_private};
use crate::control::values::InterfaceName;
use crate::sys::host as sys;

/// Where `wg` looks.
pub const RUN_DIR: &str = "/var/run/wireguard";
const CONNECTIONS_MAX: usize = 16;
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// One line; the longest of the protocol has 78 bytes.
const LINE_LEN_MAX: u64 = 1024;
/// Lines of one request: 65,536 peers with twenty lines each.
const LINES_MAX: usize = 1 << 21;
/// How often is looked whether somebody has deleted the socket, which ends the device as it does
/// with wireguard-go.
const LOOK: Duration = Duration::from_secs(2);

/// A configuration socket being served; dropping it ends the service and removes the socket.
pub struct UapiServer {
    path: PathBuf,
    inode: u64,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    removed: Receiver<()>,
}

/// A configuration socket that answers nobody yet.
pub struct UapiSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl UapiSocket {
    /// Takes the socket of `name`; connections wait until it is served.
    pub fn bind(name: &InterfaceName) -> Result<Self, SocketError> {
        let dir = Path::new(RUN_DIR);
        let path = dir.join(format!("{name}.sock"));
        let make = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        make.map_err(|error| SocketError::Create {
            what: "create the folder of",
            path: path.clone(),
            error,
        })?;
        Ok(Self { listener: bind_private(&path)?, path })
    }

    /// Answers for `device` from now on.
    pub fn serve(self, device: Arc<dyn Device>) -> Result<UapiServer, SocketError> {
        let Self { path, listener } = self;
        let failed = |error| SocketError::Create { what: "serve", path: path.clone(), error };
        let inode = fs::metadata(&path).map_err(failed)?.ino();
        listener.set_nonblocking(true).map_err(failed)?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let (tell, removed) = bounded(1);
        let watched = path.clone();
        let thread = thread::Builder::new()
            .name("uapi".to_owned())
            .spawn(move || run(&listener, &stopped, &device, &watched, inode, &tell))
            .map_err(failed)?;
        Ok(UapiServer { inode, stop: Some(stop), thread: Some(thread), removed, path })
    }
}

impl UapiServer {
    /// Where it is told that somebody has deleted the socket.
    #[must_use]
    pub fn removed(&self) -> Receiver<()> {
        self.removed.clone()
    }
}

impl Drop for UapiServer {
    fn drop(&mut self) {
        // Not one that somebody else has put there since.
        if is_ours(&self.path, self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_ours(path: &Path, inode: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == inode)
}

fn run(
    listener: &UnixListener,
    stopped: &PipeReader,
    device: &Arc<dyn Device>,
    path: &Path,
    inode: u64,
    tell: &Sender<()>,
) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        match sys::poll_readable(&[stopped.as_fd(), listener.as_fd()], Some(LOOK)).as_deref() {
            Ok([true, ..]) => return,
            Ok([_, true]) => accept(listener, device, &connections),
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "the configuration socket is no longer served");
                return;
            }
        }
        if !is_ours(path, inode) {
            let _ = tell.try_send(());
        }
    }
}

fn accept(listener: &UnixListener, device: &Arc<dyn Device>, connections: &Arc<AtomicUsize>) {
    let Ok((stream, _)) = listener.accept() else { return };
    if connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
        connections.fetch_sub(1, Ordering::AcqRel);
        debug!("a configuration client was turned away: {CONNECTIONS_MAX} are connected");
        return;
    }
    let (device, count) = (Arc::clone(device), Arc::clone(connections));
    let started = thread::Builder::new().name("uapi-client".to_owned()).spawn(move || {
        if let Err(error) = converse(&stream, &*device) {
            debug!(%error, "a configuration client was dropped");
        }
        count.fetch_sub(1, Ordering::AcqRel);
    });
    if started.is_err() {
        connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers requests until the client goes, is silent for too long or says nonsense.
fn converse(stream: &UnixStream, device: &dyn Device) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(line) = read_line(&mut reader)? {
        match line.as_str() {
            "get=1" => {
                // The empty line that ends the request.
                read_line(&mut reader)?;
                match device.get() {
                    Ok(status) => {
                        writer.write_all(format::status(&status).as_bytes())?;
                        answer(writer, 0)?;
                    }
                    Err(errno) => answer(writer, errno)?,
                }
            }
            "set=1" => {
                let errno = set(&mut reader, device)?;
                answer(writer, errno)?;
            }
            "" => {}
            _ => return answer(writer, libc::EINVAL),
        }
    }
    Ok(())
}

/// Reads a whole `set` request, also one that is refused, and carries it out; returns the errno.
fn set(reader: &mut impl BufRead, device: &dyn Device) -> io::Result<i32> {
    let mut parser = Some(SetParser::default());
    for _ in 0..LINES_MAX {
        let Some(line) = read_line(reader)? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if line.is_empty() {
            let Some(parser) = parser else { return Ok(libc::EINVAL) };
            return Ok(device.set(parser.finish()).err().unwrap_or(0));
        }
        if parser.as_mut().is_some_and(|parser| parser.line(&line).is_err()) {
            parser = None;
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// One line without its end; `None` at the end of the connection. Wiped when dropped.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Zeroizing<String>>> {
    let mut line = Zeroizing::new(String::with_capacity(128));
    let len = reader.take(LINE_LEN_MAX).read_line(&mut line)?;
    if len == 0 {
        return Ok(None);
    }
    if line.pop() != Some('\n') {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(line))
}

fn answer(mut stream: &UnixStream, errno: i32) -> io::Result<()> {
    stream.write_all(format!("errno={errno}\n\n").as_bytes())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
