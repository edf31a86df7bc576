//! The server over real Unix sockets in a folder of the test's own.

use std::fs;
use std::io::BufRead;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc;

use super::super::DeviceStatus;
use super::super::fake_tests::{Dir, Fake};
use super::*;
use crate::control::values::InterfaceName;
use crate::protocol::config::DeviceUpdate;

const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
const PATIENCE: Duration = Duration::from_secs(10);

fn name() -> InterfaceName {
    "wg0".parse().unwrap()
}

fn served(dir: &Dir) -> (Server, PathBuf) {
    serve_device(dir, Arc::new(Fake::default()))
}

fn serve_device(dir: &Dir, device: Arc<dyn Device>) -> (Server, PathBuf) {
    let listener = Listener::bind(&dir.0, &name()).unwrap();
    let path = listener.path().unwrap().to_owned();
    (Server::start(listener, device).unwrap(), path)
}

fn connect(path: &Path) -> io::BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    io::BufReader::new(stream)
}

/// Sends a request and reads up to the empty line.
fn ask(client: &mut io::BufReader<UnixStream>, request: &str) -> String {
    client.get_mut().write_all(request.as_bytes()).unwrap();
    answer(client)
}

fn answer(client: &mut io::BufReader<UnixStream>) -> String {
    let mut answer = String::new();
    while !answer.ends_with("\n\n") {
        assert_ne!(client.read_line(&mut answer).unwrap(), 0, "closed after {answer:?}");
    }
    answer
}

#[test]
fn a_client_sets_and_gets_over_one_connection() {
    let dir = Dir::new("one");
    let (_server, path) = served(&dir);
    let mut client = connect(&path);
    assert_eq!(ask(&mut client, "get=1\n\n"), "errno=0\n\n");
    let set = format!("set=1\nlisten_port=7\npublic_key={KEY}\nallowed_ip=10.0.0.0/8\n\n");
    assert_eq!(ask(&mut client, &set), "errno=0\n\n");
    let shown = ask(&mut client, "get=1\n\n");
    assert!(shown.starts_with(&format!("listen_port=7\npublic_key={KEY}\n")), "{shown}");
    assert!(shown.ends_with("allowed_ip=10.0.0.0/8\nerrno=0\n\n"), "{shown}");
    let two = ask(&mut client, "get=1\n\nget=1\n\n");
    assert_eq!((two.as_str(), answer(&mut client).as_str()), (shown.as_str(), shown.as_str()));
}

#[test]
fn errors_carry_the_errno_and_change_nothing() {
    let dir = Dir::new("errors");
    let (_server, path) = served(&dir);
    let mut client = connect(&path);
    assert_eq!(ask(&mut client, "set=1\nlisten_port=7\nbogus=1\nfwmark=1\n\n"), "errno=-22\n\n");
    assert_eq!(ask(&mut client, "set=1\nnonsense\n\n"), "errno=-71\n\n");
    let taken = format!("set=1\nlisten_port={}\n\n", Fake::TAKEN_PORT);
    assert_eq!(ask(&mut client, &taken), format!("errno=-{}\n\n", libc::EADDRINUSE));
    assert_eq!(ask(&mut client, "get=1\n\n"), "errno=0\n\n");
    client.get_mut().write_all(b"status\n").unwrap();
    assert_eq!(client.read_line(&mut String::new()).unwrap(), 0, "no such operation");
}

#[test]
fn a_request_that_is_cut_off_changes_nothing() {
    let dir = Dir::new("cut");
    let (_server, path) = served(&dir);
    let mut client = connect(&path);
    client.get_mut().write_all(b"set=1\nlisten_port=7\n").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_line(&mut String::new()).unwrap(), 0);
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), "errno=0\n\n");
}

#[test]
fn stuck_clients_hold_up_nobody_until_all_places_are_taken() {
    let dir = Dir::new("stuck");
    let (_server, path) = served(&dir);
    let mut stuck: Vec<_> = (1..CONNECTIONS_MAX).map(|_| connect(&path)).collect();
    for client in &mut stuck {
        client.get_mut().write_all(b"set=1\nfwm").unwrap();
    }
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), "errno=0\n\n");
    let mut last = connect(&path);
    assert_eq!(ask(&mut last, "get=1\n\n"), "errno=0\n\n");
    // Every place is taken now: who comes next waits until one is free, and is then served.
    let mut waiting = connect(&path);
    waiting.get_mut().write_all(b"get=1\n\n").unwrap();
    waiting.get_mut().set_nonblocking(true).unwrap();
    let early = waiting.read_line(&mut String::new());
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    waiting.get_mut().set_nonblocking(false).unwrap();
    drop(last);
    assert_eq!(answer(&mut waiting), "errno=0\n\n");
}

/// A device whose `get` waits to be let go, fails, or panics.
struct Odd {
    entered: mpsc::SyncSender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Device for Odd {
    fn get(&self) -> Result<DeviceStatus, i32> {
        self.entered.send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        Err(libc::ENODEV)
    }

    fn set(&self, _: DeviceUpdate) -> Result<(), i32> {
        panic!("a device that fails badly");
    }
}

fn odd() -> (Arc<Odd>, mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (entered, enters) = mpsc::sync_channel(1);
    let (let_go, go) = mpsc::sync_channel(1);
    (Arc::new(Odd { entered, go: Mutex::new(go) }), enters, let_go)
}

#[test]
fn a_failed_get_has_a_positive_errno_and_a_panic_ends_only_its_connection() {
    let dir = Dir::new("odd");
    let (device, _enters, go) = odd();
    let (_server, path) = serve_device(&dir, device);
    for _ in 0..2 * CONNECTIONS_MAX {
        let mut client = connect(&path);
        client.get_mut().write_all(b"set=1\n\n").unwrap();
        assert_eq!(client.read_line(&mut String::new()).unwrap(), 0);
    }
    go.send(()).unwrap();
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), format!("errno={}\n\n", libc::ENODEV));
}

#[test]
fn dropping_ends_connections_and_waits_for_calls_under_way() {
    let dir = Dir::new("drop");
    let (device, enters, go) = odd();
    let (server, path) = serve_device(&dir, device.clone());
    let mut idle = connect(&path);
    let mut busy = connect(&path);
    busy.get_mut().write_all(b"get=1\n\n").unwrap();
    enters.recv().unwrap();
    let dropping = thread::spawn(move || drop(server));
    assert_eq!(idle.read_line(&mut String::new()).unwrap(), 0, "an idle client is let go");
    assert!(!path.exists(), "the name goes first");
    assert!(!dropping.is_finished());
    go.send(()).unwrap();
    dropping.join().unwrap();
    assert_eq!(Arc::strong_count(&device), 1, "no thread is left");
}

#[test]
fn the_socket_is_private_and_leaves_nothing_behind() {
    let dir = Dir::new("private");
    let (server, path) = served(&dir);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.0), mode(&path)), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    drop(server);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn a_live_socket_is_respected_and_a_stale_one_replaced() {
    let dir = Dir::new("stale");
    let (server, path) = served(&dir);
    let error = Listener::bind(&dir.0, &name()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(server);
    drop(UnixListener::bind(&path).unwrap());
    let (_server, path) = served(&dir);
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), "errno=0\n\n");
    let other = dir.0.join("wg1.sock");
    fs::write(&other, "no socket").unwrap();
    let error = Listener::bind(&dir.0, &"wg1".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no socket"), "{error}");
    assert!(other.is_file());
}

#[test]
fn removal_of_the_file_is_noticed() {
    let dir = Dir::new("removed");
    let (server, path) = served(&dir);
    let removed = server.removed();
    fs::write(dir.0.join("another"), "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), "errno=0\n\n");
    assert!(removed.try_recv().is_err(), "it is still there");
    fs::remove_file(&path).unwrap();
    removed.recv_timeout(PATIENCE).unwrap();
    drop(server);
}

#[test]
fn a_file_that_took_its_place_is_left_alone() {
    let dir = Dir::new("replaced");
    let (server, path) = served(&dir);
    let young = dir.0.join("young");
    let _other = UnixListener::bind(&young).unwrap();
    fs::rename(&young, &path).unwrap();
    server.removed().recv_timeout(PATIENCE).unwrap();
    drop(server);
    assert!(path.exists());
}

#[test]
fn a_socket_can_be_handed_over_by_number() {
    let dir = Dir::new("handed");
    fs::create_dir_all(&dir.0).unwrap();
    let path = dir.0.join("wg0.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let listener = Listener::from_number(&socket.as_raw_fd().to_string()).unwrap();
    assert_eq!(listener.path(), Some(path.as_path()));
    drop(socket);
    let server = Server::start(listener, Arc::new(Fake::default())).unwrap();
    assert_eq!(ask(&mut connect(&path), "get=1\n\n"), "errno=0\n\n");
    drop(server);
    assert!(!path.exists());
    let stream = UnixStream::pair().unwrap().0.as_raw_fd().to_string();
    for value in ["", "x", "-1", "2147483647", stream.as_str()] {
        let error = Listener::from_number(value).unwrap_err().to_string();
        assert!(error.contains("WG_UAPI_FD"), "{error}");
    }
}
