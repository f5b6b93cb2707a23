//! ipvlan, alone and with eni-sync behind it, when anything goes wrong anywhere.

use fixtures::faults::{is_kill, is_reboot, race, sweep};
use harness::fault::{Fault, NO_MEMORY, Subject, Sweep};
use nix::errno::Errno;

#[test]
fn del_cleans_up_after_ipvlan_killed_anywhere() {
    sweep(Subject::Ipvlan, 7, is_kill);
}

#[test]
fn a_reboot_cleans_up_after_ipvlan_that_lost_its_power_anywhere() {
    sweep(Subject::Ipvlan, 17, is_reboot);
}

#[test]
fn a_system_call_of_ipvlan_that_fails_is_survived_or_reported() {
    let is_eio = |sweep: &Sweep| sweep.fault == Fault::Error(Errno::EIO);
    sweep(Subject::Ipvlan, 17, is_eio);
}

/// The kernel may have done what it was asked for, and have no memory to say so.
#[test]
fn an_answer_of_the_kernel_to_ipvlan_that_is_lost_is_survived_or_reported() {
    let is_lost = |sweep: &Sweep| sweep.fault == Fault::Error(NO_MEMORY);
    sweep(Subject::Ipvlan, 1, is_lost);
}

#[test]
fn del_cleans_up_after_eni_sync_behind_ipvlan_killed_anywhere() {
    sweep(Subject::RegisteredIpvlan, 193, is_kill);
}

#[test]
fn commands_of_ipvlan_that_meet_leave_whole_attachments_or_none() {
    race(Subject::Ipvlan, 1);
}
