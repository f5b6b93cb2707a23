//! The ENIs that a configuration names, which the node creates and attaches by itself: what
//! is wanted, what is recorded before EC2 is asked, and how the one becomes the other. A
//! pass can be killed at any moment, and the next one completes it.

mod attachment;
mod denied;
pub(crate) mod link;
pub(crate) mod pass;
mod place;
pub(crate) mod plan;
mod record;
pub(crate) mod report;
mod request;
pub(crate) mod wanted;
