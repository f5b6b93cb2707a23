//! Whole ENIs, by the PCI addresses of their devices. The interface of an ENI is a veth here, and
//! the files below /sys that make it a PCI device are the test's; `tests/vm` has real ones.

use std::fs;
use std::os::unix::fs::symlink;

use fixtures::kubelet::{DIRECTORY, Kubelet, multus_call};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{FakeSys, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;

const ENA: &str = "eni-cni.io/ena-user.plane";
const PCI: &str = "0000:00:1e.0";
const PCI_PATH: &str = "pci/devices/0000:00:1e.0";

/// A node whose ENI for pods is a PCI device on NUMA node 1.
struct PciNode {
    node: VpcNode,
    sys: FakeSys,
    _class: TempDir,
}

impl PciNode {
    fn new(vpc: &Vpc) -> Self {
        let (mut node, sys) = (vpc.node(), FakeSys::new());
        sys.netdev(PCI_PATH, "net", "ens6");
        sys.bind(PCI_PATH, "ena");
        fs::write(sys.path().join(PCI_PATH).join("numa_node"), "1\n").unwrap();
        let class = tempfile::tempdir().unwrap();
        fs::create_dir(class.path().join("ens6")).unwrap();
        let device = format!("../../../{PCI}");
        symlink(device, class.path().join("ens6/device")).unwrap();
        node.node.bind(sys.path(), "/sys/bus");
        node.node.bind(class.path(), "/sys/class/net");
        Self {
            node,
            sys,
            _class: class,
        }
    }
}

fn configuration(vpc: &Vpc) -> Value {
    let resource = json!({
        "name": ENA, "eni": { "subnet": vpc.pods.to_string() }, "kind": "devices",
    });
    json!({ "devicePluginPath": DIRECTORY, "resources": [resource] })
}

#[test]
fn host_device_gets_the_eni_that_the_kubelet_has_allocated_and_it_stays_healthy() {
    let vpc = Vpc::new().without_invariants();
    let pci = PciNode::new(&vpc);
    let node = &pci.node;
    let mut kubelet = Kubelet::start(node);
    let agent = Agent::start(node, &configuration(&vpc));
    let list = kubelet.await_list(ENA, 1, 0);
    let expected = json!([{ "id": PCI, "health": "Healthy", "numa": [1] }]);
    assert_eq!(list["devices"], expected);
    let answer = kubelet.call("allocate", ENA, &json!({ "containers": [[PCI]] }));
    let container = json!({
        "envs": { "PCIDEVICE_ENI_CNI_IO_ENA_USER_PLANE": PCI },
        "devices": [], "mounts": 0, "annotations": {}, "cdi": 0,
    });
    assert_eq!(answer["answer"], json!([container]));

    let pod = Pod::new("c1");
    node.run(&multus_call(node, "ADD", &pod, PCI)).ok();
    assert_eq!(pod.netns.link("net1").unwrap()["address"], node.mac);
    let info = fs::read_to_string(node.run_directory().join("devinfo/default-ena-net1"));
    assert!(info.unwrap().contains(PCI));

    // The ENI leaves the node while the pod has it.
    node.lab.detach_eni(&node.eni);
    node.command(&["sync", "--once"]);
    kubelet.await_list(ENA, 0, 1);
    let said = format!(
        "resource {ENA}: {} is not attached to the node any more",
        node.eni
    );
    assert!(
        eventually(|| agent.log().contains(&said)),
        "{}",
        agent.log()
    );
    assert!(
        !agent.log().contains("is not on the node"),
        "{}",
        agent.log()
    );
    // The next agent, which never has seen the ENI, knows that the pod has it still.
    agent.kill();
    kubelet.await_event("end");
    let _agent = Agent::start(node, &configuration(&vpc));
    kubelet.await_list(ENA, 0, 1);
    // What DEL does with a device is tested with those of the VM. It takes the record away.
    fs::remove_file(
        node.node
            .state()
            .join("eni-cni/host-device/ena/c1:net1.json"),
    )
    .unwrap();
    kubelet.await_list(ENA, 0, 0);
}

#[test]
fn a_device_for_user_space_brings_the_nodes_that_it_is_driven_by() {
    let vpc = Vpc::new();
    let pci = PciNode::new(&vpc);
    let node = &pci.node;
    let mut kubelet = Kubelet::start(node);
    let agent = Agent::start(node, &configuration(&vpc));
    kubelet.await_list(ENA, 1, 0);
    let device = pci.sys.path().join(PCI_PATH);
    pci.sys.unbind(PCI_PATH);
    pci.sys.bind(PCI_PATH, "vfio-pci");
    symlink("../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
    fs::remove_dir_all(device.join("net")).unwrap();
    node.node.netns.ip(&["link", "delete", "ens6"]);
    let expected = json!([
        ["/dev/vfio/7", "/dev/vfio/7", "mrw"],
        ["/dev/vfio/vfio", "/dev/vfio/vfio", "mrw"],
    ]);
    let answer = kubelet.call("allocate", ENA, &json!({ "containers": [[PCI]] }));
    assert_eq!(answer["answer"][0]["devices"], expected);
    // The next agent, which never has seen its interface, knows it still.
    agent.kill();
    kubelet.await_event("end");
    let agent = Agent::start(node, &configuration(&vpc));
    kubelet.await_list(ENA, 1, 0);
    assert!(!agent.log().contains("is not known"), "{}", agent.log());
}
