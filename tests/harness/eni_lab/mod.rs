//! eni-lab: a simulated VPC with EC2's Query API, the instance metadata service, and what
//! gives a service account its role, which eni-sync is proven on. It follows the rules that EC2 is known to have, makes
//! a switch of what is not known, fails as a script says, and keeps a log that shows
//! what must never happen.
//!
//! Signatures are not verified, only that a request has one and whose it is; there is
//! one region. Sockets are given to it, so that each can be in
//! a network namespace of its own. A [`DataPlane`] carries packets as the VPC would.

mod address;
mod certificate;
mod change;
mod data_plane;
mod describe;
mod error;
mod event;
mod fault;
mod filter;
mod id;
mod identity;
mod imds;
mod inspect;
mod lab;
mod limits;
mod model;
mod mutate;
mod neighbours;
mod prefix;
mod query;
mod rules;
mod server;
mod setup;
mod shared;
mod state;
mod wires;
mod world;

pub use certificate::Certificate;
pub use data_plane::{DataPlane, Names};
pub use error::Ec2Error;
pub use event::{DROPPED, Event, OK, Target, violations};
pub use fault::{Fault, Hold};
pub use id::{EniId, GroupId, InstanceId, SubnetId, VpcId};
pub use imds::CANARY;
pub use lab::{Lab, Shown};
pub use limits::Limits;
pub use rules::{Bucket, Buckets, Repeat, Rules};

use shared::Shared;

/// The region of the VPC.
pub const REGION: &str = "us-west-2";

/// The availability zone of every subnet that is not made in another one.
pub const ZONE: &str = "us-west-2a";

/// The account that owns everything.
pub const ACCOUNT: &str = "123456789012";

/// The security group that every VPC has.
const SECURITY_GROUP: &str = "sg-0ab00000000000001";

/// The only image.
const AMI: &str = "ami-0ab00000000000001";
