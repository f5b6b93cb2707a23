//! What is done with the packets of a link before and behind the stack: how long they may be
//! until the device divides them, and the XDP programs that see them first.

use netlink_packet_route::link::{LinkAttribute, LinkXdp};
use serde::{Deserialize, Serialize};

/// The modes of XDP programs. Source: `XDP_FLAGS_*_MODE` of `linux/if_link.h`.
const GENERIC: u32 = 1 << 1;
const DRIVER: u32 = 1 << 2;
const HARDWARE: u32 = 1 << 3;
/// What stands for no program in the place of a descriptor.
const NOTHING: i32 = -1;

/// What stays with a link wherever it moves. A kernel says nothing of lengths that it does not
/// know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Offload {
    /// The most bytes of what the device divides into packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gso_max_size: Option<u32>,
    /// The most packets of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gso_max_segs: Option<u32>,
    /// The most bytes into which packets are put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gro_max_size: Option<u32>,
    /// The same as `gso_max_size` with IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gso_ipv4_max_size: Option<u32>,
    /// The same as `gro_max_size` with IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gro_ipv4_max_size: Option<u32>,
    /// The modes in which there is an XDP program, each a flag of the kernel's.
    pub xdp_modes: u32,
}

impl Offload {
    /// Takes what an attribute says, if it is about this.
    pub(super) fn take(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::GsoMaxSize(size) => self.gso_max_size = Some(*size),
            LinkAttribute::GsoMaxSegs(count) => self.gso_max_segs = Some(*count),
            LinkAttribute::GroMaxSize(size) => self.gro_max_size = Some(*size),
            LinkAttribute::GsoIpv4MaxSize(size) => self.gso_ipv4_max_size = Some(*size),
            LinkAttribute::GroIpv4MaxSize(size) => self.gro_ipv4_max_size = Some(*size),
            LinkAttribute::Xdp(programs) => {
                self.xdp_modes |= programs.iter().map(mode).fold(0, |all, mode| all | mode);
            }
            _ => {}
        }
    }

    /// Whether packets may be of other lengths here than `other` says.
    pub fn has_other_lengths(&self, other: &Self) -> bool {
        let lengths = |of: &Self| Self {
            xdp_modes: 0,
            ..*of
        };
        lengths(self) != lengths(other)
    }

    /// The modes in which there is a program here, and none where `other` is.
    pub fn programs_beyond(&self, other: &Self) -> impl Iterator<Item = u32> + use<> {
        let beyond = self.xdp_modes & !other.xdp_modes;
        let modes = [GENERIC, DRIVER, HARDWARE].into_iter();
        modes.filter(move |mode| beyond & mode != 0)
    }

    /// What lets the packets of a link be as long as this says.
    pub(super) fn lengths(&self) -> impl Iterator<Item = LinkAttribute> + use<> {
        let lengths = [
            self.gso_max_size.map(LinkAttribute::GsoMaxSize),
            self.gso_max_segs.map(LinkAttribute::GsoMaxSegs),
            self.gro_max_size.map(LinkAttribute::GroMaxSize),
            self.gso_ipv4_max_size.map(LinkAttribute::GsoIpv4MaxSize),
            self.gro_ipv4_max_size.map(LinkAttribute::GroIpv4MaxSize),
        ];
        lengths.into_iter().flatten()
    }
}

/// What takes the program of a mode off a link. Where it is attached by a link of its own
/// (`bpf_link`), the kernel refuses that: it goes with the process that has it.
pub(super) fn no_program(mode: u32) -> LinkAttribute {
    LinkAttribute::Xdp(vec![LinkXdp::Fd(NOTHING), LinkXdp::Flags(mode)])
}

/// The mode of a program, as what the kernel says of it tells.
fn mode(program: &LinkXdp) -> u32 {
    match program {
        LinkXdp::SkbProgId(_) => GENERIC,
        LinkXdp::DrvProgId(_) => DRIVER,
        LinkXdp::HwProgId(_) => HARDWARE,
        _ => 0,
    }
}
