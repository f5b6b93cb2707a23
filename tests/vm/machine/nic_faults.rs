//! host-device with the machine's network cards, when it is killed and a runtime sends
//! whatever it likes then. With a driver for user space `make faults` tries the same, and
//! `driver` some of it.

use fixtures::faults::sweep_orders;
use harness::fault::Subject;

#[test]
fn whatever_a_runtime_sends_after_a_kill_of_host_device_loses_no_nic() {
    sweep_orders(Subject::Nic, 70);
}
