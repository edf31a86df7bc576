//! The control socket over real Unix sockets in a folder of the test's own.

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = env::temp_dir().join(format!("ringtun-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name() -> InterfaceName {
    "rt0".parse().unwrap()
}

fn served(dir: &Dir) -> ControlSocket {
    let mut control = ControlSocket::bind_in(&dir.0, &name()).unwrap();
    let mut asked = 0;
    let status = move || {
        asked += 1;
        Status { name: "rt0".to_owned(), mtu: asked, ..Status::default() }
    };
    control.serve(status).unwrap();
    control
}

fn exchange(stream: &mut UnixStream, request: &[u8]) -> String {
    stream.set_read_timeout(Some(QUERY_TIMEOUT)).unwrap();
    stream.write_all(request).unwrap();
    let mut line = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0].into());
    }
    line
}

#[test]
fn a_client_asks_once_or_often() {
    let dir = Dir::new("asks");
    let control = served(&dir);
    assert_eq!(query(control.path()).unwrap().name, "rt0");
    let mut stream = UnixStream::connect(control.path()).unwrap();
    for mtu in [2, 3] {
        let answer: Status = serde_json::from_str(&exchange(&mut stream, b"status\n")).unwrap();
        assert_eq!(answer.mtu, mtu);
    }
    assert!(exchange(&mut stream, b"reboot\n").contains("unknown request"));
    assert!(exchange(&mut stream, b"status\r\n").contains("\"rt0\""));
}

#[test]
fn it_is_private_and_leaves_nothing_behind() {
    let dir = Dir::new("private");
    let control = served(&dir);
    let mode = fs::metadata(control.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let entries = || fs::read_dir(&dir.0).unwrap().count();
    assert_eq!(entries(), 1);
    drop(control);
    assert_eq!(entries(), 0);
}

#[test]
fn a_live_socket_is_respected_and_a_stale_one_replaced() {
    let dir = Dir::new("stale");
    let control = served(&dir);
    let error = ControlSocket::bind_in(&dir.0, &name()).unwrap_err();
    assert!(matches!(error, SocketError::Live { .. }), "{error}");
    let path = control.path().to_owned();
    drop(control);

    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(query(&path).unwrap_err(), SocketError::Absent { .. }));
    let control = served(&dir);
    assert!(query(control.path()).is_ok());
}

#[test]
fn a_socket_bound_but_not_yet_served_counts_as_live() {
    let dir = Dir::new("starting");
    let _starting = ControlSocket::bind_in(&dir.0, &name()).unwrap();
    assert!(ControlSocket::bind_in(&dir.0, &name()).is_err());
}

#[test]
fn endless_lines_and_too_many_clients_are_cut_off() {
    let dir = Dir::new("bounds");
    let control = served(&dir);
    let mut endless = UnixStream::connect(control.path()).unwrap();
    endless.set_read_timeout(Some(QUERY_TIMEOUT)).unwrap();
    let _ = endless.write_all(&[b'x'; LINE_LEN_MAX + 1]);
    // An end of file, or a reset because bytes were left unread.
    assert!(endless.read(&mut [0]).map_or(true, |len| len == 0));

    let held: Vec<_> = (0..CLIENTS_MAX)
        .map(|_| {
            let mut stream = UnixStream::connect(control.path()).unwrap();
            exchange(&mut stream, b"status\n");
            stream
        })
        .collect();
    let mut refused = UnixStream::connect(control.path()).unwrap();
    refused.set_read_timeout(Some(QUERY_TIMEOUT)).unwrap();
    assert!(refused.read(&mut [0]).map_or(true, |len| len == 0));
    drop(held);
    // The server notices the closed ones in its own time.
    let deadline = Instant::now() + QUERY_TIMEOUT;
    while query(control.path()).is_err() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nobody_there() {
    let error = query(Path::new("/nonexistent/rt0.sock")).unwrap_err();
    assert!(error.to_string().contains("ringtun show"), "{error}");
}
