//! The node's view of AWS: EC2, the instance metadata service, what their errors mean, how
//! often they may be asked, and the ENIs that they show.

pub(crate) mod calls;
pub(crate) mod clients;
pub(crate) mod ec2;
pub(crate) mod eni;
pub(crate) mod environment;
pub(crate) mod failure;
pub(crate) mod http;
pub(crate) mod imds;
pub(crate) mod inventory;
mod pauses;
pub(crate) mod rate_limit;
mod session;
mod token_bucket;
