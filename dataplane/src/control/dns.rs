//! The `DNS` of a file, by resolvconf(8) as wg-quick hands it over; taken back when dropped.

use std::fs;
use std::net::IpAddr;

use tracing::warn;

use super::tools::{self, ToolError};

const PROGRAM: &str = "resolvconf";
/// Where Debian's resolvconf says how interfaces are called that come first.
const ORDER: &str = "/etc/resolvconf/interface-order";

/// Servers and search domains in force.
#[derive(Debug)]
pub struct Dns {
    /// What resolvconf knows the interface by.
    name: String,
}

impl Dns {
    /// Has the resolver ask the servers and search the domains in `words`; not, with a warning,
    /// where there is no resolvconf.
    ///
    /// # Errors
    /// What resolvconf said.
    pub fn set(interface: &str, words: &[String]) -> Result<Option<Self>, ToolError> {
        if words.is_empty() {
            return Ok(None);
        }
        if tools::find(PROGRAM).is_none() {
            warn!(
                interface,
                "DNS is not set: there is no resolvconf; install it (`apt install resolvconf`, or \
                 openresolv), or let a PostUp do it, as `resolvectl dns %i ADDRESS`"
            );
            return Ok(None);
        }
        let order = fs::read_to_string(ORDER).unwrap_or_default();
        let name = format!("{}{interface}", prefix(&order));
        tools::run(PROGRAM, &["-a", &name, "-m", "0", "-x"], &lines(words))?;
        Ok(Some(Self { name }))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Err(error) = tools::run(PROGRAM, &["-d", &self.name, "-f"], "") {
            warn!("the DNS servers of the tunnel are left behind: {error}");
        }
    }
}

fn lines(words: &[String]) -> String {
    let is_server = |word: &&String| word.parse::<IpAddr>().is_ok();
    let mut text: String =
        words.iter().filter(is_server).map(|server| format!("nameserver {server}\n")).collect();
    let domains: Vec<&str> =
        words.iter().filter(|word| !is_server(word)).map(String::as_str).collect();
    if !domains.is_empty() {
        text += &format!("search {}\n", domains.join(" "));
    }
    text
}

/// The first wildcard of the order: what is called so counts before all other interfaces.
fn prefix(order: &str) -> String {
    let is_word = |name: &&str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let wildcard = order.lines().filter_map(|line| line.strip_suffix('*')).find(is_word);
    wildcard.map(|name| format!("{name}.")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains_go_to_lines_of_their_own() {
        let words = ["10.0.0.1", "example.com", "fd00::1", "example.org"].map(str::to_owned);
        let expected = "nameserver 10.0.0.1\nnameserver fd00::1\nsearch example.com example.org\n";
        assert_eq!(lines(&words), expected);
        assert_eq!(lines(&words[..1]), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn the_first_wildcard_is_the_prefix() {
        assert_eq!(prefix("# x*\nlo.inet*\nlo\ntun*\ntap*\n"), "tun.");
        assert_eq!(prefix(""), "");
    }
}
