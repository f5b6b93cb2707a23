//! host-local's own modules. They name each other from the root of the crate, so a target
//! makes all of them known there.

#[path = "../../../host-local-ipam/src"]
#[allow(dead_code, reason = "a target is made of a part of the plugin")]
pub mod modules {
    pub mod allocation;
    pub mod allocator;
    pub mod atomic;
    pub mod boot;
    pub mod config;
    pub mod container;
    pub mod ended;
    pub mod exclude;
    pub mod form;
    pub mod index;
    pub mod lock;
    pub mod range;
    pub mod ranges_file;
    pub mod reservation;
    pub mod sources;
    pub mod store;
    pub mod survey;
    pub mod taken;
}
