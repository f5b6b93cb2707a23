//! The configuration of host-local: read as leniently as by Go, and validated once. No file
//! is read or written here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use common::address::{Cidr, parse_address};
use common::cni::args::{ConfArgs, parse_cni_args};
use common::cni::result::Route;
use common::error::{Error, ErrorCode, Result};
use common::say;

use crate::exclude;
use crate::range::RangeSpec;
use crate::ranges_file::RANGES_FILE;
use crate::raw_range::{RawRange, specs};
use crate::sources::{Rules, Sources};

/// The default of `dataDir`, which has a directory for each network.
/// The `dataDir` of a network that names none.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";
/// The start of the message when a key has a value of the wrong type.
const UNREADABLE: &str = "failed to load the host-local configuration";

/// The configuration for ADD, CHECK and STATUS.
#[derive(Debug)]
pub struct Config {
    /// The directory of the network's reservations.
    pub directory: PathBuf,
    /// The sources of the range sets; ADD reserves one address of each set.
    pub sources: Sources,
    /// The addresses that the runtime or the user requests, in their order.
    pub requested: Vec<IpAddr>,
    /// The routes for the result.
    pub routes: Vec<Route>,
    /// The file with the DNS settings for the result.
    pub resolv_conf: Option<PathBuf>,
}

/// The keys of the document that host-local reads. Addresses are texts here, too.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawConf {
    cni_version: String,
    ipam: Option<RawIpam>,
    runtime_config: RawRuntimeConfig,
    args: RawArgs,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawIpam {
    subnet: Option<String>,
    range_start: String,
    range_end: String,
    gateway: String,
    ranges: Vec<Vec<RawRange>>,
    routes: Vec<Route>,
    data_dir: String,
    resolv_conf: String,
    exclude: Value,
    ranges_file: Value,
}

/// The keys that request addresses.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawRequests {
    runtime_config: RawRuntimeConfig,
    args: RawArgs,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawRuntimeConfig {
    ips: Vec<String>,
    ip_ranges: Vec<Vec<RawRange>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawCniArgs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCniArgs {
    ips: Vec<String>,
}

/// The keys that DEL and GC read: other invalid keys must not prevent a release.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLocation {
    ipam: RawDataDir,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawDataDir {
    data_dir: String,
}

impl Config {
    /// Reads the configuration of one command; `cni_args` is empty for a command without
    /// `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 6 when a value has the wrong type, 4 when `CNI_ARGS` is malformed, 7 for every
    /// other invalid value, with the text of the Go plugin.
    pub fn read(conf: &ConfArgs, cni_args: &str) -> Result<Self> {
        let raw: RawConf = conf.document.read(UNREADABLE)?;
        let ipam = raw
            .ipam
            .ok_or_else(|| Error::config("IPAM config missing 'ipam' key"))?;
        let specs = configured_specs(&raw.runtime_config.ip_ranges, &ipam)?;
        let lists = [&raw.args.cni.ips, &raw.runtime_config.ips];
        let requested = requested(cni_args, lists)?;
        let rules = Rules {
            exclude: exclude::parse(&ipam.exclude).map_err(Error::config)?,
            version: conf.version,
            version_text: raw.cni_version,
        };
        let ranges_file = ranges_file(&ipam.ranges_file)?;
        Ok(Self {
            sources: Sources::new(specs, ranges_file, rules)?,
            requested,
            directory: network_directory(&ipam.data_dir, &conf.network)?,
            routes: ipam.routes,
            resolv_conf: absolute("resolvConf", &ipam.resolv_conf)?,
        })
    }
}

/// The addresses that the runtime or the user requests, for other IPAM plugins. `unreadable`
/// is the start of the message when they cannot be read.
///
/// # Errors
/// Code 6 when a value has the wrong type, 4 when `CNI_ARGS` is malformed, 7 for a text that
/// is not an address.
pub fn requested_addresses(
    conf: &ConfArgs,
    cni_args: &str,
    unreadable: &str,
) -> Result<Vec<IpAddr>> {
    let raw: RawRequests = conf.document.read(unreadable)?;
    let lists = [&raw.args.cni.ips, &raw.runtime_config.ips];
    requested(cni_args, lists)
}

/// The directory of the network's reservations, for the commands that need only that.
///
/// # Errors
/// Code 6 or 7 when `dataDir` is not an absolute path.
pub fn directory(conf: &ConfArgs) -> Result<PathBuf> {
    let raw: RawLocation = conf.document.read(UNREADABLE)?;
    network_directory(&raw.ipam.data_dir, &conf.network)
}

/// As [`directory`], for DEL: `None` when `dataDir` is not absolute. No ADD succeeds then,
/// so there is nothing to release, and an error would make the runtime repeat the DEL for
/// ever.
///
/// # Errors
/// Code 6 when `dataDir` is not a text.
pub fn directory_if_usable(conf: &ConfArgs) -> Result<Option<PathBuf>> {
    match directory(conf) {
        Err(error) if error.code == ErrorCode::NETWORK_CONFIG => {
            say!("nothing to release: {error}");
            Ok(None)
        }
        directory => directory.map(Some),
    }
}

fn network_directory(data_dir: &str, network: &str) -> Result<PathBuf> {
    let data_dir = absolute("dataDir", data_dir)?;
    let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    Ok(data_dir.join(network))
}

/// The path in `key`; `None` when it is empty. A relative path is refused, because it would
/// depend on the working directory of the runtime.
fn absolute(key: &str, value: &str) -> Result<Option<PathBuf>> {
    if value.is_empty() {
        return Ok(None);
    }
    if !Path::new(value).is_absolute() || value.contains('\0') {
        return Err(Error::config(format!(
            "{key} {value:?} is not an absolute path"
        )));
    }
    Ok(Some(PathBuf::from(value)))
}

/// The path in `rangesFile`; `None` when it is missing or empty. Unlike for the keys of the
/// Go plugin, an error of the type names the value.
fn ranges_file(value: &Value) -> Result<Option<PathBuf>> {
    match value {
        Value::Null => Ok(None),
        Value::String(path) => absolute(RANGES_FILE, path),
        other => Err(Error::config(format!(
            "{RANGES_FILE} {other} is not an absolute path"
        ))),
    }
}

/// All configured range sets: those of the runtime, then the range directly in `ipam`, then
/// `ranges`. Their order determines the numbers of the `last_reserved_ip` files.
fn configured_specs(of_runtime: &[Vec<RawRange>], ipam: &RawIpam) -> Result<Vec<Vec<RangeSpec>>> {
    let inline = ipam.subnet.as_ref().map(|subnet| RawRange {
        subnet: Some(subnet.clone()),
        range_start: ipam.range_start.clone(),
        range_end: ipam.range_end.clone(),
        gateway: ipam.gateway.clone(),
        // At this place the key `exclude` applies to all ranges.
        exclude: Value::Null,
    });
    let inline: Vec<Vec<RawRange>> = inline.map(|range| vec![range]).into_iter().collect();
    specs(of_runtime.iter().chain(&inline).chain(&ipam.ranges))
}

/// The requested addresses: of `CNI_ARGS`, of `args.cni.ips`, of `runtimeConfig.ips`. An
/// address in several of these is requested once. Errors of the document are reported before
/// those of the environment.
fn requested(cni_args: &str, lists: [&Vec<String>; 2]) -> Result<Vec<IpAddr>> {
    let texts = lists.into_iter().flatten();
    let listed: Result<Vec<Option<IpAddr>>, String> =
        texts.map(|text| parse_requested(text)).collect();
    let listed = listed.map_err(Error::config)?;
    let mut requested: Vec<IpAddr> = requested_by_cni_args(cni_args)?.into_iter().collect();
    for address in listed {
        let nothing = || Error::config("cannot understand ip: IP <nil> not v4 nor v6");
        let address = address.ok_or_else(nothing)?;
        if !requested.contains(&address) {
            requested.push(address);
        }
    }
    Ok(requested)
}

/// The address in `CNI_ARGS`, whose grammar is that of libcni's `LoadArgs`.
fn requested_by_cni_args(cni_args: &str) -> Result<Option<IpAddr>> {
    let malformed = |msg: String| Error::new(ErrorCode::ENVIRONMENT, msg);
    let mut requested = None;
    let mut ignore_unknown = false;
    let mut unknown = Vec::new();
    for (key, value) in parse_cni_args(cni_args)? {
        let unparsable = |cause: String| {
            let pair = format!("{key}={value}");
            malformed(format!(
                "ARGS: error parsing value of pair {pair:?}: {cause}"
            ))
        };
        match key {
            "IP" => requested = parse_requested(value).map_err(unparsable)?,
            "IgnoreUnknown" => ignore_unknown = parse_bool(value).map_err(unparsable)?,
            _ => unknown.push(format!("\"{key}={value}\"")),
        }
    }
    if unknown.is_empty() || ignore_unknown {
        return Ok(requested);
    }
    let unknown = unknown.join(" ");
    Err(malformed(format!("ARGS: unknown args [{unknown}]")))
}

/// Reads an address with or without a prefix length, which is ignored.
fn parse_requested(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = match text.parse::<Cidr>() {
        Ok(cidr) => Ok(cidr.address().to_canonical()),
        Err(_) => parse_address(text),
    };
    address
        .map(Some)
        .map_err(|_| format!("invalid IP address {text}"))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(format!("boolean unmarshal error: invalid input {other}")),
    }
}
