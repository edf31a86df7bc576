//! What a default route needs of the firewall, as wg-quick sets it up.
//!
//! In: an interface, its addresses of one family, the mark of its datagrams. Out: a [`Firewall`]
//! that takes its rules away when dropped.
//!
//! - Packets to the tunnel's addresses that come in by another interface are dropped: somebody on
//!   the same network could otherwise find out, and join, connections inside the tunnel.
//! - The mark of our datagrams goes to their connections and from there to the answers, which
//!   then pass the reverse path filter.
//!
//! By `nft`, in a table of our own, or by `iptables-restore`, with a comment by which our rules are
//! found again; so those of a process that was killed are replaced, not doubled.

use std::fmt::Write as _;
use std::net::IpAddr;

use tracing::warn;

use super::tools::{self, ToolError};

/// Rules in force for one interface and one family.
#[derive(Debug)]
pub struct Firewall {
    interface: String,
    ipv6: bool,
    tool: Tool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Nft,
    Iptables,
}

impl Firewall {
    /// Puts the rules in force, all or none; none, with a warning, where there is no program to
    /// do it.
    ///
    /// # Errors
    /// What the program said.
    pub fn install(
        interface: &str,
        addresses: &[IpAddr],
        mark: u32,
        ipv6: bool,
    ) -> Result<Option<Self>, ToolError> {
        let addresses: Vec<IpAddr> =
            addresses.iter().filter(|address| address.is_ipv6() == ipv6).copied().collect();
        let tool = if tools::find("nft").is_some() {
            tools::run("nft", &["-f", "-"], &nft_rules(interface, &addresses, mark, ipv6))?;
            Tool::Nft
        } else if tools::find(iptables("restore", ipv6)).is_some() {
            remove_iptables(interface, ipv6)?;
            let rules = iptables_rules(interface, &addresses, mark);
            tools::run(iptables("restore", ipv6), &["-n"], &rules)?;
            Tool::Iptables
        } else {
            warn!(
                interface,
                "neither nft nor iptables is installed: packets to the tunnel's addresses that \
                 come in by another interface are not dropped; install nftables, as wg-quick needs"
            );
            return Ok(None);
        };
        Ok(Some(Self { interface: interface.to_owned(), ipv6, tool }))
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        let removed = match self.tool {
            Tool::Nft => {
                tools::run("nft", &["-f", "-"], &nft_removal(&self.interface, self.ipv6)).map(drop)
            }
            Tool::Iptables => remove_iptables(&self.interface, self.ipv6),
        };
        if let Err(error) = removed {
            warn!("firewall rules are left behind: {error}");
        }
    }
}

fn nft_table(interface: &str, ipv6: bool) -> String {
    format!("{} ringtun-{interface}", if ipv6 { "ip6" } else { "ip" })
}

/// One transaction. What is not there cannot be deleted, so the table is made first.
fn nft_removal(interface: &str, ipv6: bool) -> String {
    let table = nft_table(interface, ipv6);
    format!("add table {table}\ndelete table {table}\n")
}

fn nft_rules(interface: &str, addresses: &[IpAddr], mark: u32, ipv6: bool) -> String {
    let (table, family) = (nft_table(interface, ipv6), if ipv6 { "ip6" } else { "ip" });
    let mut drops = String::new();
    for address in addresses {
        let _ = writeln!(
            drops,
            "iifname != \"{interface}\" {family} daddr {address} fib saddr type != local drop"
        );
    }
    format!(
        "{}table {table} {{\n\
         chain preraw {{\ntype filter hook prerouting priority -300;\n{drops}}}\n\
         chain premangle {{\ntype filter hook prerouting priority -150;\n\
         meta l4proto udp meta mark set ct mark\n}}\n\
         chain postmangle {{\ntype filter hook postrouting priority -150;\n\
         meta l4proto udp meta mark {mark} ct mark set meta mark\n}}\n\
         }}\n",
        nft_removal(interface, ipv6),
    )
}

fn iptables(what: &str, ipv6: bool) -> &'static str {
    match (what, ipv6) {
        ("save", false) => "iptables-save",
        ("save", true) => "ip6tables-save",
        (_, false) => "iptables-restore",
        (_, true) => "ip6tables-restore",
    }
}

fn iptables_comment(interface: &str) -> String {
    format!("--comment \"ringtun rule for {interface}\"")
}

fn iptables_rules(interface: &str, addresses: &[IpAddr], mark: u32) -> String {
    let marker = format!("-m comment {}", iptables_comment(interface));
    let mut rules = String::from("*raw\n");
    for address in addresses {
        let _ = writeln!(
            rules,
            "-I PREROUTING ! -i {interface} -d {address} -m addrtype ! --src-type LOCAL -j DROP \
             {marker}"
        );
    }
    let _ = write!(
        rules,
        "COMMIT\n*mangle\n\
         -I POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark {marker}\n\
         -I PREROUTING -p udp -j CONNMARK --restore-mark {marker}\nCOMMIT\n"
    );
    rules
}

/// Takes away every rule with our comment.
fn remove_iptables(interface: &str, ipv6: bool) -> Result<(), ToolError> {
    let saved = tools::run(iptables("save", ipv6), &[], "")?;
    match iptables_removal(&saved, interface) {
        Some(rules) => tools::run(iptables("restore", ipv6), &["-n"], &rules).map(drop),
        None => Ok(()),
    }
}

fn iptables_removal(saved: &str, interface: &str) -> Option<String> {
    let comment = iptables_comment(interface);
    let (mut rules, mut found) = (String::new(), false);
    for line in saved.lines() {
        let line = match line.strip_prefix("-A") {
            Some(rule) if rule.contains(&comment) => {
                found = true;
                format!("-D{rule}\n")
            }
            _ if line.starts_with('*') || line == "COMMIT" => format!("{line}\n"),
            _ => continue,
        };
        rules += &line;
    }
    found.then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_its_own_replaces_the_one_left_behind() {
        let addresses = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let rules = nft_rules("wg0", &addresses, 51820, false);
        assert!(rules.starts_with("add table ip ringtun-wg0\ndelete table ip ringtun-wg0\n"));
        for address in addresses {
            let rule =
                format!("iifname != \"wg0\" ip daddr {address} fib saddr type != local drop\n");
            assert!(rules.contains(&rule), "{rules}");
        }
        assert!(rules.contains("meta mark 51820 ct mark set meta mark"), "{rules}");
    }

    #[test]
    fn only_our_rules_of_iptables_are_taken_away() {
        let ours = "-A PREROUTING -d 10.0.0.1/32 ! -i wg0 -m comment --comment \"ringtun rule for \
                    wg0\" -j DROP";
        let others = ours.replace("for wg0", "for wg01");
        let saved = format!("# x\n*raw\n:PREROUTING ACCEPT [0:0]\n{ours}\n{others}\nCOMMIT\n");
        let expected = format!("*raw\n{}\nCOMMIT\n", ours.replacen("-A", "-D", 1));
        assert_eq!(iptables_removal(&saved, "wg0").unwrap(), expected);
        assert_eq!(iptables_removal(&saved, "wg2"), None);
    }

    #[test]
    fn iptables_gets_both_tables() {
        let rules = iptables_rules("wg0", &["10.0.0.1".parse().unwrap()], 7);
        assert!(rules.starts_with("*raw\n-I PREROUTING ! -i wg0 -d 10.0.0.1 "), "{rules}");
        assert!(rules.contains("COMMIT\n*mangle\n-I POSTROUTING -m mark --mark 7 -p udp"));
        assert_eq!(rules.matches("ringtun rule for wg0").count(), 3);
    }
}
