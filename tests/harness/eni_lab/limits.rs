//! What instance types can carry: a small part of EC2's table, enough to meet every
//! size of it.

/// Network limits of an instance type, as `DescribeInstanceTypes` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Network interfaces an instance can have.
    pub interfaces: usize,
    /// IPv4 addresses of an interface, its primary address included.
    pub ipv4: usize,
    /// IPv6 addresses of an interface.
    pub ipv6: usize,
    /// Network cards of an instance.
    pub cards: usize,
}

const fn limits(interfaces: usize, addresses: usize, cards: usize) -> Limits {
    Limits {
        interfaces,
        ipv4: addresses,
        ipv6: addresses,
        cards,
    }
}

/// EC2's limits, from amazon-vpc-cni-k8s `pkg/vpc/vpc_ip_resource_limit.go`.
pub(super) const TABLE: [(&str, Limits); 14] = [
    ("t3.micro", limits(2, 2, 1)),
    ("t3.small", limits(3, 4, 1)),
    ("t3.medium", limits(3, 6, 1)),
    ("t3.large", limits(3, 12, 1)),
    ("c5.large", limits(3, 10, 1)),
    ("m5.large", limits(3, 10, 1)),
    ("m5.xlarge", limits(4, 15, 1)),
    ("m5.2xlarge", limits(4, 15, 1)),
    ("m5.4xlarge", limits(8, 30, 1)),
    ("c5.4xlarge", limits(8, 30, 1)),
    ("c5n.18xlarge", limits(15, 50, 1)),
    ("m5.24xlarge", limits(15, 50, 1)),
    ("c6in.32xlarge", limits(14, 50, 2)),
    ("m6i.32xlarge", limits(15, 50, 1)),
];
