//! Requests: from lines to a [`DeviceUpdate`].
//!
//! In: a [`BufRead`], one request after another. Out: [`Request`]s, or a [`RequestError`] that says
//! whether the connection can go on. Bounded: 1 KiB a line, 64 MiB a request, which is room for
//! 10,000 peers with 10 prefixes many times over. The buffer that holds a line is wiped before the
//! next, and no error repeats a key.
//!
//! What is accepted is what wireguard-go accepts, and besides: `fwmark` in hexadecimal, and
//! `allowed_ip` with `+` or `-` before it.

use std::io::{self, BufRead, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use crate::protocol::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey};

/// Bytes of a line at most, without its end.
pub const LINE_LEN_MAX: usize = 1 << 10;
/// Bytes of a request at most.
pub const REQUEST_LEN_MAX: usize = 64 << 20;

/// What a client wants.
pub enum Request {
    /// The device as it is.
    Get,
    /// Changes to it.
    Set(DeviceUpdate),
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request was read to its end and makes no sense; another may follow.
    #[error("line {line}: {problem}")]
    Refused {
        /// What to answer: a positive errno.
        errno: i32,
        /// The line, counted from the request's first.
        line: usize,
        /// What is wrong and what is allowed; never a key.
        problem: String,
    },
    /// The connection is of no more use.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Reads the next request; none when the client has closed the connection between two.
///
/// `interface_index` turns the name in an endpoint like `[fe80::1%eth0]:51820` into a number.
///
/// # Errors
/// [`RequestError`], after which the connection may go on only if it is `Refused`.
pub fn read_request(
    reader: &mut impl BufRead,
    interface_index: &dyn Fn(&str) -> Option<u32>,
) -> Result<Option<Request>, RequestError> {
    let mut lines = Lines::new(reader);
    let mut request = match lines.next()? {
        None => return Ok(None),
        Some(Line::Text("get=1")) => Request::Get,
        Some(Line::Text("set=1")) => Request::Set(DeviceUpdate::default()),
        // As wireguard-go: who speaks something else gets no answer.
        Some(_) => return Err(broken(io::ErrorKind::InvalidData, "neither get=1 nor set=1")),
    };
    let mut refused = None;
    loop {
        let outcome = match lines.next()? {
            // Without the empty line nobody knows whether this was all.
            None => return Err(broken(io::ErrorKind::UnexpectedEof, "cut off")),
            Some(Line::Text("")) => break,
            Some(_) if refused.is_some() => continue,
            Some(Line::Unreadable(problem)) => Err(Problem::invalid(problem)),
            Some(Line::Text(text)) => take_line(&mut request, text, interface_index),
        };
        if let Err(Problem { errno, text }) = outcome {
            refused = Some(RequestError::Refused { errno, line: lines.number, problem: text });
        }
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    Ok(Some(request))
}

fn broken(kind: io::ErrorKind, problem: &'static str) -> RequestError {
    RequestError::Broken(io::Error::new(kind, problem))
}

/// What is wrong with a line.
struct Problem {
    errno: i32,
    text: String,
}

impl Problem {
    fn invalid(text: impl Into<String>) -> Self {
        Self { errno: libc::EINVAL, text: text.into() }
    }

    /// `what` names the value and says what is allowed.
    fn value(key: &str, value: &str, allowed: &str) -> Self {
        Self::invalid(format!("{key}={value:?} is not allowed: {allowed}"))
    }
}

fn take_line(
    request: &mut Request,
    line: &str,
    interface_index: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), Problem> {
    let Request::Set(update) = request else {
        return Err(Problem::invalid("only an empty line may follow get=1"));
    };
    let Some((key, value)) = line.split_once('=') else {
        let text = "not of the form key=value".to_owned();
        return Err(Problem { errno: libc::EPROTO, text });
    };
    if key == "public_key" {
        update.peers.push(untouched(hex(key, value, PublicKey::from_hex)?));
        return Ok(());
    }
    match update.peers.last_mut() {
        None => take_device_line(update, key, value),
        Some(peer) => take_peer_line(peer, key, value, interface_index),
    }
}

fn take_device_line(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), Problem> {
    match key {
        "private_key" => {
            let zero = value.len() == 2 * KEY_LEN && value.bytes().all(|digit| digit == b'0');
            let private = if zero { None } else { Some(hex(key, value, PrivateKey::from_hex)?) };
            update.private_key = Some(private);
        }
        "listen_port" => update.listen_port = Some(number(key, value, "0 to 65535")?),
        "fwmark" => update.fwmark = Some(fwmark(key, value)?),
        "replace_peers" => update.replace_peers = only_true(key, value)?,
        _ => return Err(unknown_key(key, "the device's")),
    }
    Ok(())
}

fn take_peer_line(
    peer: &mut PeerUpdate,
    key: &str,
    value: &str,
    interface_index: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), Problem> {
    match key {
        "remove" => peer.remove = only_true(key, value)?,
        "update_only" => peer.update_only = only_true(key, value)?,
        "preshared_key" => peer.preshared_key = Some(hex(key, value, PresharedKey::from_hex)?),
        "endpoint" => {
            let endpoint = endpoint(value, interface_index);
            peer.endpoint = Some(endpoint.ok_or_else(|| {
                let allowed = "IPv4:PORT, [IPv6]:PORT or [IPv6%INTERFACE]:PORT is wanted";
                Problem::value(key, value, allowed)
            })?);
        }
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive_s = Some(number(key, value, "0 to 65535 seconds")?);
        }
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = only_true(key, value)?;
            // Lines count in order: what was added before it goes too.
            peer.allowed_ips.clear();
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(key, value)?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(Problem::value(key, value, "1 is the only version")),
        _ => return Err(unknown_key(key, "a peer's")),
    }
    Ok(())
}

/// A peer about which only the key has been said.
fn untouched(public_key: PublicKey) -> PeerUpdate {
    PeerUpdate {
        public_key,
        remove: false,
        update_only: false,
        preshared_key: None,
        endpoint: None,
        persistent_keepalive_s: None,
        replace_allowed_ips: false,
        allowed_ips: Vec::new(),
    }
}

fn unknown_key(key: &str, whose: &str) -> Problem {
    // The words are letters and underscores; anything else may be a key gone astray.
    let word = key.len() <= 32 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let shown = if word { key } else { "(not shown)" };
    Problem::invalid(format!("{shown} is none of {whose} settings"))
}

fn hex<K, E>(key: &str, value: &str, parse: fn(&str) -> Result<K, E>) -> Result<K, Problem>
where
    E: std::fmt::Display,
{
    parse(value).map_err(|error| Problem::invalid(format!("{key}: {error}")))
}

/// Decimal digits and nothing else: no sign, no space.
fn number<N: FromStr>(key: &str, value: &str, allowed: &str) -> Result<N, Problem> {
    digits(value).ok_or_else(|| Problem::value(key, value, allowed))
}

fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn fwmark(key: &str, value: &str) -> Result<u32, Problem> {
    let mark = match value.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => digits(value),
    };
    mark.ok_or_else(|| Problem::value(key, value, "0 to 4294967295, or 0x0 to 0xffffffff"))
}

fn only_true(key: &str, value: &str) -> Result<bool, Problem> {
    if value == "true" { Ok(true) } else { Err(Problem::value(key, value, "only true")) }
}

fn endpoint(value: &str, interface_index: &dyn Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Ok(address) = value.parse::<SocketAddr>() {
        // Mapped addresses are sent to over IPv4, which is also how the peer will be seen.
        return Some(match address.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
            IpAddr::V6(_) => address,
        });
    }
    let (host, port) = value.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, interface) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope_id = interface_index(interface)?;
    Some(SocketAddrV6::new(address, digits(port)?, 0, scope_id).into())
}

fn allowed_ip(key: &str, value: &str) -> Result<AllowedIpUpdate, Problem> {
    let (remove, text) = match value.as_bytes().first() {
        Some(b'-') => (true, &value[1..]),
        Some(b'+') => (false, &value[1..]),
        _ => (false, value),
    };
    let parsed = text.split_once('/').and_then(|(address, len)| {
        let address: IpAddr = address.parse().ok()?;
        Prefix::new(address, digits(len)?)
    });
    match parsed {
        Some(prefix) => Ok(AllowedIpUpdate { prefix, remove }),
        None => Err(Problem::value(key, value, "ADDRESS/LENGTH is wanted, as 10.0.0.0/8")),
    }
}

/// The lines of one request, each in the same buffer.
struct Lines<'a, R> {
    reader: &'a mut R,
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes that the request may still take.
    left: usize,
    /// Lines read.
    number: usize,
}

enum Line<'a> {
    Text(&'a str),
    Unreadable(&'static str),
}

impl<'a, R: BufRead> Lines<'a, R> {
    fn new(reader: &'a mut R) -> Self {
        // Room for a line with its end, so that the buffer never moves and leaves a copy behind.
        let buffer = Zeroizing::new(Vec::with_capacity(LINE_LEN_MAX + 2));
        Self { reader, buffer, left: REQUEST_LEN_MAX, number: 0 }
    }

    /// The next line without its end; none at the end of the stream.
    fn next(&mut self) -> Result<Option<Line<'_>>, RequestError> {
        let mut too_long = false;
        loop {
            self.buffer.as_mut_slice().zeroize();
            self.buffer.clear();
            let limit = LINE_LEN_MAX + 2;
            let mut limited = (&mut *self.reader).take(limit as u64);
            let len = limited.read_until(b'\n', &mut self.buffer)?;
            self.left = self.left.checked_sub(len).ok_or_else(|| {
                broken(io::ErrorKind::InvalidData, "a request longer than 64 MiB")
            })?;
            if self.buffer.last() == Some(&b'\n') {
                break;
            }
            if len < limit {
                // The stream has ended: between two lines, or within one.
                return match (len, too_long) {
                    (0, false) => Ok(None),
                    _ => Err(broken(io::ErrorKind::UnexpectedEof, "cut off within a line")),
                };
            }
            too_long = true;
        }
        self.number += 1;
        let line = self.buffer.strip_suffix(b"\n").unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some(if too_long || line.len() > LINE_LEN_MAX {
            Line::Unreadable("longer than 1024 bytes")
        } else {
            std::str::from_utf8(line).map_or(Line::Unreadable("not text"), Line::Text)
        }))
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
