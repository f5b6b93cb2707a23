//! What holds for an interface of every plugin that makes one. The tests of each of them
//! call these.

use std::fs;
use std::net::Ipv4Addr;

use harness::{ADVERTISED, Listener, wait_until};
use serde_json::json;

use super::fixture::{Fixture, OWN_IPV4, OWN_IPV6};

/// All that IPv6 has in the pod but for what the kernel makes on every link.
fn configured(fixture: &Fixture) -> (Vec<String>, String) {
    let routes = fixture.pod.ip(&["-6", "route", "show", "default"]);
    (fixture.pod.addresses("net1"), routes)
}

pub(crate) fn a_router_advertisement_configures_nothing(plugin: &'static str) {
    for keys in [json!({}), json!({"sourceRouting": true})] {
        let fixture = Fixture::new(plugin).without_ipv6();
        fixture.add(&keys);
        fixture.await_handling();
        fixture.sibling.advertise_router("r0");
        fixture.await_handling();
        let expected = (vec!["10.9.0.5/24".to_owned()], String::new());
        assert_eq!(configured(&fixture), expected, "{keys}");
    }
}

pub(crate) fn router_advertisements_can_be_asked_for(plugin: &'static str) {
    let fixture = Fixture::new(plugin).without_ipv6();
    fixture.add(&json!({"acceptRa": true}));
    fixture.await_handling();
    fixture.sibling.advertise_router("r0");
    wait_until("the pod has configured itself", || {
        let (addresses, routes) = configured(&fixture);
        let has_address = addresses.iter().any(|a| a.starts_with(ADVERTISED));
        has_address && routes.contains("proto ra")
    });
}

pub(crate) fn a_redirect_changes_no_route(plugin: &'static str) {
    let fixture = Fixture::new(plugin).without_ipv6();
    fixture.add(&json!({}));
    let [destination, gateway] = [Ipv4Addr::new(10, 8, 0, 1), Ipv4Addr::new(10, 9, 0, 66)];
    let redirect = || {
        // The pod believes in a gateway that it can reach.
        let ping = ["-c", "1", "-w", "30", "-I", "10.9.0.66", "10.9.0.5"];
        fixture.sibling.tool("ping", &ping);
        fixture.sibling.redirect(OWN_IPV4, destination, gateway);
        fixture.sibling.tool("ping", &ping);
        fixture.pod.ip(&["route", "get", "10.8.0.1"])
    };
    let way = redirect();
    assert!(way.contains("via 10.9.0.1 "), "{way}");
    // The neighbour would succeed if it were let.
    fixture.pod.run(|| {
        let accept = "/proc/sys/net/ipv4/conf/net1/accept_redirects";
        fs::write(accept, "1").expect("it is writable");
    });
    wait_until("the redirect is believed", || {
        redirect().contains("via 10.9.0.66 ")
    });
}

pub(crate) fn neighbours_are_told_of_the_addresses(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let heard = Listener::icmpv6(&fixture.sibling);
    fixture.add(&json!({}));
    fixture.knows_the_ipv4_address();
    heard.await_advertisement(OWN_IPV6);
    assert_eq!(fixture.pod.ip(&["-4", "neighbour"]), "");
}
