//! Limits of instance types: a small part of EC2's table, with at least one type of every
//! size.

/// Network limits of an instance type, as in `DescribeInstanceTypes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of network interfaces of an instance.
    pub interfaces: usize,
    /// The number of IPv4 addresses of an interface, including the primary one.
    pub ipv4: usize,
    /// The number of IPv6 addresses of an interface.
    pub ipv6: usize,
    /// The number of network cards of an instance.
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
