//! The two `ringtun up` processes: started as a user would, asked over their control sockets.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::Demo;
use super::report::Failure;
use crate::control::status::Status;
use crate::lab::traffic::Stop;
use crate::lab::{Host, Process, has_ipv6};
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey};

/// For tests: another program to start in place of this one.
const OTHER_PROGRAM: &str = "RINGTUN_DEMO_EXE";
const START_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// More than any status of a machine with hundreds of cores.
const ANSWER_LEN_MAX: u64 = 4 << 20;
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
const LOG_LINES: usize = 12;

/// One end of the tunnel.
pub(super) struct Engine {
    name: &'static str,
    process: Process,
}

/// Addresses of one end.
pub(super) struct Ends {
    pub(super) name: &'static str,
    pub(super) inner: [&'static str; 2],
    pub(super) listen: &'static str,
    pub(super) peer: &'static str,
    /// What the other end may send from.
    pub(super) peer_inner: [&'static str; 2],
}

/// Inner addresses are those of the example; outer ones are those of `lab::Pair`.
pub(super) const LEFT: Ends = Ends {
    name: "left",
    inner: ["10.7.0.1/24", "fd07::1/64"],
    listen: "192.0.2.1:51820",
    peer: "192.0.2.2:51820",
    peer_inner: ["10.7.0.2/32", "fd07::2/128"],
};
pub(super) const RIGHT: Ends = Ends {
    name: "right",
    inner: ["10.7.0.2/24", "fd07::2/64"],
    listen: "192.0.2.2:51820",
    peer: "192.0.2.1:51820",
    peer_inner: ["10.7.0.1/32", "fd07::1/128"],
};

/// How `--encap` names packets in the clear.
pub(super) const PLAIN: &str = "plain";

/// Keys of both ends, made for one demo.
pub(super) struct Secrets {
    left: PrivateKey,
    right: PrivateKey,
    psk: PresharedKey,
}

impl Secrets {
    pub(super) fn new() -> Result<Self, Failure> {
        let none = |error| Failure::because(format!("the kernel has no random numbers: {error}"));
        Ok(Self {
            left: PrivateKey::generate().map_err(none)?,
            right: PrivateKey::generate().map_err(none)?,
            psk: PresharedKey::generate().map_err(none)?,
        })
    }

    /// Writes the configuration of one end into the lab's private /run; returns where.
    fn write_config(&self, ends: &Ends) -> Result<PathBuf, Failure> {
        let (own, other) = match ends.name {
            "left" => (&self.left, &self.right),
            _ => (&self.right, &self.left),
        };
        let port = ends.listen.rsplit(':').next().unwrap_or_default();
        let addresses = if has_ipv6() { ends.inner.join(", ") } else { ends.inner[0].to_owned() };
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {port}\nAddress = {addresses}\n\n[Peer]\n\
             PublicKey = {}\nPresharedKey = {}\nEndpoint = {}\nAllowedIPs = {}\n",
            own.to_base64().as_str(),
            other.public(),
            self.psk.to_base64().as_str(),
            ends.peer,
            ends.peer_inner.join(", "),
        );
        let path = PathBuf::from(format!("/run/ringtun/{}.conf", ends.name));
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
            Failure::because(format!("cannot write {}: {error}", path.display()))
        })?;
        Ok(path)
    }
}

impl Engine {
    pub(super) fn start(
        host: &Host,
        ends: &Ends,
        secrets: &Secrets,
        args: &Demo,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program());
        command.arg0("ringtun");
        command.args(["up", ends.name]);
        if args.encap == PLAIN {
            command.args(["--encap", PLAIN, "--address", ends.inner[0]]);
            if has_ipv6() {
                command.args(["--address", ends.inner[1]]);
            }
            command.args(["--listen", ends.listen, "--peer", ends.peer]);
        } else {
            command.arg("--config").arg(secrets.write_config(ends)?);
        }
        command.args(["--workers", &args.workers, "--io", &args.io]);
        // Its log is shown as text, whatever the terminal of the demo is.
        command.env("NO_COLOR", "1");
        Ok(Self { name: ends.name, process: host.spawn(command)? })
    }

    /// Waits until it answers.
    pub(super) fn wait(&mut self, stop: &Stop) -> Result<Status, Failure> {
        let begin = Instant::now();
        loop {
            self.check()?;
            if stop.raised() {
                return Err(Failure::interrupted());
            }
            match self.status() {
                Ok(status) => return Ok(status),
                Err(error) if begin.elapsed() > START_TIMEOUT => {
                    return Err(self.failure(format!("does not answer: {error}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        match self.process.ended() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(format!("ended early ({})", words(status)))),
            Err(error) => Err(self.failure(format!("is out of reach: {error}"))),
        }
    }

    /// Asks it for its state.
    pub(super) fn status(&self) -> io::Result<Status> {
        let mut stream = UnixStream::connect(format!("/run/ringtun/{}.sock", self.name))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"status\n")?;
        let mut line = String::new();
        BufReader::new(stream.take(ANSWER_LEN_MAX)).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::from)
    }

    /// A failure of this end, with its last log lines.
    pub(super) fn failure(&self, what: String) -> Failure {
        Failure {
            interrupted: false,
            reason: format!("the engine on {} {what}", self.name),
            log: self.log(),
        }
    }

    /// Its last log lines, each with its name in front.
    pub(super) fn log(&self) -> Vec<String> {
        let name = self.name;
        self.process.last_lines(LOG_LINES).iter().map(|line| format!("{name}: {line}")).collect()
    }

    /// Lets it clean up and end; complains if it did not end well.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        match self.process.terminate(STOP_TIMEOUT) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(format!("did not stop cleanly ({})", words(status)))),
            Err(error) => Err(self.failure(format!("could not be stopped: {error}"))),
        }
    }
}

/// This very program. By its path where that still leads to it, so that it has its name in `top`;
/// the link works even if the file was replaced or is hidden by the lab's private /run.
fn program() -> PathBuf {
    let own = || env::current_exe().ok().filter(|path| path.is_file());
    let other = env::var_os(OTHER_PROGRAM).map(PathBuf::from);
    other.or_else(own).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(libc::SIGKILL)) => "killed".to_owned(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}
