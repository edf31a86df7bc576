//! One function per system call the rest of ringtun needs: the unsafe edge towards the kernel.
#![allow(unsafe_code)]

pub mod namespace;
