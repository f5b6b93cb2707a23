//! ipvlan, alone and with eni-sync behind it, when anything goes wrong anywhere.

use harness::fault::{ERRORS, Fault, Subject, Sweep};

use crate::faults::{is_kill, is_reboot, race, sweep};

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
    let is_eio = |sweep: &Sweep| sweep.fault == Fault::Error(ERRORS[1]);
    sweep(Subject::Ipvlan, 17, is_eio);
}

#[test]
fn del_cleans_up_after_eni_sync_behind_ipvlan_killed_anywhere() {
    sweep(Subject::RegisteredIpvlan, 193, is_kill);
}

#[test]
fn commands_of_ipvlan_that_meet_leave_whole_attachments_or_none() {
    race(Subject::Ipvlan, 1);
}
