//! The lines of a file: sections, settings, comments.
//!
//! In: a file's name and text. Out: a [`ConfigFile`] or the first line that makes no sense. Pure.
//!
//! As wg-quick and `wg` do: names of sections and settings in any case, `#` begins a comment
//! anywhere, a setting that occurs again replaces the former or, for lists and commands, adds to
//! it. Other than wg-quick: one setting that is unknown ends it with a hint at what may be meant.

use std::collections::BTreeMap;

use super::{ConfigError, ConfigFile, EndpointName, PeerEntry, values};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PublicKey};

const INTERFACE_KEYS: [&str; 12] = [
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "MTU",
    "DNS",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
];
const PEER_KEYS: [&str; 5] =
    ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];
/// A setting's name that is longer is not repeated: it may be a key.
const NAME_LEN_MAX: usize = 24;
/// How many letters may be wrong for a hint.
const TYPOS_MAX: usize = 3;

/// Reads `text`; `file` is what messages call it, `table_number` knows routing tables by name.
///
/// # Errors
/// [`ConfigError::Line`] for the first line that makes no sense.
pub fn parse(
    file: &str,
    text: &str,
    table_number: &dyn Fn(&str) -> Option<u32>,
) -> Result<ConfigFile, ConfigError> {
    let mut parser = Parser {
        file,
        table_number,
        section: Section::None,
        line: 0,
        interface_seen: false,
        config: ConfigFile::default(),
        drafts: Vec::new(),
    };
    // Editors of other systems begin a file with a mark.
    for line in text.trim_start_matches('\u{feff}').lines() {
        parser.line += 1;
        let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
        if !line.is_empty() {
            parser.take(line).map_err(|problem| parser.error(parser.line, problem))?;
        }
    }
    parser.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Interface,
    Peer,
}

/// A peer of which the key may still come.
struct Draft {
    line: usize,
    public_key: Option<PublicKey>,
    preshared_key: Option<PresharedKey>,
    endpoint: Option<EndpointName>,
    persistent_keepalive_s: Option<u16>,
    allowed_ips: Vec<Prefix>,
}

struct Parser<'a> {
    file: &'a str,
    table_number: &'a dyn Fn(&str) -> Option<u32>,
    section: Section,
    line: usize,
    interface_seen: bool,
    config: ConfigFile,
    drafts: Vec<Draft>,
}

impl Parser<'_> {
    fn error(&self, line: usize, problem: String) -> ConfigError {
        ConfigError::Line { file: self.file.to_owned(), line, problem }
    }

    fn warn(&mut self, line: usize, text: &str) {
        self.config.warnings.push(format!("{}:{line}: {text}", self.file));
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with('[') {
            return self.open_section(line);
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err("neither a [Section] nor of the form Setting = value".to_owned());
        };
        let name: String = name.split_whitespace().collect();
        let value = value.trim();
        let known = match self.section {
            Section::None => return Err("before any setting, [Interface] is wanted".to_owned()),
            Section::Interface => self.take_interface(&name, value)?,
            Section::Peer => self.take_peer(&name, value)?,
        };
        if known { Ok(()) } else { Err(self.unknown(&name)) }
    }

    fn open_section(&mut self, line: &str) -> Result<(), String> {
        let squeezed: String = line.split_whitespace().collect();
        if squeezed.eq_ignore_ascii_case("[Interface]") {
            self.section = Section::Interface;
            self.interface_seen = true;
        } else if squeezed.eq_ignore_ascii_case("[Peer]") {
            self.section = Section::Peer;
            self.drafts.push(Draft {
                line: self.line,
                public_key: None,
                preshared_key: None,
                endpoint: None,
                persistent_keepalive_s: None,
                allowed_ips: Vec::new(),
            });
        } else {
            let shown = values::shown(line);
            return Err(format!("{shown} is no section: there are [Interface] and [Peer]"));
        }
        Ok(())
    }

    /// False if there is no such setting.
    fn take_interface(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let interface = &mut self.config.interface;
        let command = (!value.is_empty()).then(|| value.to_owned());
        match name.to_ascii_lowercase().as_str() {
            "privatekey" => interface.private_key = values::private_key(name, value)?,
            "listenport" => interface.listen_port = Some(values::listen_port(name, value)?),
            "fwmark" => interface.fwmark = Some(values::fwmark(name, value)?),
            "address" => interface.addresses.extend(values::addresses(name, value)?),
            "mtu" => interface.mtu = Some(values::mtu(name, value)?),
            "table" => interface.table = values::table(name, value, self.table_number)?,
            "preup" => interface.pre_up.extend(command),
            "postup" => interface.post_up.extend(command),
            "predown" => interface.pre_down.extend(command),
            "postdown" => interface.post_down.extend(command),
            "dns" => interface.dns.extend(values::words(value).map(str::to_owned)),
            "saveconfig" => interface.save_config = values::boolean(name, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// False if there is no such setting.
    fn take_peer(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let Some(peer) = self.drafts.last_mut() else { return Ok(false) };
        match name.to_ascii_lowercase().as_str() {
            "publickey" => peer.public_key = Some(values::public_key(name, value)?),
            "presharedkey" => peer.preshared_key = Some(values::preshared_key(name, value)?),
            "endpoint" => peer.endpoint = Some(values::endpoint(name, value)?),
            "persistentkeepalive" => {
                peer.persistent_keepalive_s = Some(values::keepalive(name, value)?);
            }
            "allowedips" => {
                for (prefix, has_host_part) in values::allowed_ips(name, value)? {
                    peer.allowed_ips.push(prefix);
                    if has_host_part {
                        let (address, len) = (prefix.address(), prefix.len());
                        let text = format!(
                            "{name}: bits behind the prefix are taken as zero, \
                             which makes it {address}/{len}"
                        );
                        self.config.warnings.push(format!("{}:{}: {text}", self.file, self.line));
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unknown(&self, name: &str) -> String {
        if name.len() > NAME_LEN_MAX || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return "no setting has such a name (not shown: it may be a key)".to_owned();
        }
        let (here, there, other) = match self.section {
            Section::Peer => (PEER_KEYS.as_slice(), INTERFACE_KEYS.as_slice(), "[Interface]"),
            _ => (INTERFACE_KEYS.as_slice(), PEER_KEYS.as_slice(), "[Peer]"),
        };
        if let Some(known) = there.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            return format!("{known} belongs in {other}");
        }
        match closest(name, here) {
            Some(known) => format!("{name:?} is no setting; is {known} meant?"),
            None => format!("{name:?} is no setting; there are {}", here.join(", ")),
        }
    }

    fn finish(mut self) -> Result<ConfigFile, ConfigError> {
        if !self.interface_seen {
            return Err(self.error(self.line.max(1), "there is no [Interface] section".to_owned()));
        }
        let ours = self.config.interface.private_key.as_ref().map(|key| key.public());
        if ours.is_none() {
            let text = "there is no PrivateKey: nothing can be sent until one is set with `wg set`";
            self.config.warnings.push(format!("{}: {text}", self.file));
        }
        let mut seen = BTreeMap::new();
        for draft in std::mem::take(&mut self.drafts) {
            let line = draft.line;
            let Some(public_key) = draft.public_key else {
                return Err(self.error(line, "this [Peer] has no PublicKey".to_owned()));
            };
            if ours == Some(public_key) {
                self.warn(line, "this [Peer] has the PublicKey of this host itself: it is ignored");
            }
            if let Some(before) = seen.insert(public_key, line) {
                let text = format!(
                    "the same PublicKey as in line {before}: what is set here replaces what is \
                     set there"
                );
                self.warn(line, &text);
            }
            self.config.peers.push(PeerEntry {
                line,
                public_key,
                preshared_key: draft.preshared_key,
                endpoint: draft.endpoint,
                persistent_keepalive_s: draft.persistent_keepalive_s,
                allowed_ips: draft.allowed_ips,
            });
        }
        Ok(self.config)
    }
}

/// The name that takes the fewest changes to become.
fn closest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let distances = known.iter().map(|known| (distance(&name, &known.to_ascii_lowercase()), known));
    let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= TYPOS_MAX.min(name.len() / 2)).then_some(known)
}

/// Levenshtein's distance: letters added, left out or replaced.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
