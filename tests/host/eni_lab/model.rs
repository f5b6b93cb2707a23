//! The simulated EC2 and STS against the service models that the AWS SDKs are made of: botocore's.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::lab::{Vpc, address, listener};
use harness::{python_with, repository};

/// botocore's version is that of boto3.
const VERSION: &str = "1.44.8";

fn model(arguments: &[&str]) -> Output {
    let boto3 = format!("boto3=={VERSION}");
    let python = python_with("botocore", VERSION, &[&boto3, "awscli==1.46.3"]);
    let script = repository().join("tests/host/eni_lab/model.py");
    let mut command = Command::new(python);
    command.arg(script).args(arguments);
    command
        .env("AWS_ACCESS_KEY_ID", "AKIDLAB")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("AWS_DEFAULT_REGION", "us-west-2");
    command.output().expect("Python can be executed")
}

#[track_caller]
fn assert_done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    said
}

#[test]
fn boto3_and_the_aws_cli_find_every_answer_in_the_model() {
    let vpc = Vpc::new();
    let sts = listener();
    let urls = [vpc.ec2, address(&sts)].map(|address| format!("http://{address}"));
    vpc.lab.serve_sts(sts);
    let token = vpc.lab.issue_token(Duration::from_secs(3600));
    assert_done(&model(&["answers", &urls[0], &urls[1], &token]));
    assert_eq!(vpc.lab.uses_of_token(&token), 1);
    assert_eq!(vpc.lab.malformed_requests(), [""; 0]);
}

#[test]
fn requests_are_compared_with_the_parameters_of_the_model() {
    let path = repository().join("tests/harness/eni_lab/model.txt");
    let known = fs::read_to_string(path).unwrap();
    assert_eq!(known, assert_done(&model(&["requests"])));
}

#[test]
fn a_request_that_the_model_does_not_have_is_noticed() {
    let vpc = Vpc::new();
    let eni = vpc.eni.as_str();
    let requests = [
        (
            "AssignPrivateIpAddresses",
            vec![("PrivateIpAddress.1", "10.0.4.70")],
        ),
        (
            "AssignPrivateIpAddresses",
            vec![
                ("NetworkInterfaceId", eni),
                ("PrivateIpAddress.2", "10.0.4.70"),
            ],
        ),
        (
            "AssignPrivateIpAddresses",
            vec![("NetworkInterfaceId", eni), ("AllowReassignment", "yes")],
        ),
        (
            "DescribeNetworkInterfaces",
            vec![("Filter.1.Values.1", "x")],
        ),
        ("DescribeInstances", vec![("MaxResults", "many")]),
        ("DescribeEverything", vec![]),
    ];
    for (number, (action, parameters)) in requests.iter().enumerate() {
        vpc.call(action, parameters);
        let noticed = vpc.lab.malformed_requests();
        assert_eq!(noticed.len(), number + 1, "{noticed:#?}");
        assert!(noticed[number].starts_with(action), "{noticed:#?}");
    }
}
