//! Prefixes of ENIs: a /28 or a /80 takes the place of one address, and all of its addresses
//! are the node's. EC2 chooses them, so no two nodes can have the same one; pods get addresses
//! of them without a call.

pub(crate) mod ask;
pub(crate) mod compare;
pub(crate) mod free;
pub(crate) mod give;
pub(crate) mod give_back;
pub(crate) mod gone;
pub(crate) mod kept;
pub(crate) mod stock;
pub(crate) mod supply;
