"""Compares the simulated EC2 and STS with the service models of botocore.

`requests` prints the parameters that the model has for the actions of the lab, for
`tests/harness/eni_lab/model.txt`. `answers EC2 STS TOKEN` drives the lab at the URLs of its EC2 and
its STS with boto3 and the AWS command line, and examines each answer element by element.
"""

import datetime
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import boto3
import botocore.session
from botocore.exceptions import ClientError

ACTIONS = """
AssignIpv6Addresses AssignPrivateIpAddresses AttachNetworkInterface CreateNetworkInterface
CreateSubnet CreateSubnetCidrReservation CreateTags CreateVpc DeleteNetworkInterface DeleteTags
DescribeInstances DescribeInstanceTypes DescribeNetworkInterfaces DescribeSecurityGroups
DescribeSubnets DescribeVpcs
DetachNetworkInterface GetSubnetCidrReservations ModifyNetworkInterfaceAttribute RunInstances
TerminateInstances UnassignIpv6Addresses UnassignPrivateIpAddresses
""".split()
ACTIONS_OF_STS = ["AssumeRoleWithWebIdentity"]


def plain_name(name, shape):
    """The name of a member in a request, as botocore's QuerySerializer has it."""
    return shape.serialization.get("name", name)


def query_name(name, shape):
    """The same of its EC2Serializer."""
    if "queryName" in shape.serialization:
        return shape.serialization["queryName"]
    name = shape.serialization.get("name", name)
    return name[0].upper() + name[1:]


def parameters(shape, prefix, seen, name_of=query_name):
    if shape.type_name == "structure":
        if shape.name in seen:
            return
        for name, member in shape.members.items():
            path = prefix + name_of(name, member)
            yield from parameters(member, path + ".", seen | {shape.name}, name_of)
    elif shape.type_name == "list":
        item = "N." if name_of is query_name else "member.N."
        yield from parameters(shape.member, prefix + item, seen, name_of)
    else:
        yield prefix.rstrip("."), shape.type_name


def requests(ec2, sts):
    print("# Made by tests/host/eni_lab/model.py of botocore's service models of EC2 and STS: an action, a")
    print("# parameter, its type, and whether the action needs it.")
    for model, actions, name_of in (ec2, ACTIONS, query_name), (sts, ACTIONS_OF_STS, plain_name):
        for action in actions:
            shape = model.operation_model(action).input_shape
            needed = {name_of(n, shape.members[n]) for n in shape.required_members}
            for name, kind in parameters(shape, "", frozenset(), name_of):
                is_needed = name.split(".")[0] in needed and name.count(".") <= 1
                print(action, name, kind, *(["required"] if is_needed else []))


def is_value(shape, text):
    if shape.type_name in ("integer", "long"):
        return text.lstrip("-").isdigit()
    if shape.type_name == "boolean":
        return text in ("true", "false")
    if shape.type_name == "timestamp":
        datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return not getattr(shape, "enum", None) or text in shape.enum


def wrong(shape, element, path):
    """What of an element the model does not have."""
    if shape.type_name == "structure":
        known = {m.serialization.get("name", n): m for n, m in shape.members.items()}
        names = [local(child) for child in element]
        yield from (f"{path}: {name} twice" for name in set(names) if names.count(name) > 1)
        for child in element:
            at = f"{path}.{local(child)}"
            if local(child) in known:
                yield from wrong(known[local(child)], child, at)
            else:
                yield f"{at}: not in the model"
    elif shape.type_name == "list":
        name = shape.member.serialization.get("name", "item")
        for child in element:
            if local(child) != name:
                yield f"{path}: {local(child)} in place of {name}"
            yield from wrong(shape.member, child, path)
    elif len(element) or not is_value(shape, element.text or ""):
        yield f"{path}: {element.text!r} is no {shape.type_name} {getattr(shape, 'enum', '')}"


def local(element):
    return element.tag.split("}")[-1]


class Answers:
    """Examines every answer that boto3 gets."""

    def __init__(self, model):
        self.model, self.wrong, self.seen = model, [], set()

    def examine(self, operation_model, response_dict, **_):
        if response_dict["status_code"] != 200:
            return
        action = operation_model.name
        self.seen.add(action)
        root = ElementTree.fromstring(response_dict["body"])
        version = self.model.metadata["apiVersion"]
        if local(root) != f"{action}Response" or f"/{version}/" not in root.tag:
            self.wrong.append(f"{action}: {root.tag}")
        for child in [c for c in root if local(c) in ("requestId", "ResponseMetadata")]:
            root.remove(child)
        shape = self.model.operation_model(action).output_shape
        if wrapper := shape and shape.serialization.get("resultWrapper"):
            if [local(child) for child in root] != [wrapper]:
                self.wrong.append(f"{action}: no {wrapper}")
            root = root[0]
        # An action without an answer of its own says that it was done.
        if shape is None:
            self.wrong += [f"{action}: {local(c)}" for c in root if local(c) != "return"]
        else:
            self.wrong += wrong(shape, root, action)


def expect(code, call, **parameters):
    try:
        call(**parameters)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
    else:
        raise AssertionError(f"no {code}: {parameters}")


def drive(ec2):
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    pods = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.4.0/24", Ipv6CidrBlock="2600:1f14:7:4::/64")
    subnet = pods["Subnet"]["SubnetId"]
    ec2.create_subnet_cidr_reservation(SubnetId=subnet, Cidr="10.7.4.128/28", ReservationType="prefix")
    native = ec2.create_subnet(VpcId=vpc, Ipv6Native=True, Ipv6CidrBlock="2600:1f14:7:6::/64")
    native = native["Subnet"]["SubnetId"]
    eni = ec2.create_network_interface(SubnetId=native)["NetworkInterface"]
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni["NetworkInterfaceId"]])
    assert "PrivateIpAddress" not in found["NetworkInterfaces"][0], found
    instance = ec2.run_instances(
        InstanceType="c5.large", MinCount=1, MaxCount=1, SubnetId=subnet, ImageId="ami-0ab00000000000001"
    )["Instances"][0]["InstanceId"]
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}]
    eni = ec2.create_network_interface(SubnetId=subnet, TagSpecifications=tags, Description="pods")
    eni = eni["NetworkInterface"]["NetworkInterfaceId"]
    attachment = ec2.attach_network_interface(NetworkInterfaceId=eni, InstanceId=instance, DeviceIndex=1)
    attachment = attachment["AttachmentId"]
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=eni, Attachment={"AttachmentId": attachment, "DeleteOnTermination": True}
    )
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": False})
    of_pods = {"NetworkInterfaceId": eni}
    ec2.assign_private_ip_addresses(**of_pods, PrivateIpAddresses=["10.7.4.70"])
    ec2.assign_private_ip_addresses(**of_pods, SecondaryPrivateIpAddressCount=1)
    ec2.assign_private_ip_addresses(**of_pods, Ipv4PrefixCount=1)
    ec2.assign_ipv6_addresses(**of_pods, Ipv6Addresses=["2600:1f14:7:4::70"])
    ec2.assign_ipv6_addresses(**of_pods, Ipv6PrefixCount=1)
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    prefixes = [p["Ipv4Prefix"] for p in found["Ipv4Prefixes"]]
    ipv6_prefixes = [p["Ipv6Prefix"] for p in found["Ipv6Prefixes"]]
    assert prefixes and ipv6_prefixes and len(found["PrivateIpAddresses"]) == 3, found
    pages = ec2.get_paginator("describe_network_interfaces").paginate(PaginationConfig={"PageSize": 5})
    assert eni in [e["NetworkInterfaceId"] for page in pages for e in page["NetworkInterfaces"]]
    ec2.describe_instances(InstanceIds=[instance])
    ec2.describe_instance_types(InstanceTypes=["c5.large", "c6in.32xlarge"])
    ec2.describe_subnets(SubnetIds=[subnet])
    ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    ec2.describe_vpcs(VpcIds=[vpc])
    ec2.get_subnet_cidr_reservations(SubnetId=subnet)
    ec2.create_tags(Resources=[eni], Tags=[{"Key": "c", "Value": "d"}])
    ec2.delete_tags(Resources=[eni], Tags=[{"Key": "c"}])
    expect("InvalidParameterValue", ec2.unassign_private_ip_addresses, **of_pods, PrivateIpAddresses=["10.7.4.99"])
    ec2.unassign_private_ip_addresses(**of_pods, PrivateIpAddresses=["10.7.4.70"])
    ec2.unassign_private_ip_addresses(**of_pods, Ipv4Prefixes=prefixes)
    ec2.unassign_ipv6_addresses(**of_pods, Ipv6Addresses=["2600:1f14:7:4::70"])
    ec2.unassign_ipv6_addresses(**of_pods, Ipv6Prefixes=ipv6_prefixes)
    ec2.detach_network_interface(AttachmentId=attachment)
    ec2.delete_network_interface(NetworkInterfaceId=eni)
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance])
    return vpc


def command_line(url, *arguments):
    aws = Path(sys.executable).parent / "aws"
    # Its first line has the place where it was installed, which is another one now.
    command = [sys.executable, aws, "--endpoint-url", url, "--output", "json", "ec2", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def drive_sts(sts, token):
    role = {"RoleArn": "arn:aws:iam::123456789012:role/pods", "RoleSessionName": "lab"}
    sts.assume_role_with_web_identity(**role, WebIdentityToken=token)
    assume = sts.assume_role_with_web_identity
    expect("InvalidIdentityToken", assume, **role, WebIdentityToken="nobody's")


def examined(model, actions, url, drive, *arguments):
    """What is wrong with the answers of a service to what `drive` asks, and what that returns."""
    service = model.service_name
    client = boto3.client(service, endpoint_url=url)
    answers = Answers(model)
    client.meta.events.register(f"before-parse.{service}.*", answers.examine)
    driven = drive(client, *arguments)
    untried = [f"{action} was not tried" for action in set(actions) - answers.seen]
    return answers.wrong + untried, driven


def answers(ec2, sts, url, url_of_sts, token):
    wrong, vpc = examined(ec2, ACTIONS, url, drive)
    wrong += examined(sts, ACTIONS_OF_STS, url_of_sts, drive_sts, token)[0]
    said = command_line(url, "describe-vpcs", "--filters", f"Name=vpc-id,Values={vpc}")
    if said.returncode != 0 or json.loads(said.stdout)["Vpcs"][0]["VpcId"] != vpc:
        wrong.append(f"aws ec2 describe-vpcs: {said}")
    said = command_line(url, "describe-subnets", "--subnet-ids", "subnet-0ab0000000000ffff")
    if said.returncode == 0 or "InvalidSubnetID.NotFound" not in said.stderr:
        wrong.append(f"aws ec2 describe-subnets: {said}")
    print("\n".join(sorted(set(wrong))))
    return 1 if wrong else 0


def main():
    session = botocore.session.get_session()
    models = [session.get_service_model(service) for service in ("ec2", "sts")]
    if sys.argv[1] == "requests":
        requests(*models)
        return 0
    return answers(*models, *sys.argv[2:])


sys.exit(main())
