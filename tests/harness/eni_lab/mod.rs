//! eni-lab: a simulated VPC with EC2's Query API, the instance metadata service, and the services
//! that give a service account its role. eni-sync is tested with it. It follows the documented
//! rules of EC2, has a switch for what is not documented, can make calls fail, and keeps a log that
//! is checked for what must never happen.
//!
//! It checks that a request is signed and by which key, but does not verify the signature. There is
//! one region. The caller opens the sockets, so that each can be in another network namespace. A
//! [`DataPlane`] carries packets as a VPC does.

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
pub use describe::timestamp;
pub use error::Ec2Error;
pub use event::{DROPPED, Event, OK, Target, violations};
pub use fault::{Fault, Hold};
pub use id::{EniId, GroupId, InstanceId, SubnetId, VpcId};
pub use imds::CANARY;
pub use lab::{Lab, Shown};
pub use limits::Limits;
pub use rules::{Bucket, Buckets, CHANGE, LOOK, Repeat, Rules};

use shared::Shared;

/// The region of the VPC.
pub const REGION: &str = "us-west-2";

/// The availability zone of a subnet unless another one is requested.
pub const ZONE: &str = "us-west-2a";

/// The account that owns all objects.
pub const ACCOUNT: &str = "123456789012";

/// The security group that every VPC has.
const SECURITY_GROUP: &str = "sg-0ab00000000000001";

/// The only image.
const AMI: &str = "ami-0ab00000000000001";
