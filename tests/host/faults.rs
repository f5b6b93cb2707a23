//! host-device, host-local and eni-sync when anything goes wrong anywhere: processes
//! that are killed, system calls that fail, commands that meet. `make faults` does all
//! of it and more often. The same for ipvlan is in `tests/vm`.

use fixtures::faults::{is_kill, is_reboot, race, sweep, sweep_lasting, sweep_orders};
use harness::fault::{Fault, Soak, Subject, Sweep};

/// As many rounds as take seconds.
const ROUNDS: usize = 10;

fn is_error(sweep: &Sweep) -> bool {
    matches!(sweep.fault, Fault::Error(_))
}

#[test]
fn del_cleans_up_after_host_local_killed_anywhere() {
    sweep(Subject::HostLocal, 1, is_kill);
}

#[test]
fn del_cleans_up_after_host_device_killed_anywhere() {
    sweep(Subject::HostDevice, 1, is_kill);
}

#[test]
fn del_cleans_up_after_eni_sync_killed_anywhere() {
    sweep(Subject::Registered, 5, is_kill);
}

#[test]
fn whatever_a_runtime_sends_after_a_kill_of_host_local_loses_nothing() {
    sweep_orders(Subject::HostLocal, 11);
}

#[test]
fn whatever_a_runtime_sends_after_a_kill_of_host_device_loses_nothing() {
    sweep_orders(Subject::HostDevice, 56);
}

#[test]
fn whatever_a_runtime_sends_after_a_kill_of_host_device_with_addresses_loses_nothing() {
    sweep_orders(Subject::KeptDevice, 64);
}

#[test]
fn whatever_a_runtime_sends_after_a_kill_of_eni_sync_loses_nothing() {
    sweep_orders(Subject::Registered, 48);
}

#[test]
fn a_reboot_cleans_up_after_host_local_that_lost_its_power_anywhere() {
    sweep(Subject::HostLocal, 1, is_reboot);
}

#[test]
fn a_reboot_cleans_up_after_host_device_that_lost_its_power_anywhere() {
    sweep(Subject::HostDevice, 3, is_reboot);
}

#[test]
fn a_reboot_cleans_up_after_eni_sync_that_lost_its_power_anywhere() {
    sweep(Subject::Registered, 11, is_reboot);
}

#[test]
fn a_system_call_of_host_local_that_fails_is_survived_or_reported() {
    sweep(Subject::HostLocal, 2, is_error);
}

#[test]
fn a_system_call_of_host_device_that_fails_is_survived_or_reported() {
    sweep(Subject::HostDevice, 7, is_error);
}

#[test]
fn a_system_call_of_eni_sync_that_fails_is_survived_or_reported() {
    sweep(Subject::Registered, 31, is_error);
}

#[test]
fn host_local_answers_when_a_kind_of_system_calls_always_fails() {
    sweep_lasting(Subject::HostLocal, 1);
}

#[test]
fn host_device_answers_when_a_kind_of_system_calls_always_fails() {
    sweep_lasting(Subject::HostDevice, 5);
}

#[test]
fn eni_sync_answers_when_a_kind_of_system_calls_always_fails() {
    sweep_lasting(Subject::Registered, 41);
}

#[test]
fn commands_of_host_local_that_meet_leave_whole_attachments_or_none() {
    race(Subject::HostLocal, ROUNDS);
}

#[test]
fn commands_of_host_device_that_meet_leave_whole_attachments_or_none() {
    race(Subject::HostDevice, ROUNDS);
}

#[test]
fn commands_of_eni_sync_that_meet_leave_whole_attachments_or_none() {
    race(Subject::Registered, ROUNDS);
}

#[test]
fn cycles_of_add_and_del_with_kills_leave_nothing_that_grows() {
    for subject in [Subject::HostLocal, Subject::HostDevice, Subject::Registered] {
        let soak = Soak {
            subject,
            cycles: 20,
            seed: 7,
        };
        soak.run().require_none();
    }
}
