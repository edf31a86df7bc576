//! Names to addresses, by the host's resolver: getaddrinfo(3), whose codes the standard library
//! does not tell.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ptr;
use std::slice;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LookupError {
    /// Asking again would not help.
    pub permanent: bool,
    /// The resolver's words.
    pub reason: String,
}

/// Every address of `host`, as the resolver orders them, with `port`. Takes as long as the resolver
/// does: tens of seconds where its servers do not answer.
///
/// # Errors
/// The resolver's answer.
pub fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
    let permanent = |reason: &str| LookupError { permanent: true, reason: reason.to_owned() };
    let name = CString::new(host).map_err(|_| permanent("there is a zero byte in the name"))?;
    let hints = libc::addrinfo {
        ai_flags: 0,
        ai_family: libc::AF_UNSPEC,
        ai_socktype: libc::SOCK_DGRAM,
        ai_protocol: libc::IPPROTO_UDP,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    };
    let mut list = ptr::null_mut();
    // SAFETY: the name ends with a zero byte, hints and list live until the call returns.
    let code =
        unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(error_of(code));
    }
    let addresses = List(list).addresses(port);
    if addresses.is_empty() { Err(permanent("the name has no address")) } else { Ok(addresses) }
}

/// As `wg`: what the resolver calls final is, everything else may pass.
fn error_of(code: i32) -> LookupError {
    let permanent = matches!(code, libc::EAI_NONAME | libc::EAI_FAIL | libc::EAI_NODATA);
    if code == libc::EAI_SYSTEM {
        return LookupError { permanent, reason: io::Error::last_os_error().to_string() };
    }
    // SAFETY: takes any number.
    let text = unsafe { libc::gai_strerror(code) };
    // SAFETY: a string that ends with a zero byte and is never freed.
    let text = unsafe { CStr::from_ptr(text) };
    LookupError { permanent, reason: text.to_string_lossy().into_owned() }
}

/// What getaddrinfo has allocated.
struct List(*mut libc::addrinfo);

impl List {
    fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        let mut next = self.0;
        // SAFETY: an entry of the list, which lives as long as `self`, or null at its end.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.ai_next;
            if entry.ai_addr.is_null() {
                continue;
            }
            let len = usize::try_from(entry.ai_addrlen).unwrap_or(0);
            // SAFETY: the entry's address is of this length and lives as long as the list.
            let name = unsafe { slice::from_raw_parts(entry.ai_addr.cast::<u8>(), len) };
            addresses.extend(decode(name, port));
        }
        addresses
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: from getaddrinfo, and nobody else frees it.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

/// The address in a `struct sockaddr_in` or `sockaddr_in6`.
fn decode(name: &[u8], port: u16) -> Option<SocketAddr> {
    match i32::from(u16::from_ne_bytes(*name.first_chunk()?)) {
        libc::AF_INET => {
            let octets = *name.get(4..)?.first_chunk::<4>()?;
            Some(SocketAddr::new(IpAddr::from(octets), port))
        }
        libc::AF_INET6 => {
            let octets = *name.get(8..)?.first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(octets.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_without_asking_anybody() {
        assert_eq!(look_up("192.0.2.1", 7).unwrap(), ["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(look_up("2001:db8::1", 7).unwrap(), ["[2001:db8::1]:7".parse().unwrap()]);
        let scoped = look_up("fe80::1%1", 7).unwrap();
        assert!(matches!(scoped[..], [SocketAddr::V6(address)] if address.scope_id() == 1));
    }

    #[test]
    fn only_what_is_final_is_permanent() {
        for (code, permanent) in [
            (libc::EAI_NONAME, true),
            (libc::EAI_FAIL, true),
            (libc::EAI_NODATA, true),
            (libc::EAI_AGAIN, false),
            (libc::EAI_SYSTEM, false),
            (libc::EAI_MEMORY, false),
        ] {
            let error = error_of(code);
            assert!(error.permanent == permanent && !error.reason.is_empty(), "{code}: {error}");
        }
        assert!(look_up("a\0b", 7).unwrap_err().permanent);
    }
}
