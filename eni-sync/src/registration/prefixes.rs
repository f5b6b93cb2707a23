//! Prefixes of ENIs: a /28 or a /80 uses the slot of one address, and all of its addresses
//! belong to the node. EC2 chooses prefixes, so two nodes never have the same one; pods get
//! addresses of them without a call.

pub(crate) mod ask;
pub(crate) mod compare;
pub(crate) mod free;
pub(crate) mod give;
pub(crate) mod give_back;
pub(crate) mod gone;
pub(crate) mod kept;
pub(crate) mod listed;
mod occupied;
pub(crate) mod stock;
pub(crate) mod supply;
