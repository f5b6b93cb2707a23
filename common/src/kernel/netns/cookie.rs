//! The cookie of a network namespace: a number that the kernel gives to no other one until the
//! next boot. Kernels before 5.14 do not tell it.

use std::os::fd::AsFd;

use nix::libc::{self, SO_NETNS_COOKIE, SOL_SOCKET};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

use super::NetNs;

sockopt_impl!(Cookie, GetOnly, SOL_SOCKET, SO_NETNS_COOKIE, u64);

/// The cookie of the namespace in which a socket was made; `None` when the kernel does not tell it.
fn of_socket(socket: &impl AsFd) -> Option<u64> {
    getsockopt(socket, Cookie).ok()
}

impl NetNs {
    /// Its cookie; `None` when the kernel does not tell it, or the namespace cannot be entered.
    pub(super) fn cookie(&self) -> Option<u64> {
        let known = self.cookie.get_or_init(|| {
            let open = || {
                socket(
                    AddressFamily::Unix,
                    SockType::Datagram,
                    SockFlag::SOCK_CLOEXEC,
                    None,
                )
            };
            self.run(|| Ok(open().ok().and_then(|socket| of_socket(&socket))))
                .ok()
                .flatten()
        });
        *known
    }

    /// Learns the cookie from a socket that was made in the namespace.
    #[cfg(feature = "netlink")]
    pub(crate) fn learn_cookie(&self, socket: &impl AsFd) {
        self.cookie.get_or_init(|| of_socket(socket));
    }
}
