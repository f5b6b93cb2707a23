//! The addresses in other network namespaces, by the numbers (nsid) that the node's namespace has
//! for them: neither a path is necessary for that, nor a thread that enters them. A namespace has
//! such a number when a device was moved into it, when it has the other end of a device, and when
//! an ADD has asked for it.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::libc::{EACCES, EINVAL, ENOENT};

use super::address::to_address;
use super::{KernelAddress, Netlink};
use crate::error::{Error, Result};
use crate::kernel::netns::NetNs;

/// How often something is asked for that ends, or comes into being, meanwhile.
const ATTEMPTS: usize = 5;

/// A socket in the namespace of this process that reads what is in others.
#[derive(Debug)]
pub struct ByNumber {
    netlink: Netlink,
    /// The number of the namespace of this process itself, which rarely has one.
    own: Option<i32>,
}

impl ByNumber {
    /// `None` on a kernel before 4.20, which reads addresses in the socket's namespace only.
    ///
    /// # Errors
    /// Code 8 when `/proc` is not mounted, 999 when the kernel does not answer.
    pub fn open() -> Result<Option<Self>> {
        let Some(mut netlink) = strict()? else {
            return Ok(None);
        };
        let own = netlink.namespace_id(&NetNs::own()?)?;
        Ok(Some(Self { netlink, own }))
    }

    /// The number of a namespace, if it has one.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn number_of(&mut self, netns: &NetNs) -> Result<Option<i32>> {
        self.netlink.namespace_id(netns)
    }

    /// The numbers of all namespaces that have one, without that of this process.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer, or when more are added during every try to list
    /// them.
    pub fn numbers(&mut self) -> Result<BTreeSet<i32>> {
        let mut all = BTreeSet::new();
        for _ in 0..ATTEMPTS {
            // A long list comes in parts. If a namespace ends between two of them, the kernel may
            // leave out another one, and does not say so.
            let before = all.len();
            all.extend(self.netlink.namespace_ids()?);
            if all.len() == before {
                all.retain(|number| Some(*number) != self.own);
                return Ok(all);
            }
        }
        Err(Error::internal("failed to list the namespaces")
            .with_details("more are added all the time"))
    }

    /// The addresses of all links, both families, of the namespace with this number. `None` when it
    /// has ended, or belongs to a user namespace over which this process has no rights: then it is
    /// not in a container of this node. At most `most` addresses are read.
    ///
    /// # Errors
    /// Code 999 when there are more, when they change during every try to list them, or when this
    /// process lacks `NET_ADMIN`.
    pub fn addresses(&mut self, number: i32, most: usize) -> Result<Option<Vec<KernelAddress>>> {
        for _ in 0..ATTEMPTS {
            match self.dump_addresses(number, most) {
                Ok(found) => return Ok(Some(found)),
                Err(cause) if self.is_not_ours(number, &cause)? => return Ok(None),
                // The number is that of another namespace by now.
                Err(cause) if cause.raw_os_error() == Some(EINVAL) => {}
                Err(cause) => return Err(unread(number, &cause)),
            }
        }
        Err(unread(number, &io::Error::from_raw_os_error(EINVAL)))
    }

    /// The numbers of the namespaces that the namespace with this number refers to, for example
    /// because an interface was moved from there. `None` when one of them has no number here, or
    /// when that cannot be told.
    ///
    /// # Errors
    /// As for [`Self::addresses`].
    pub fn referred_to_by(&mut self, number: i32) -> Result<Option<Vec<i32>>> {
        match self.try_referred_to_by(number) {
            Err(cause) if cause.raw_os_error() == Some(EACCES) => Ok(None),
            Err(cause) if self.is_not_ours(number, &cause)? => Ok(Some(Vec::new())),
            outcome => outcome.map_err(|cause| unread(number, &cause)),
        }
    }

    fn try_referred_to_by(&mut self, number: i32) -> io::Result<Option<Vec<i32>>> {
        let node = NetNs::own().map_err(io::Error::other)?;
        let mut asked = NsidMessage::default();
        asked.attributes.push(NsidAttribute::TargetNsid(number));
        let listed = self.netlink.dump(&RouteNetlinkMessage::GetNsId(asked))?;
        let node = self.netlink.number(&node, Some(number))?;
        let mut here = Vec::new();
        for message in listed {
            let RouteNetlinkMessage::NewNsId(message) = message else {
                continue;
            };
            match pair(&message.attributes) {
                (Some(there), _) if Some(there) == node => {}
                (_, Some(number)) if number >= 0 => here.push(number),
                _ => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Whether an error means that the namespace has ended, or is not one of this node.
    fn is_not_ours(&mut self, number: i32, cause: &io::Error) -> Result<bool> {
        match cause.raw_os_error() {
            Some(EINVAL) => self.is_free(number),
            Some(EACCES) => Ok(self.is_admin()),
            _ => Ok(false),
        }
    }

    /// Whether this process has `NET_ADMIN` in its own namespace: then it lacks it in another one
    /// only if that belongs to a user namespace outside of the node's.
    fn is_admin(&mut self) -> bool {
        // The kernel examines the permission before it misses the number.
        let nothing = RouteNetlinkMessage::NewNsId(NsidMessage::default());
        let refused = self.netlink.request(nothing, NLM_F_ACK).err();
        refused.and_then(|cause| cause.raw_os_error()) == Some(EINVAL)
    }

    /// Whether no namespace has this number.
    fn is_free(&mut self, number: i32) -> Result<bool> {
        let mut asked = NsidMessage::default();
        asked.attributes.push(NsidAttribute::Id(number));
        let asked = RouteNetlinkMessage::GetNsId(asked);
        match self.netlink.request(asked, 0) {
            Ok(_) => Ok(false),
            Err(cause) if cause.raw_os_error() == Some(ENOENT) => Ok(true),
            Err(cause) => Err(unread(number, &cause)),
        }
    }

    fn dump_addresses(&mut self, number: i32, most: usize) -> io::Result<Vec<KernelAddress>> {
        let mut asked = AddressMessage::default();
        let target = AddressAttribute::TargetNetNsId(number);
        asked.attributes.push(target);
        self.netlink.most = most;
        let outcome = self.netlink.dump(&RouteNetlinkMessage::GetAddress(asked));
        self.netlink.most = usize::MAX;
        match outcome {
            Ok(found) => found
                .into_iter()
                .filter_map(|m| of_target(m, number))
                .collect(),
            Err(cause) if cause.raw_os_error().is_some() => Err(cause),
            Err(cause) => {
                // The rest of the answer is still to come.
                self.netlink = strict()
                    .map_err(io::Error::other)?
                    .ok_or_else(unsupported)?;
                Err(cause)
            }
        }
    }
}

/// A socket whose requests the kernel examines strictly: a kernel that does so knows the attribute.
fn strict() -> Result<Option<Netlink>> {
    let netlink = Netlink::open()?;
    let is_strict = netlink.socket.set_netlink_get_strict_chk(true).is_ok();
    Ok(is_strict.then_some(netlink))
}

fn unsupported() -> io::Error {
    io::Error::other("the kernel does not examine requests strictly")
}

fn unread(number: i32, cause: &io::Error) -> Error {
    let msg = format!("failed to read the network namespace with the number {number}");
    Error::internal(msg).because(cause)
}

/// The address in a message, which must be about the namespace with this number.
fn of_target(message: RouteNetlinkMessage, number: i32) -> Option<io::Result<KernelAddress>> {
    let RouteNetlinkMessage::NewAddress(found) = &message else {
        return None;
    };
    let target = AddressAttribute::TargetNetNsId(number);
    if found.attributes.contains(&target) {
        return to_address(message).map(Ok);
    }
    let why = "the answer is about another network namespace";
    Some(Err(io::Error::other(why)))
}

/// The number of a namespace in another one, and here.
fn pair(attributes: &[NsidAttribute]) -> (Option<i32>, Option<i32>) {
    let (mut there, mut here) = (None, None);
    for attribute in attributes {
        match attribute {
            NsidAttribute::Id(number) => there = Some(*number),
            NsidAttribute::CurrentNsid(number) => here = Some(*number),
            _ => {}
        }
    }
    (there, here)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn answer(number: i32) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 8;
        message.attributes = vec![
            AddressAttribute::TargetNetNsId(number),
            AddressAttribute::Local(ADDRESS),
        ];
        RouteNetlinkMessage::NewAddress(message)
    }

    /// A kernel that ignores the number answers for the namespace of the socket.
    #[test]
    fn an_answer_about_another_namespace_is_an_error() {
        let found = of_target(answer(7), 7).unwrap().unwrap();
        assert_eq!(found.cidr.address(), ADDRESS);
        assert!(of_target(answer(8), 7).unwrap().is_err());
    }

    /// Whoever may be the user.
    #[test]
    fn what_has_no_number_has_no_addresses() {
        let mut by_number = ByNumber::open().unwrap().unwrap();
        assert_eq!(by_number.addresses(i32::MAX, 1).unwrap(), None);
        let own = by_number.own;
        let numbers = by_number.numbers().unwrap();
        assert!(own.is_none_or(|own| !numbers.contains(&own)));
    }
}
