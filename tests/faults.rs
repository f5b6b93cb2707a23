//! host-device, host-local and eni-sync when anything goes wrong anywhere: processes
//! that are killed, system calls that fail, commands that meet. `make faults` does all
//! of it and more often. The same for ipvlan is in `vm_faults`.

use harness::fault::{Fault, Maker, Meeting, Order, Race, Scene, Soak, Subject, Sweep};

/// As many rounds as take seconds.
const ROUNDS: usize = 10;
/// As many pods as take seconds.
const PODS: usize = 40;

/// Which of all sweeps.
pub(crate) fn sweep(subject: Subject, every: usize, is_wanted: impl Fn(&Sweep) -> bool) {
    let sweeps = Sweep::of(subject, Maker::Ours);
    let wanted: Vec<Sweep> = sweeps.into_iter().filter(is_wanted).collect();
    assert!(!wanted.is_empty());
    for sweep in wanted {
        sweep.at_one_of(every).loses_nothing();
    }
}

/// Every order of commands but that of [`is_kill`], killed at one system call each: another
/// one in each order, of so many that an ADD makes. `make faults` strikes all of them.
pub(crate) fn sweep_orders(subject: Subject, most: usize) {
    let sweeps = Sweep::of(subject, Maker::Ours).into_iter();
    let is_wanted = |sweep: &Sweep| sweep.fault == Fault::Kill && sweep.order != Order::Del;
    let mut scene = Scene::new(subject, Maker::Ours, 2);
    // A network card is slow to move: in one order its ADD is killed, in the next its DEL.
    let is_turn =
        |(number, _): &(usize, Sweep)| !subject.has_nics() || [0, 3].contains(&(number % 4));
    for (number, sweep) in sweeps.filter(is_wanted).enumerate().filter(is_turn) {
        let mut call = 1 + (number * 13) % most;
        while !sweep.loses_nothing_at(call, &mut scene) {
            // A DEL makes fewer.
            call = call.div_ceil(3);
        }
    }
}

pub(crate) fn is_kill(sweep: &Sweep) -> bool {
    sweep.fault == Fault::Kill && sweep.order == Order::Del
}

pub(crate) fn is_reboot(sweep: &Sweep) -> bool {
    sweep.order == Order::Reboot
}

fn is_error(sweep: &Sweep) -> bool {
    matches!(sweep.fault, Fault::Error(_))
}

/// Every meeting, with another seed each.
pub(crate) fn race(subject: Subject, rounds: usize) {
    for (seed, meeting) in (1..).zip(Meeting::of(subject, Maker::Ours)) {
        let meeting = match meeting {
            Meeting::Adds(pods) => Meeting::Adds(pods.min(PODS)),
            other => other,
        };
        let race = Race {
            subject,
            maker: Maker::Ours,
            meeting,
            rounds: meeting.rounds(rounds),
            seed,
        };
        race.ends_well();
    }
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
