//! `ringtun genkey`, `genpsk` and `pubkey`: keys in base64, as `wg` makes them.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use zeroize::Zeroizing;

use super::exit::Exit;
use crate::wire::wireguard::keys::{KeyError, PresharedKey, PrivateKey};

/// Longest input that is looked at for a key.
const INPUT_MAX: u64 = 4096;

/// Prints a new private key.
pub fn genkey() -> Result<Exit> {
    let key = PrivateKey::generate().context("the kernel has no random numbers")?;
    print(&key.to_base64())
}

/// Prints a new preshared key.
pub fn genpsk() -> Result<Exit> {
    let key = PresharedKey::generate().context("the kernel has no random numbers")?;
    print(&key.to_base64())
}

/// Reads a private key from standard input and prints its public key.
pub fn pubkey() -> Result<Exit> {
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .take(INPUT_MAX)
        .read_to_string(&mut text)
        .context("cannot read a private key from standard input")?;
    print(&public_of(text.trim())?)
}

fn public_of(text: &str) -> Result<String, KeyError> {
    Ok(PrivateKey::from_base64(text)?.public().to_string())
}

fn print(key: &str) -> Result<Exit> {
    writeln!(io::stdout(), "{key}")?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_the_one_that_wg_prints() {
        let public = public_of("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=").unwrap();
        assert_eq!(public, "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=");
        assert_eq!(public_of("nonsense"), Err(KeyError::Base64));
    }
}
