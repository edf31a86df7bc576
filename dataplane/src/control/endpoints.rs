//! Endpoint names of a file, looked up again when a peer does not answer.
//!
//! In: names by peer, and the peers whose handshakes go unanswered. Out: another endpoint for those
//! with a name: the next of the name's addresses, of either family, so that one that cannot be
//! reached is not the end. On a thread of its own, since a resolver may take its time; bounded: a
//! name is asked for every 15 s at most, one at a time, and news that find the queue full come
//! again with the next try. A name counts more than an endpoint that was set or heard from since,
//! but only when that does not answer.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use tracing::{debug, info, warn};

use super::config_file::EndpointName;
use super::uapi::Device;
use crate::protocol::config::{DeviceUpdate, PeerUpdate};
use crate::sys::resolver::{self, LookupError};
use crate::wire::wireguard::keys::PublicKey;

/// Between two look-ups of one name.
pub const LOOKUP_GAP: Duration = Duration::from_secs(15);

/// Every address of a name, as the host's resolver orders them; at least one.
///
/// # Errors
/// The resolver's answer.
pub fn look_up(name: &EndpointName) -> Result<Vec<SocketAddr>, LookupError> {
    match name.literal() {
        Some(address) => Ok(vec![address]),
        None => resolver::look_up(&name.host, name.port),
    }
}

/// The names of peers, and what they were last taken for.
#[derive(Debug, Default)]
pub struct Names(HashMap<PublicKey, Known>);

#[derive(Debug)]
struct Known {
    name: EndpointName,
    taken: SocketAddr,
    asked: Option<Instant>,
}

impl Names {
    /// Adds a peer whose endpoint is not an address, but a name that was found to be `taken`.
    pub fn add(&mut self, peer: PublicKey, name: &EndpointName, taken: SocketAddr) {
        if name.literal().is_none() {
            self.0.insert(peer, Known { name: name.clone(), taken, asked: None });
        }
    }

    /// Follows them on a thread of its own until nobody can tell `unanswered` any more.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn follow(
        mut self,
        unanswered: Receiver<PublicKey>,
        device: impl Device + 'static,
        look_up: impl Fn(&EndpointName) -> Result<Vec<SocketAddr>, LookupError> + Send + 'static,
        gap: Duration,
    ) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let run = move || {
            for peer in unanswered {
                self.look_again(&peer, &device, &look_up, gap);
            }
        };
        // Nobody waits for it: it may be in the resolver when everything else has ended.
        thread::Builder::new().name("endpoints".to_owned()).spawn(run).map(drop)
    }

    fn look_again(
        &mut self,
        peer: &PublicKey,
        device: &impl Device,
        look_up: &impl Fn(&EndpointName) -> Result<Vec<SocketAddr>, LookupError>,
        gap: Duration,
    ) {
        let Some(known) = self.0.get_mut(peer) else { return };
        if known.asked.is_some_and(|asked| asked.elapsed() < gap) {
            return;
        }
        let found = look_up(&known.name);
        known.asked = Some(Instant::now());
        let (name, was) = (&known.name, known.taken);
        let found = match found {
            Ok(found) => found,
            Err(error) => return warn!(%name, %error, "no answer, and the name is not found"),
        };
        let Some(endpoint) = next(&found, was) else { return };
        if endpoint == was {
            debug!(%name, %was, "no answer; the name leads to the same address");
        } else {
            info!(%name, %was, now = %endpoint, "no answer: another address of the name is tried");
        }
        known.taken = endpoint;
        let mut update = PeerUpdate::new(*peer);
        update.update_only = true;
        update.endpoint = Some(endpoint);
        if let Err(errno) = device.set(DeviceUpdate { peers: vec![update], ..Default::default() }) {
            debug!(errno, "the endpoint was not changed");
        }
    }
}

/// The address behind the one that did not answer, or the first of others.
fn next(found: &[SocketAddr], taken: SocketAddr) -> Option<SocketAddr> {
    let place = found.iter().position(|address| *address == taken);
    found.get(place.map_or(0, |place| (place + 1) % found.len())).copied()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crossbeam::channel::{Sender, bounded, unbounded};

    use super::super::uapi::DeviceStatus;
    use super::*;

    struct Fake(Sender<(PublicKey, Option<SocketAddr>)>);

    impl Device for Fake {
        fn get(&self) -> Result<DeviceStatus, i32> {
            Err(libc::EIO)
        }

        fn set(&self, update: DeviceUpdate) -> Result<(), i32> {
            let peer = &update.peers[0];
            assert!(peer.update_only);
            self.0.send((peer.public_key, peer.endpoint)).map_err(|_| libc::EIO)
        }
    }

    const WAIT: Duration = Duration::from_secs(10);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn names(keys: &[PublicKey]) -> Names {
        let mut names = Names::default();
        let name = EndpointName { host: "vpn.example".to_owned(), port: 7 };
        keys.iter().for_each(|key| names.add(*key, &name, address("192.0.2.1:7")));
        names
    }

    #[test]
    fn every_address_of_a_name_is_tried_in_turn() {
        let key = PublicKey::from_bytes([1; 32]);
        let (tell, unanswered) = bounded(4);
        let (set, was_set) = unbounded();
        let answer = Arc::new(Mutex::new(vec![address("192.0.2.1:7"), address("[2001:db8::1]:7")]));
        let answers = Arc::clone(&answer);
        let look_up = move |name: &EndpointName| {
            assert_eq!(name.host, "vpn.example");
            Ok(answers.lock().unwrap().clone())
        };
        names(&[key]).follow(unanswered, Fake(set), look_up, Duration::ZERO).unwrap();
        for expected in ["[2001:db8::1]:7", "192.0.2.1:7"] {
            tell.send(key).unwrap();
            assert_eq!(was_set.recv_timeout(WAIT), Ok((key, Some(address(expected)))));
        }
        *answer.lock().unwrap() = vec![address("192.0.2.99:7")];
        tell.send(PublicKey::from_bytes([2; 32])).unwrap();
        tell.send(key).unwrap();
        assert_eq!(was_set.recv_timeout(WAIT), Ok((key, Some(address("192.0.2.99:7")))));
        drop(tell);
        assert!(was_set.recv_timeout(WAIT).is_err(), "the thread has ended");
    }

    #[test]
    fn a_name_is_not_asked_for_all_the_time_and_may_be_unknown() {
        let keys = [1, 2].map(|n| PublicKey::from_bytes([n; 32]));
        let (tell, unanswered) = bounded(8);
        let (asked, was_asked) = unbounded();
        let (set, was_set) = unbounded();
        let look_up = move |_: &EndpointName| {
            asked.send(()).unwrap();
            Err(LookupError { permanent: true, reason: "unknown".to_owned() })
        };
        names(&keys).follow(unanswered, Fake(set), look_up, Duration::from_secs(3600)).unwrap();
        for _ in 0..4 {
            keys.iter().for_each(|key| tell.send(*key).unwrap());
        }
        drop(tell);
        assert!(was_set.recv_timeout(WAIT).is_err());
        assert_eq!(was_asked.iter().count(), 2, "once a peer");
    }

    #[test]
    fn addresses_are_not_followed() {
        let mut names = Names::default();
        let name = EndpointName { host: "192.0.2.1".to_owned(), port: 7 };
        names.add(PublicKey::from_bytes([1; 32]), &name, address("192.0.2.1:7"));
        assert!(names.0.is_empty());
        assert_eq!(look_up(&name).unwrap(), [address("192.0.2.1:7")]);
        assert_eq!(next(&[], address("192.0.2.1:7")), None);
    }
}
