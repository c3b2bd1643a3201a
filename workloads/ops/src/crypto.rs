//! The kernel's ciphers, as user space reaches them: AF_ALG sockets.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, read};
use rustix::net::accept;

use crate::meter::{During as _, all};
use crate::sys::{self, OrMissing as _};
use crate::{Meter, Op, Result, Shape};

pub(crate) const OPS: &[Op] = &[
    Op {
        name: "alg-cbc",
        summary: "4 KiB encrypted with AES-128-CBC by AF_ALG",
        shape: Shape::new(1, 120, 8),
        max_batch: 100_000,
        copies: false,
        run: |meter| encrypt(meter, "skcipher", "cbc(aes)", 0),
    },
    Op {
        name: "alg-gcm",
        summary: "4 KiB encrypted with AES-128-GCM by AF_ALG",
        shape: Shape::new(1, 75, 5),
        max_batch: 100_000,
        copies: false,
        run: |meter| encrypt(meter, "aead", "gcm(aes)", 16),
    },
];

const PLAIN: usize = 4096;

/// Encrypts with `cipher`, which adds a tag of `tag` bytes.
fn encrypt(meter: &mut Meter, kind: &str, cipher: &str, tag: usize) -> Result<()> {
    let socket = cipher_socket(kind, cipher, tag)?;
    // To read more than there is would wait for more.
    let (out, mut back) = (vec![1; PLAIN], vec![0; PLAIN + tag]);
    let encrypt: u32 = libc::ALG_OP_ENCRYPT as u32;
    meter.each(|| {
        let control = (libc::SOL_ALG, libc::ALG_SET_OP, std::slice::from_ref(&encrypt));
        all("sendmsg AF_ALG", PLAIN, sys::send_with(&socket, &out, control, "sendmsg AF_ALG")?)?;
        let got = read(&socket, &mut back).during("read from AF_ALG")?;
        all("read from AF_ALG", PLAIN + tag, got)
    })
}

fn cipher_socket(kind: &str, cipher: &str, tag: usize) -> Result<OwnedFd> {
    const MISSING: &str = "this kernel has no AF_ALG, or not with this cipher";
    let ciphers = sys::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
        .or_missing(&[Errno::AFNOSUPPORT], MISSING)?;
    let mut address: libc::sockaddr_alg = sys::zeroed();
    address.salg_family = libc::AF_ALG as u16;
    address.salg_type[..kind.len()].copy_from_slice(kind.as_bytes());
    address.salg_name[..cipher.len()].copy_from_slice(cipher.as_bytes());
    sys::bind(&ciphers, &address, "bind AF_ALG").or_missing(&[Errno::NOENT], MISSING)?;
    sys::set_option_bytes(&ciphers, libc::SOL_ALG, libc::ALG_SET_KEY, &[7u8; 16], "ALG_SET_KEY")?;
    if tag > 0 {
        // The length of the option is its value.
        let size = vec![0u8; tag];
        let call = "ALG_SET_AEAD_AUTHSIZE";
        sys::set_option_bytes(&ciphers, libc::SOL_ALG, libc::ALG_SET_AEAD_AUTHSIZE, &size, call)?;
    }
    accept(&ciphers).during("accept AF_ALG")
}
