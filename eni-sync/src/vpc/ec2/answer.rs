//! What EC2 answers, turned into our own types.

use std::collections::BTreeMap;
use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::types::{AttachmentStatus, NetworkInterface};
use common::address::parse_address;
use common::attach::inventory::NO_MANAGE_TAG;

use super::types::Description;
use crate::vpc::failure::{Failure, Kind, causes, chain};
use crate::vpc::http;

/// What EC2 says of an ENI.
pub(super) fn description(eni: &NetworkInterface) -> Description {
    let attachment = eni.attachment();
    let tags = eni.tag_set().iter();
    let tags = tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())));
    let tags: BTreeMap<String, String> = tags.collect();
    let tagged = tags.get(NO_MANAGE_TAG).is_some_and(|value| value == "true");
    let groups = eni.groups().iter().filter_map(|group| group.group_id());
    let mut primary = Vec::new();
    let mut secondary = Vec::new();
    let v4 = eni.private_ip_addresses().iter();
    let v4 = v4.map(|a| (a.private_ip_address(), a.primary() == Some(true)));
    let v6 = eni.ipv6_addresses().iter();
    let v6 = v6.map(|a| (a.ipv6_address(), a.is_primary_ipv6() == Some(true)));
    for (text, is_primary) in v4.chain(v6) {
        let list = if is_primary {
            &mut primary
        } else {
            &mut secondary
        };
        list.extend(text.and_then(|text| parse_address(text).ok()));
    }
    let v4 = eni.ipv4_prefixes().iter().filter_map(|p| p.ipv4_prefix());
    let v6 = eni.ipv6_prefixes().iter().filter_map(|p| p.ipv6_prefix());
    Description {
        id: eni.network_interface_id().unwrap_or_default().to_owned(),
        mac: eni.mac_address().unwrap_or_default().to_lowercase(),
        instance_id: attachment.and_then(|a| a.instance_id()).map(str::to_owned),
        network_card: index(attachment.and_then(|a| a.network_card_index())),
        device_index: index(attachment.and_then(|a| a.device_index())),
        attachment_id: attachment
            .and_then(|a| a.attachment_id())
            .map(str::to_owned),
        attach_time: attachment
            .and_then(|a| a.attach_time())
            .and_then(|time| u64::try_from(time.secs()).ok())
            .unwrap_or(0),
        is_detaching: attachment.and_then(|a| a.status()) == Some(&AttachmentStatus::Detaching),
        subnet_id: eni.subnet_id().unwrap_or_default().to_owned(),
        vpc_id: eni.vpc_id().unwrap_or_default().to_owned(),
        tags,
        description: eni.description().unwrap_or_default().to_owned(),
        requester_id: eni.requester_id().unwrap_or_default().to_owned(),
        requester_managed: eni.requester_managed() == Some(true),
        no_manage: tagged,
        security_groups: groups.map(str::to_owned).collect(),
        source_dest_check: eni.source_dest_check() != Some(false),
        delete_on_termination: attachment.and_then(|a| a.delete_on_termination()) == Some(true),
        primary,
        secondary,
        prefixes: v4.chain(v6).filter_map(|text| text.parse().ok()).collect(),
    }
}

fn index(number: Option<i32>) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The failure that an error of the SDK stands for.
pub(super) fn failure<E>(action: &'static str, cause: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let (Some(code), message) = (cause.code(), cause.message()) {
        let answer = format!("{code}: {}", message.unwrap_or_default());
        let status = cause.raw_response().map_or(0, |raw| raw.status().as_u16());
        let kind = Failure::kind_of(code, status);
        return Failure {
            action,
            kind,
            code: code.to_owned(),
            request_id: cause.request_id().map(str::to_owned),
            answer,
        };
    }
    let is_about_credentials = causes(cause)
        .iter()
        .any(|cause| cause.is::<CredentialsError>());
    let kind = match is_about_credentials {
        true => Kind::Credentials,
        false => Kind::Unanswered,
    };
    let answer = match http::proxy().filter(|_| kind == Kind::Unanswered) {
        Some(proxy) => format!("{} ({proxy} is set)", chain(cause)),
        None => chain(cause),
    };
    Failure {
        action,
        kind,
        code: format!("{kind:?}"),
        request_id: None,
        answer,
    }
}
