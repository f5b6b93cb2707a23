//! Shortens the kernel's answers before they are parsed: of a link, only the attributes that
//! [`super::Link`] needs are kept. A container can influence the length and the content of its
//! links' descriptions, and the parser drops a whole answer because of one attribute that it cannot
//! parse.

use super::text;

/// The numbers of the kernel's `linux/rtnetlink.h` and `linux/if_link.h`.
const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_XDP: u16 = 43;
const IFLA_PROP_LIST: u16 = 52;
/// MAC, MTU, parent, controller, queue length, link mode, group, the parent's namespace, segments
/// and bytes of GSO, permanent MAC, bus address, and bytes of GRO, and of both with IPv4.
const VALUES: [u16; 15] = [1, 4, 5, 10, 13, 17, 27, 37, 40, 41, 54, 56, 58, 63, 64];
/// Attributes in `IFLA_XDP`: the program of each mode.
const PROGRAMS: [u16; 3] = [5, 6, 7];
/// Attributes in `IFLA_LINKINFO`: the kind, the data of that kind, and the kind of port.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
/// Attributes in `IFLA_AF_SPEC`: the number of each family, and of the attribute in it that has the
/// parameters.
const PARAMETERS: [(u16, u16); 2] = [(2, 1), (10, 2)];
/// The kinds whose data is used.
const IPVLAN: [&[u8]; 2] = [b"ipvlan\0", b"ipvtap\0"];

/// The bits of an attribute's type that describe its encoding.
const ENCODING: u16 = 0xC000;
/// Lengths in bytes: of a message's header, of the header of a link after it, and of an attribute's
/// header.
const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

/// The messages of a datagram, with shortened messages about links.
pub(super) fn understandable(datagram: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(datagram.len());
    let mut rest = datagram;
    while let Some((message, after)) = split_message(rest) {
        match link_attributes(message) {
            Some((head, attributes)) => {
                let begin = written.len();
                written.extend(head);
                shorten(attributes, &mut written);
                let length = u32::try_from(written.len() - begin).unwrap_or_default();
                let field = written.iter_mut().skip(begin);
                field
                    .zip(length.to_ne_bytes())
                    .for_each(|(at, byte)| *at = byte);
            }
            None => written.extend(message),
        }
        rest = after;
    }
    // Bytes that are not a message are refused by the parser.
    written.extend(rest);
    written
}

/// The first message of `bytes` with its padding, and the rest.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length)
        .ok()
        .filter(|l| *l >= MESSAGE_HEADER)?;
    bytes.get(..length)?;
    Some(bytes.split_at(length.next_multiple_of(4).min(bytes.len())))
}

/// The headers of a message about a link, and its attributes.
fn link_attributes(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let is_link = kind == RTM_NEWLINK;
    message
        .split_at_checked(MESSAGE_HEADER + LINK_HEADER)
        .filter(|_| is_link)
}

/// Writes the attributes that are needed.
fn shorten(attributes: &[u8], written: &mut Vec<u8>) {
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_IFNAME | IFLA_IFALIAS => write_text(kind, value, written),
            IFLA_PROP_LIST => Attributes(value).for_each(|(kind, name)| {
                // One list for each name: together they could be too long for one attribute.
                let mut list = Vec::new();
                write_text(kind, name, &mut list);
                write(IFLA_PROP_LIST, &list, written);
            }),
            IFLA_LINKINFO => write(kind, &shorten_info(value), written),
            IFLA_AF_SPEC => write(kind, &shorten_families(value), written),
            IFLA_XDP => write_programs(value, written),
            _ if VALUES.contains(&kind) => write(kind, value, written),
            _ => {}
        }
    }
}

fn shorten_info(info: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    let is_ipvlan =
        Attributes(info).any(|(kind, value)| kind == INFO_KIND && IPVLAN.contains(&value));
    for (kind, value) in Attributes(info) {
        if matches!(kind, INFO_KIND | INFO_PORT_KIND) || kind == INFO_DATA && is_ipvlan {
            write(kind, value, &mut written);
        }
    }
    written
}

fn write_programs(xdp: &[u8], written: &mut Vec<u8>) {
    let mut programs = Vec::new();
    for (mode, program) in Attributes(xdp).filter(|(kind, _)| PROGRAMS.contains(kind)) {
        write(mode, program, &mut programs);
    }
    if !programs.is_empty() {
        write(IFLA_XDP, &programs, written);
    }
}

fn shorten_families(families: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    for (family, conf) in PARAMETERS {
        let of_family = Attributes(families).filter(|(found, _)| *found == family);
        for (found, value) in of_family.flat_map(|(_, value)| Attributes(value)) {
            if found == conf {
                let mut parameters = Vec::new();
                write(conf, value, &mut parameters);
                write(family, &parameters, &mut written);
            }
        }
    }
    written
}

fn write_text(kind: u16, value: &[u8], written: &mut Vec<u8>) {
    let mut bytes = text::from_bytes(value).into_bytes();
    bytes.push(0);
    write(kind, &bytes, written);
}

/// Writes an attribute, and its padding.
pub(super) fn write(kind: u16, value: &[u8], written: &mut Vec<u8>) {
    // No value is longer than in the kernel's own attribute, so the length fits.
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    written.extend(length.to_ne_bytes());
    written.extend(kind.to_ne_bytes());
    written.extend(value);
    written.resize(written.len().next_multiple_of(4), 0);
}

/// Iterates over attributes: type and value of each.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?);
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !ENCODING, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        write(kind, value, &mut written);
        written
    }

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(MESSAGE_HEADER + LINK_HEADER + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(MESSAGE_HEADER + LINK_HEADER, 7);
        message.extend(body);
        message
    }

    #[test]
    fn messages_about_links_are_shortened_and_others_are_not_changed() {
        let info = |data: &[u8]| {
            let kind = attribute(INFO_KIND, b"dummy\0");
            attribute(IFLA_LINKINFO, &[kind, data.to_vec()].concat())
        };
        let families = |rest: &[u8]| {
            let ipv4 = attribute(2, &attribute(1, &[1; 8]));
            let ipv6 = attribute(10, &[rest, &attribute(2, &[2; 8])].concat());
            attribute(IFLA_AF_SPEC, &[ipv4, ipv6].concat())
        };
        let sent = [
            attribute(IFLA_IFNAME, b"a\xff\0"),
            attribute(1, &[2, 0, 0, 0, 0, 1]),
            attribute(23, &[9; 200]),
            attribute(
                IFLA_PROP_LIST | 0x8000,
                &[attribute(53, b"b\0"), attribute(53, b"c\0")].concat(),
            ),
            info(&attribute(INFO_DATA, &[9; 200])),
            families(&attribute(5, &[9; 200])),
            attribute(
                IFLA_XDP,
                &[attribute(2, &[2]), attribute(6, &[9; 4])].concat(),
            ),
            attribute(IFLA_XDP, &attribute(2, &[0])),
        ];
        let kept = [
            attribute(IFLA_IFNAME, "a\u{F7FF}\0".as_bytes()),
            attribute(1, &[2, 0, 0, 0, 0, 1]),
            attribute(IFLA_PROP_LIST, &attribute(53, b"b\0")),
            attribute(IFLA_PROP_LIST, &attribute(53, b"c\0")),
            info(&[]),
            families(&[]),
            attribute(IFLA_XDP, &attribute(6, &[9; 4])),
        ];
        let other = message(RTM_NEWLINK + 1, &sent);
        let before = [message(RTM_NEWLINK, &sent), other.clone()].concat();
        let after = [message(RTM_NEWLINK, &kept), other].concat();
        assert_eq!(understandable(&before), after);
    }

    #[test]
    fn bytes_that_are_not_messages_are_not_changed() {
        for length in 0..40 {
            for byte in [0, 1, 16, 255] {
                let bytes = vec![byte; length];
                assert_eq!(understandable(&bytes), bytes);
            }
        }
    }
}
