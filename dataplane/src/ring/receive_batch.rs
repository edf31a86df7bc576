//! `recvmmsg` into receive slots, for the mmsg backend.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::{CONTROL_LEN, NAME_LEN, NAME_LEN_U32, decode_control, decode_name};
use super::memory::Slot;
use super::receive::{Arrival, PAYLOAD_OFFSET};

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// Headers for one `recvmmsg` call. All memory is made in [`new`](Self::new).
pub struct ReceiveBatch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[[u8; NAME_LEN]]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers inside are set anew for each call, from boxes we own and slots given.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// Room for `count` receives a call.
    #[must_use]
    pub fn new(count: usize) -> Self {
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; count].into(),
            vectors: vec![vector; count].into(),
            names: vec![[0; NAME_LEN]; count].into(),
            controls: vec![Control([0; CONTROL_LEN]); count].into(),
        }
    }

    /// Receives into the last slots of `slots`, the last one first, as many as are there and fit.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when nothing is waiting.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, slots: &mut [Slot]) -> io::Result<usize> {
        let count = slots.len().min(self.headers.len());
        for (i, slot) in slots.iter_mut().rev().take(count).enumerate() {
            let payload = &mut slot[PAYLOAD_OFFSET as usize..];
            self.vectors[i] =
                libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = self.names[i].as_mut_ptr().cast();
            header.msg_namelen = NAME_LEN_U32;
            header.msg_iov = &raw mut self.vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: the first `count` headers point into our boxes and into slots that the caller
        // lent us mutably for the duration of the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                u32::try_from(count).unwrap_or(0),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// What the receive number `i` of the last call was.
    #[must_use]
    pub fn arrival(&self, i: usize) -> Option<Arrival> {
        let header = self.headers.get(i)?;
        let len = header.msg_len as usize;
        let name = &self.names[i][..(header.msg_hdr.msg_namelen as usize).min(NAME_LEN)];
        let control = &self.controls[i].0[..header.msg_hdr.msg_controllen.min(CONTROL_LEN)];
        let truncated = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        Some(Arrival::new(decode_name(name)?, len, truncated, decode_control(control)))
    }
}
