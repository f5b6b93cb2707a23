//! ipvlan's configuration: what is accepted means the same when it is printed and read
//! again, and no name in it leads anywhere.
#![no_main]

use common::attach::Configuration;
use common::cni::args::{CmdArgs, Delegates};
use common::cni::config::Document;
use common::cni::ipam::IpamPlugin;
use common::error::Result;
use ipvlan::config::{Master, NetConf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(conf) = fuzz::conf(data) else {
        assert!(Document::parse(data).is_err());
        return;
    };
    let again = fuzz::printed(&conf).expect("what was printed is a configuration");
    let outcome = read(&fuzz::add(conf, ""));
    let repeated = read(&fuzz::add(again, ""));
    assert_eq!(shown(&outcome), shown(&repeated));
    match outcome {
        Ok((common, conf)) => assert_usable(&common, &conf),
        Err(error) => fuzz::assert_reportable(&error),
    }
});

fn read(args: &CmdArgs) -> Result<(Configuration, NetConf)> {
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let common = Configuration::of(&args.conf)?;
    Ok((common, NetConf::for_add(args, prev_result.as_ref())?))
}

fn shown(outcome: &Result<(Configuration, NetConf)>) -> String {
    match outcome {
        Ok(conf) => format!("{conf:?}"),
        // The place in the text that an error names is another one when it is printed.
        Err(error) => error.code.0.to_string(),
    }
}

fn assert_usable(common: &Configuration, conf: &NetConf) {
    assert_ne!(conf.mtu, Some(0));
    assert!(conf.mode.number() <= 2 && conf.flag.number() <= 2);
    assert_ne!(conf.master, Master::Named(String::new()));
    if common.ipam.contains('/') {
        assert!(IpamPlugin::find(&common.ipam, &Delegates::in_path("/bin:/usr/bin")).is_err());
    }
}
