//! Keeps the ledger and the VPC in agreement: the rules, which are pure, and the code that
//! registers, takes over, releases and compares addresses by them.

pub(crate) mod assign;
pub(crate) mod attached;
pub(crate) mod choose;
pub(crate) mod claim;
mod count;
pub(crate) mod desired;
pub(crate) mod detached;
pub(crate) mod ended;
mod here;
pub(crate) mod in_use;
pub(crate) mod looks;
mod lost;
pub(crate) mod node;
pub(crate) mod prefixes;
pub(crate) mod reconcile;
pub(crate) mod register;
pub(crate) mod release;
pub(crate) mod request;
pub(crate) mod rules;
mod settled;
pub(crate) mod shared;
pub(crate) mod subnets;
mod takeover;
mod turns;
mod unassign;
pub(crate) mod unheard;
pub(crate) mod without;
