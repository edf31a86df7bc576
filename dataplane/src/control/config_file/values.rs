//! One setting's text, read.
//!
//! In: the name of a setting as the user wrote it, and its text without comment and outer space.
//! Out: the value, or what is wrong and what is allowed; keys are never repeated. Pure.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::{EndpointName, Table};
use crate::control::plan::{MTU_MAX, MTU_MIN};
use crate::control::values::Network;
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{KeyError, PresharedKey, PrivateKey, PublicKey};

const SHOWN_CHARS_MAX: usize = 80;
/// So many base64 digits in a row may be most of a key.
const KEY_DIGITS: usize = 40;
/// What a name server's name can be at most (RFC 1035 section 2.3.4).
const HOST_LEN_MAX: usize = 253;

/// A value's text for a message: shortened, and not at all if it may be a key.
pub(super) fn shown(value: &str) -> String {
    let is_digit = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let longest = value.split(|c| !is_digit(c)).map(str::len).max();
    if longest.unwrap_or(0) >= KEY_DIGITS {
        return "(what looks like a key, not shown)".to_owned();
    }
    let short: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{short:?}{}", if short.len() < value.len() { "…" } else { "" })
}

fn refuse(name: &str, value: &str, allowed: &str) -> String {
    format!("{name} = {} is not allowed: {allowed}", shown(value))
}

/// Space anywhere in a value that `wg` reads does not count.
fn squeezed(value: &str) -> String {
    value.split_whitespace().collect()
}

fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn decimal_or_hex(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => digits(text),
    }
}

fn key<K>(name: &str, value: &str, read: fn(&str) -> Result<K, KeyError>) -> Result<K, String> {
    read(value).map_err(|error| format!("{name} is {error}"))
}

pub(super) fn public_key(name: &str, value: &str) -> Result<PublicKey, String> {
    key(name, value, PublicKey::from_base64)
}

/// All zero is none, as for `wg`.
pub(super) fn private_key(name: &str, value: &str) -> Result<Option<PrivateKey>, String> {
    let zero = key(name, value, PresharedKey::from_base64)?.is_none();
    if zero { Ok(None) } else { key(name, value, PrivateKey::from_base64).map(Some) }
}

pub(super) fn preshared_key(name: &str, value: &str) -> Result<PresharedKey, String> {
    key(name, value, PresharedKey::from_base64)
}

pub(super) fn listen_port(name: &str, value: &str) -> Result<u16, String> {
    let port = digits(&squeezed(value));
    port.ok_or_else(|| refuse(name, value, "a port is wanted, 1 to 65535, or 0 for any"))
}

pub(super) fn fwmark(name: &str, value: &str) -> Result<u32, String> {
    let text = squeezed(value);
    let mark = if text.eq_ignore_ascii_case("off") { Some(0) } else { decimal_or_hex(&text) };
    mark.ok_or_else(|| refuse(name, value, "off, or a number up to 4294967295 or 0xffffffff"))
}

pub(super) fn mtu(name: &str, value: &str) -> Result<u32, String> {
    let bytes = digits(value).filter(|bytes| (MTU_MIN..=MTU_MAX).contains(bytes));
    bytes.ok_or_else(|| refuse(name, value, &format!("{MTU_MIN} to {MTU_MAX} bytes are possible")))
}

pub(super) fn table(
    name: &str,
    value: &str,
    number_of: &dyn Fn(&str) -> Option<u32>,
) -> Result<Table, String> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => return Ok(Table::Auto),
        "off" => return Ok(Table::Off),
        _ => {}
    }
    let number = decimal_or_hex(value).or_else(|| number_of(value)).filter(|number| *number > 0);
    let allowed = "auto, off, a number from 1 to 4294967295, or a name in iproute2's rt_tables";
    number.map(Table::Number).ok_or_else(|| refuse(name, value, allowed))
}

pub(super) fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(name, value, "true or false")),
    }
}

/// Words between commas or spaces.
pub(super) fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

/// Addresses between commas or spaces; one without a prefix length stands for itself.
pub(super) fn addresses(name: &str, value: &str) -> Result<Vec<Network>, String> {
    let one = |word: &str| {
        let bare: Option<IpAddr> = word.parse().ok();
        let full = bare.map(|address| format!("{address}/{}", longest_prefix(address)));
        let network = full.as_deref().unwrap_or(word).parse();
        network.map_err(|_| {
            let allowed = "an address of one host, with or without /PREFIX, as 10.7.0.1/24";
            refuse(name, word, allowed)
        })
    };
    words(value).map(one).collect()
}

fn longest_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Prefixes between commas, and whether each was written with bits behind its length.
pub(super) fn allowed_ips(name: &str, value: &str) -> Result<Vec<(Prefix, bool)>, String> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let one = |entry: &str| {
        let text = squeezed(entry);
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text.as_str(), None),
        };
        let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
            let len = len.map_or(Some(longest_prefix(address)), digits)?;
            let prefix = Prefix::new(address, len)?;
            Some((prefix, prefix.address() != address))
        });
        let allowed = "ADDRESS/LENGTH between commas is wanted, as 10.0.0.0/8, fd00::/8";
        parsed.ok_or_else(|| refuse(name, entry, allowed))
    };
    value.split(',').map(one).collect()
}

pub(super) fn keepalive(name: &str, value: &str) -> Result<u16, String> {
    let text = squeezed(value);
    let seconds = if text.eq_ignore_ascii_case("off") { Some(0) } else { digits(&text) };
    seconds.ok_or_else(|| refuse(name, value, "off, or 1 to 65535 seconds"))
}

pub(super) fn endpoint(name: &str, value: &str) -> Result<EndpointName, String> {
    let text = squeezed(value);
    let allowed = "HOST:PORT or [IPv6]:PORT is wanted, as vpn.example.com:51820";
    let refused = || refuse(name, value, allowed);
    let bracketed = text.strip_prefix('[').map(|rest| rest.rsplit_once("]:"));
    let (host, port) = match bracketed {
        Some(inside) => inside.filter(|(host, _)| is_scoped_ipv6(host)),
        // Like `wg`, take an address without brackets if what is before the last colon is one.
        None => text.rsplit_once(':').filter(|(host, _)| is_host_name(host) || is_ipv6(host)),
    }
    .ok_or_else(refused)?;
    let port = digits(port).filter(|port| *port != 0).ok_or_else(refused)?;
    Ok(EndpointName { host: host.to_owned(), port })
}

fn is_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

fn is_scoped_ipv6(host: &str) -> bool {
    let (address, scope) = host.split_once('%').unwrap_or((host, "0"));
    is_ipv6(address) && !scope.is_empty()
}

fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !host.is_empty() && host.len() <= HOST_LEN_MAX && host.bytes().all(allowed)
}
