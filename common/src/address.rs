//! Addresses as CNI configurations and results write them, read exactly as Go's
//! `net` package reads them (ipnetwork alone would also take `10.0.0.5` or
//! `10.0.0.0/255.0.0.0` for a network).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

/// An address with its prefix length, such as `10.0.4.70/24`. Host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(IpNetwork);

impl Cidr {
    /// `address/prefix`; `None` when the prefix is too long for the family.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        IpNetwork::new(address, prefix).ok().map(Self)
    }

    /// The address as a network of one host: with the prefix length 32 or 128.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNetwork::from(address))
    }

    /// The destination of a default route of the family of `address`.
    pub fn any(address: IpAddr) -> Self {
        let any = Self::new(address, 0);
        any.unwrap_or(Self::host(address)).network()
    }

    /// The address, host bits included.
    pub fn address(self) -> IpAddr {
        self.0.ip()
    }

    /// The prefix length in bits.
    pub fn prefix(self) -> u8 {
        self.0.prefix()
    }

    /// The network: the same prefix with all host bits cleared.
    #[must_use]
    pub fn network(self) -> Self {
        Self::new(self.0.network(), self.prefix()).unwrap_or(self)
    }

    /// The last address of the network (the broadcast address of IPv4).
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether this is an IPv4 address.
    pub fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }

    /// Whether this is the destination of a default route (`0.0.0.0/0`, `::/0`).
    pub fn is_default(self) -> bool {
        self.prefix() == 0
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("invalid CIDR address: {text}");
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        Self::new(address, prefix).ok_or_else(invalid)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// An address in canonical form: an IPv4-mapped IPv6 address is its IPv4 address.
///
/// # Errors
/// A message with `text`.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("invalid IP address: {text}"))?;
    Ok(address.to_canonical())
}

/// The address as a number. An IPv4 address has the number of its IPv4-mapped IPv6
/// address, so no two addresses have the same number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of this [`number`], in the family of `relative`.
pub fn numbered(number: u128, relative: IpAddr) -> IpAddr {
    let address = IpAddr::V6(Ipv6Addr::from_bits(number));
    match relative {
        IpAddr::V4(_) => address.to_canonical(),
        IpAddr::V6(_) => address,
    }
}

/// The address that is `by` places after `from`, or before it when `by` is negative.
pub fn step(from: IpAddr, by: i128) -> IpAddr {
    numbered(number(from).wrapping_add_signed(by), from)
}

/// Reads an optional address as Go does: an empty text means that there is none.
///
/// # Errors
/// When the text is not an address.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => parse_address(&text).map(Some).map_err(de::Error::custom),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_is_read_as_go_reads_it() {
        let cidr: Cidr = "10.0.4.70/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.0.4.70/24");
        assert_eq!(cidr.network().to_string(), "10.0.4.0/24");
        assert_eq!(cidr.last().to_string(), "10.0.4.255");
        for wrong in [
            "",
            "10.0.4.70",
            "10.0.4.0/33",
            "10.0.4.0/+24",
            "10.0.4.0/255.255.255.0",
            "10.0.04.0/24",
            "x/8",
            "10.0.0.0/",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert_eq!(
            parse_address("::ffff:10.0.0.1").unwrap().to_string(),
            "10.0.0.1"
        );
        assert!(parse_address("10.0.0.01").is_err());
        assert!(parse_address("10.0.0.1 ").is_err());
    }
}
