//! Who takes part: the keys of the device and of its peers, and the file for `wg setconf`, the
//! same for everybody's device.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use ringtun::lab::Address;
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};

/// Where all allowed IPs are.
pub(super) const INNER: Address =
    Address { ip: IpAddr::V4(Ipv4Addr::new(10, 128, 0, 0)), prefix_len: 10 };
const INNER_FIRST: u32 = 0x0a80_0000;

/// A device and its peers.
pub(super) struct Cast {
    pub(super) device: PrivateKey,
    /// Of all of them.
    pub(super) psk: PresharedKey,
    pub(super) peers: Vec<PrivateKey>,
}

impl Cast {
    /// Out of random numbers.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn new(peers: usize) -> Result<Self> {
        let key = || PrivateKey::generate().context("no random numbers");
        let psk = PresharedKey::generate().context("no random numbers")?;
        let peers = (0..peers).map(|_| key()).collect::<Result<_>>()?;
        Ok(Self { device: key()?, psk, peers })
    }

    /// The device's configuration, with `each` allowed IPs a peer; the last one is at `last`.
    pub(super) fn config(&self, port: u16, each: u32, last: Option<SocketAddr>) -> String {
        let psk = self.psk.to_base64();
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {port}\n",
            self.device.to_base64().as_str()
        );
        let mut next = INNER_FIRST;
        for (index, peer) in self.peers.iter().enumerate() {
            let ips: Vec<String> =
                (next..next + each).map(|ip| format!("{}/32", Ipv4Addr::from(ip))).collect();
            next += each;
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {}\n",
                peer.public(),
                psk.as_str(),
                ips.join(", ")
            );
            if let Some(endpoint) = last.filter(|_| index + 1 == self.peers.len()) {
                let _ = writeln!(text, "Endpoint = {endpoint}");
            }
        }
        text
    }

    /// The last allowed IP of the last peer.
    pub(super) fn last_ip(&self, each: u32) -> Ipv4Addr {
        let count = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).saturating_mul(each);
        Ipv4Addr::from(INNER_FIRST.saturating_add(count).saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_ips_of_its_own_and_the_last_an_endpoint() {
        let cast = Cast::new(300).unwrap();
        let text = cast.config(7000, 10, Some("192.0.2.1:9".parse().unwrap()));
        assert_eq!(text.matches("[Peer]").count(), 300);
        let ips: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("AllowedIPs = "))
            .flat_map(|ips| ips.split(", "))
            .collect();
        let mut unique = ips.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((ips.len(), unique.len()), (3000, 3000));
        assert_eq!(ips[2999], format!("{}/32", cast.last_ip(10)));
        assert!(text.ends_with("Endpoint = 192.0.2.1:9\n"));
        assert_eq!(text.matches("Endpoint").count(), 1);
        assert!(text.contains(&format!("PublicKey = {}\n", cast.peers[299].public())));
    }

    #[test]
    fn all_of_the_most_peers_fit_into_the_route() {
        let last = u32::from(Ipv4Addr::from(INNER_FIRST)) + 10 * 50_000 - 1;
        let mask = u32::MAX << (32 - u32::from(INNER.prefix_len));
        assert_eq!(
            (last & mask, IpAddr::from(Ipv4Addr::from(INNER_FIRST))),
            (INNER_FIRST, INNER.ip)
        );
    }
}
