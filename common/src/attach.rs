//! The life of an attachment: its record, what its interface gets in the container, and how
//! all of it ends.

mod announce;
mod options;
mod record;
mod record_file;
mod records;
mod sandbox;
mod source_routing;

pub use options::Options;
pub use record::{Attachment, boot_id, sandbox_for_del};
pub use record_file::Recorded;
pub(crate) use records::ROOT;
pub use records::Records;
pub use sandbox::Sandbox;
pub use source_routing::{Policy, SourceRouting};
