//! `ringtun genkey`, `genpsk` and `pubkey`: what `wg` has under the same names.
//!
//! In: nothing, or a private key on standard input. Out: a key in base64 and a line end on standard
//! output, past every buffer, so that no copy stays in memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::exit::Exit;
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey};

/// Permissions of everybody but owner and group.
const MODE_OTHERS: u32 = 0o007;
/// What is read at most: a key, and space around it.
const INPUT_LEN_MAX: usize = 1 << 10;

/// Prints a new private key.
pub fn genkey() -> Result<Exit> {
    let key = PrivateKey::generate().map_err(no_random_numbers)?;
    print_secret(key.to_base64())
}

/// Prints a new preshared key.
pub fn genpsk() -> Result<Exit> {
    let key = PresharedKey::generate().map_err(no_random_numbers)?;
    print_secret(key.to_base64())
}

/// Prints the public key of the private key on standard input.
pub fn pubkey() -> Result<Exit> {
    let key = read_key(io::stdin().lock())?;
    print(&mut stdout()?, key.public().to_base64())?;
    Ok(Exit::Ok)
}

fn no_random_numbers(error: getrandom::Error) -> anyhow::Error {
    anyhow::anyhow!("the kernel gives no random numbers: {error}")
}

fn print_secret(key: Zeroizing<String>) -> Result<Exit> {
    let mut stdout = stdout()?;
    if is_open_to_all(&stdout) {
        let text = "warning: the key goes to a file that everybody may read; `umask 077` before, \
                    or `chmod 600` after, keeps it secret";
        let _ = writeln!(io::stderr(), "{text}");
    }
    print(&mut stdout, key)?;
    Ok(Exit::Ok)
}

/// Standard output without the standard library's buffer.
fn stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

fn is_open_to_all(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| {
        metadata.is_file() && metadata.permissions().mode() & MODE_OTHERS != 0
    })
}

fn print(to: &mut impl Write, key: Zeroizing<String>) -> io::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(key.len() + 1));
    line.push_str(&key);
    line.push('\n');
    to.write_all(line.as_bytes())
}

fn read_key(from: impl Read) -> Result<PrivateKey> {
    let mut text = Zeroizing::new(String::with_capacity(INPUT_LEN_MAX + 1));
    from.take(INPUT_LEN_MAX as u64)
        .read_to_string(&mut text)
        .context("no key can be read from standard input")?;
    let text = text.trim();
    if text.is_empty() {
        bail!(
            "standard input is empty: a private key is wanted, as in `ringtun genkey | ringtun \
             pubkey`"
        );
    }
    PrivateKey::from_base64(text).context("standard input")
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn a_key_is_read_with_space_around_it() {
        for text in [PRIVATE.to_owned(), format!("{PRIVATE}\n"), format!(" {PRIVATE}\r\n\n")] {
            assert_eq!(read_key(text.as_bytes()).unwrap().public().to_string(), PUBLIC);
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let two = format!("{PRIVATE}\n{PRIVATE}\n");
        let endless = "A".repeat(1 << 20);
        for text in ["x", &PRIVATE[..43], two.as_str(), endless.as_str()] {
            let error = format!("{:#}", read_key(text.as_bytes()).unwrap_err());
            assert!(error.contains("not a key: 44 characters of base64"), "{error}");
            assert!(!error.contains(&PRIVATE[..20]), "{error}");
        }
        for text in ["", " \n"] {
            let error = read_key(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("standard input is empty"), "{error}");
        }
        assert!(read_key(b"\xff\xfe".as_slice()).is_err());
    }

    #[test]
    fn a_key_is_one_line() {
        let mut line = Vec::new();
        print(&mut line, PrivateKey::generate().unwrap().to_base64()).unwrap();
        assert_eq!((line.len(), line.last()), (45, Some(&b'\n')));
        assert!(read_key(line.as_slice()).is_ok());
    }

    #[test]
    fn only_files_that_others_may_read_are_warned_about() {
        let path = env::temp_dir().join(format!("ringtun-keys-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_all(&file), open, "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        assert!(!is_open_to_all(&File::open("/dev/null").unwrap()));
    }
}
