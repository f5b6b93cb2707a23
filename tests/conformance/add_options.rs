//! Assertions 30 to 35: parents, MTUs, hardware addresses, routes, IPv6 and devices, as
//! a configuration or a delegate asks for them.

use harness::{FakeSys, Pod, is_up};
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::plugin::{Parent, Plugin};
use crate::scene::{IFNAME, Scene, answer, contains, with};

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 30,
        sentence: "a parent that is not named is the documented one; one that is missing is named in the error; one that is down is named or set up",
        about: About::Parent,
        apply: parent_is_found_or_named,
    },
    Assertion {
        number: 31,
        sentence: "an MTU above the parent's is refused",
        about: About::Parent,
        apply: mtu_above_the_parents_is_refused,
    },
    Assertion {
        number: 32,
        sentence: "a MAC that is asked for is given or refused by name, never ignored",
        about: About::Main,
        apply: mac_is_never_ignored,
    },
    Assertion {
        number: 33,
        sentence: "mtu, advmss, priority, table and scope of routes are applied and in the result",
        about: About::MainSpeaks110,
        apply: routes_have_their_attributes,
    },
    Assertion {
        number: 34,
        sentence: "no IPv6 address is tentative when ADD returns",
        about: About::Main,
        apply: no_address_is_tentative,
    },
    Assertion {
        number: 35,
        sentence: "a device is found by every key; one that another pod has is named in the error",
        about: About::Device,
        apply: device_is_found_by_every_key,
    },
];

fn parent_is_found_or_named(plugin: &Plugin) -> Verdict {
    let Some(parent) = &plugin.recipe.parent else {
        return Err("the recipe has no parent".to_owned());
    };
    if parent.default_route {
        parent_of_the_default_route(plugin, parent)?;
    }
    let scene = Scene::new(plugin);
    let before = scene.state();
    let elsewhere = with(&scene.conf(), &json!({parent.key.as_str(): "eth9"}));
    let error = scene.fails(&scene.call("ADD", &elsewhere))?;
    let said = error.msg + &error.details;
    ensure!(
        said.contains("eth9"),
        "expected eth9 to be named, came {said:?}"
    );
    scene.is_as(&before, "after an ADD without a parent")?;

    scene.node.netns.ip(&["link", "set", &parent.name, "down"]);
    let before = scene.state();
    let call = scene.call("ADD", &scene.conf());
    let output = scene.node.run(&call);
    if output.status == Some(0) {
        let link = scene.node.netns.link(&parent.name).unwrap_or_default();
        ensure!(
            is_up(&link),
            "expected {} to be up after an ADD that succeeds",
            parent.name
        );
        return Ok(());
    }
    let error = scene.fails(&call)?;
    let said = error.msg + &error.details;
    ensure!(
        said.contains(&parent.name),
        "expected {} to be named, came {said:?}",
        parent.name
    );
    scene.is_as(&before, "after an ADD whose parent is down")
}

fn parent_of_the_default_route(plugin: &Plugin, parent: &Parent) -> Verdict {
    let scene = Scene::new(plugin);
    let host = &scene.node.netns;
    host.ip(&["address", "add", "192.0.2.2/24", "dev", &parent.name]);
    host.ip(&["route", "add", "default", "via", "192.0.2.1"]);
    scene.add(&with(&scene.conf(), &json!({parent.key.as_str(): null})))?;
    let index = host.link(&parent.name).unwrap_or_default()["ifindex"].clone();
    let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
    ensure!(
        link["link_index"] == index,
        "expected the parent of the default route, came {link}"
    );
    Ok(())
}

fn mtu_above_the_parents_is_refused(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let name = plugin
        .recipe
        .parent
        .as_ref()
        .map_or("", |parent| &parent.name);
    let mtu = scene.node.netns.link(name).unwrap_or_default()["mtu"].as_u64();
    let conf = with(&scene.conf(), &json!({"mtu": mtu.unwrap_or_default() + 1}));
    scene.fails(&scene.call("ADD", &conf))?;
    scene.is_as(&before, "after the refusal")
}

fn mac_is_never_ignored(plugin: &Plugin) -> Verdict {
    const MAC: &str = "02:00:00:00:00:99";
    for keys in [
        json!({"capabilities": {"mac": true}, "runtimeConfig": {"mac": MAC}}),
        json!({"args": {"cni": {"mac": MAC}}}),
        json!({"CNI_ARGS": MAC}),
    ] {
        let scene = Scene::new(plugin);
        let before = scene.state();
        let call = match keys["CNI_ARGS"].as_str() {
            Some(mac) => {
                let call = scene.call("ADD", &scene.conf());
                call.env("CNI_ARGS", &format!("IgnoreUnknown=1;MAC={mac}"))
            }
            None => scene.call("ADD", &with(&scene.conf(), &keys)),
        };
        let output = scene.node.run(&call);
        if output.status == Some(0) {
            let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
            ensure!(
                link["address"] == MAC,
                "expected {MAC} by {keys} or a refusal, came {link}"
            );
            continue;
        }
        let error = scene.fails(&call)?;
        let said = error.msg + &error.details;
        ensure!(
            said.contains(MAC),
            "expected {MAC} to be named, came {said:?}"
        );
        scene.is_as(&before, "after the refusal of a MAC")?;
    }
    Ok(())
}

fn routes_have_their_attributes(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let routes = json!([
        {"dst": "10.8.0.0/16", "gw": "10.9.0.1", "mtu": 1300, "advmss": 1200, "priority": 7},
        {"dst": "10.7.0.0/16", "table": 100, "scope": 253},
    ]);
    scene
        .ipam
        .answer(&with(&answer(plugin.version()), &json!({"routes": routes})));
    let result = scene.add(&scene.conf())?;
    for (shown, echoed) in result["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .zip([0, 1])
    {
        ensure!(
            contains(shown, &routes[echoed]),
            "expected the routes {routes}, came {result}"
        );
    }
    ensure!(
        result["routes"][1].is_object(),
        "expected two routes, came {result}"
    );
    let shown = scene.pod.netns.ip_json(&["route", "show", "10.8.0.0/16"]);
    let expected = json!({"gateway": "10.9.0.1", "metric": 7});
    ensure!(
        contains(&shown[0], &expected),
        "expected {expected}, came {shown}"
    );
    let metrics = json!({"mtu": 1300, "advmss": 1200});
    ensure!(
        contains(&shown[0]["metrics"][0], &metrics),
        "expected {metrics}, came {shown}"
    );
    let shown = scene.pod.netns.ip_json(&["route", "show", "table", "100"]);
    let expected = json!({"dst": "10.7.0.0/16", "scope": "link", "dev": IFNAME});
    ensure!(
        contains(&shown[0], &expected),
        "expected {expected}, came {shown}"
    );
    Ok(())
}

fn no_address_is_tentative(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let mut answer = answer(plugin.version());
    answer["ips"] = json!([{"address": "2001:db8::5/64", "gateway": "2001:db8::1"}]);
    scene.ipam.answer(&answer);
    scene.add(&scene.conf())?;
    let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
    let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
    let ours = infos.iter().find(|info| info["local"] == "2001:db8::5");
    let is_usable = ours.is_some_and(|info| {
        ["tentative", "dadfailed"]
            .iter()
            .all(|flag| info[flag].is_null())
    });
    ensure!(is_usable, "expected 2001:db8::5 to be usable, came {link}");
    Ok(())
}

fn device_is_found_by_every_key(plugin: &Plugin) -> Verdict {
    const PCI: &str = "0000:00:1e.0";
    let Some(device) = &plugin.recipe.device else {
        return Err("the recipe has no device".to_owned());
    };
    let pci_path = format!("pci/devices/{PCI}");
    for keys in [
        json!({"device": device.name}),
        json!({"hwaddr": device.hwaddr}),
        json!({"pciBusID": PCI}),
        json!({"capabilities": {"deviceID": true}, "runtimeConfig": {"deviceID": PCI}}),
        json!({"kernelpath": "/sys/devices/system/nic"}),
    ] {
        let (mut scene, sys) = (Scene::new(plugin), FakeSys::new());
        let before = scene.state();
        sys.netdev(&pci_path, "net", &device.name);
        sys.bind(&pci_path, "ena");
        sys.netdev("nic", "net", &device.name);
        scene.node.bind(sys.path(), "/sys/bus");
        scene.node.bind(sys.path(), "/sys/devices/system");
        let conf = with(&with(&scene.conf(), &json!({"device": null})), &keys);
        scene.add(&conf)?;
        let link = scene.pod.netns.link(IFNAME).unwrap_or_default();
        ensure!(
            link["address"] == *device.hwaddr,
            "expected the device by {keys}, came {link}"
        );
        a_second_pod_is_refused(&scene, &scene.conf(), &device.name)?;
        scene.del(&conf)?;
        scene.is_as(&before, &format!("after ADD and DEL by {keys}"))?;
    }
    Ok(())
}

fn a_second_pod_is_refused(scene: &Scene<'_>, conf: &Value, device: &str) -> Verdict {
    let second = Pod::new("c2");
    let call = scene.call("ADD", conf).pod(&second, IFNAME);
    let error = scene.fails(&call)?;
    let said = error.msg + &error.details;
    ensure!(
        said.contains(device),
        "expected {device} to be named, came {said:?}"
    );
    ensure!(
        scene.pod.netns.link(IFNAME).is_some() && second.netns.links() == ["lo"],
        "expected the device to stay in the first pod, came {:?} in the second",
        second.netns.links()
    );
    Ok(())
}
