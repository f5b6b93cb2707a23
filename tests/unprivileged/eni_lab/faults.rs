//! What goes wrong: permissions, credentials, throttling, and the script of faults.

use std::thread;
use std::time::{Duration, Instant};

use fixtures::lab::{ASSIGN, DESCRIBE, PATIENCE, Vpc, form, ip, named, send, send_within};
use harness::eni_lab::{Bucket, Buckets, Fault, Hold, Lab};

fn error(status: u16, code: &str) -> Fault {
    Fault::Error {
        status,
        code: code.to_owned(),
        message: "as the test wants".to_owned(),
    }
}

#[test]
fn the_script_hits_the_next_calls_of_its_action() {
    let vpc = Vpc::new();
    vpc.lab.fail_next(ASSIGN, 2, error(500, "InternalError"));
    vpc.describe().ok();
    for _ in 0..2 {
        let (status, code, message) = vpc.assign(&["10.0.4.70"]).error();
        assert_eq!((status, code.as_str()), (500, "InternalError"));
        assert_eq!(message, "as the test wants");
    }
    assert!(vpc.addresses().is_empty());
    vpc.assign(&["10.0.4.70"]).ok();
}

#[test]
fn the_script_hits_one_later_call() {
    let vpc = Vpc::new();
    vpc.lab.fail_nth(ASSIGN, 2, Fault::Throttle);
    vpc.lab.fail_nth(ASSIGN, 3, Fault::ExpiredCredentials);
    vpc.assign(&["10.0.4.70"]).ok();
    let (status, code, _) = vpc.assign(&["10.0.4.71"]).error();
    assert_eq!((status, code.as_str()), (503, "RequestLimitExceeded"));
    assert_eq!(vpc.assign(&["10.0.4.71"]).error().1, "RequestExpired");
    vpc.assign(&["10.0.4.71"]).ok();
}

/// An ambiguous answer.
#[test]
fn a_connection_may_be_lost_before_and_after_the_call_took_effect() {
    let vpc = Vpc::new();
    vpc.lab.fail_next(ASSIGN, 1, Fault::DropBeforeCommit);
    assert!(vpc.try_assign("10.0.4.70").is_none());
    assert!(vpc.addresses().is_empty());
    vpc.lab.fail_next(ASSIGN, 1, Fault::DropAfterCommit);
    assert!(vpc.try_assign("10.0.4.70").is_none());
    assert_eq!(vpc.addresses(), ["10.0.4.70"]);
    vpc.lab.fail_next(ASSIGN, 1, Fault::Garbage);
    let reply = vpc.assign(&["10.0.4.71"]).ok();
    assert!(!reply.body.contains("Response"), "{}", reply.body);
    assert_eq!(vpc.addresses(), ["10.0.4.70", "10.0.4.71"]);
}

#[test]
fn a_call_may_hang_until_its_client_is_gone() {
    let vpc = Vpc::new();
    vpc.lab.fail_next(ASSIGN, 1, Fault::Hang);
    vpc.lab.fail_nth(ASSIGN, 2, Fault::HangAfterCommit);
    thread::scope(|scope| {
        for (address, time) in [("10.0.4.70", 200), ("10.0.4.71", 1000)] {
            let body = form(
                ASSIGN,
                &named(&vpc.eni, "PrivateIpAddress", &[address]).pairs(),
            );
            let header = "authorization: AWS4-HMAC-SHA256 Credential=AKIDLAB/1/us-west-2/ec2/aws4_request, Signature=0";
            let count = vpc.lab.calls().get(ASSIGN).copied().unwrap_or_default();
            let client = scope
                .spawn(move || send_within(Duration::from_millis(time), vpc.ec2, header, &body));
            assert!(vpc.lab.wait_for_call(ASSIGN, count + 1, PATIENCE));
            assert!(client.join().expect("it gives up").is_none());
        }
    });
    assert_eq!(vpc.addresses(), ["10.0.4.71"]);
}

#[test]
fn a_call_may_take_longer() {
    let vpc = Vpc::new();
    let time = Duration::from_millis(100);
    vpc.lab.fail_next(ASSIGN, 1, Fault::Delay(time));
    let began = Instant::now();
    vpc.assign(&["10.0.4.70"]).ok();
    assert!(began.elapsed() >= time);
    vpc.lab.rules(|r| {
        r.latency = time;
        r.latency_of.insert(DESCRIBE.to_owned(), 2 * time);
    });
    let began = Instant::now();
    vpc.assign(&["10.0.4.71"]).ok();
    assert!(began.elapsed() >= time);
    let began = Instant::now();
    vpc.describe().ok();
    assert!(began.elapsed() >= 2 * time);
}

/// The owner dies between the refusal and the take-over.
#[test]
fn an_instance_may_die_during_a_call() {
    let vpc = Vpc::new();
    let (owner, other) = vpc.another();
    vpc.lab.assign(&other, &[ip("10.0.4.70")]);
    vpc.lab
        .fail_next(ASSIGN, 1, Fault::TerminateInstance(owner));
    vpc.assign(&["10.0.4.70"]).ok();
    assert_eq!(vpc.addresses(), ["10.0.4.70"]);
}

#[test]
fn calls_are_held_before_they_take_effect_and_after() {
    let vpc = Vpc::new();
    for (hold, held) in [(Hold::BeforeCommit, 0), (Hold::AfterCommit, 1)] {
        vpc.lab.hold(ASSIGN, hold);
        thread::scope(|scope| {
            let call = scope.spawn(|| vpc.assign(&["10.0.4.70"]));
            assert!(vpc.lab.wait_until(PATIENCE, |lab| lab.held() == 1));
            assert_eq!(vpc.addresses().len(), held, "{hold:?}");
            vpc.describe().ok();
            vpc.lab.release_held();
            call.join().expect("it is answered").ok();
        });
        assert_eq!(vpc.lab.held(), 0);
        vpc.lab.unassign(&vpc.eni, &[ip("10.0.4.70")]);
    }
}

/// A process that is killed while its call is held.
#[test]
fn a_held_call_ends_with_its_client() {
    let vpc = Vpc::new();
    vpc.lab.hold("DescribeVpcs", Hold::BeforeCommit);
    let body = form("DescribeVpcs", &[]);
    let answer = send_within(Duration::from_millis(100), vpc.ec2, "x: y", &body);
    assert!(answer.is_none());
    assert!(vpc.lab.wait_until(PATIENCE, |lab| lab.held() == 0));
}

#[test]
fn an_action_without_permission_is_refused() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| {
        r.denied_actions.insert(ASSIGN.to_owned());
    });
    let (status, code, message) = vpc.assign(&["10.0.4.70"]).error();
    assert_eq!((status, code.as_str()), (403, "UnauthorizedOperation"));
    assert_eq!(message, "You are not authorized to perform this operation.");
}

/// The condition on the tag, by which untagged interfaces are out of reach.
#[test]
fn the_policy_may_demand_the_tag() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| r.tag_condition = true);
    vpc.assign(&["10.0.4.70"]).ok();
    vpc.lab
        .untag_eni(&vpc.eni, "node.k8s.amazonaws.com/no_manage");
    assert_eq!(
        vpc.unassign(&["10.0.4.70"]).error().1,
        "UnauthorizedOperation"
    );
    vpc.describe().ok();
}

/// Whether a call that can never succeed shows a missing permission.
#[test]
fn permission_is_checked_before_or_after_the_parameters_as_the_switch_says() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| {
        r.denied_actions.insert(ASSIGN.to_owned());
    });
    let probe = || vpc.assign(&["192.0.2.1"]).error().1;
    assert_eq!(probe(), "UnauthorizedOperation");
    vpc.lab.rules(|r| r.authorise_before_validate = false);
    assert_eq!(probe(), "InvalidParameterValue");
    assert_eq!(
        vpc.assign(&["10.0.4.70"]).error().1,
        "UnauthorizedOperation"
    );
    assert!(vpc.addresses().is_empty());
}

/// `AuthFailure`, for keys nobody knows and requests without a signature.
#[test]
fn a_call_needs_credentials_that_are_known() {
    let vpc = Vpc::new();
    let page = [("MaxResults", "5")];
    let (status, code, _) = vpc.call_as("AKIDNOBODY", DESCRIBE, &page).error();
    assert_eq!((status, code.as_str()), (401, "AuthFailure"));
    vpc.lab.allow_key("AKIDNOBODY");
    vpc.call_as("AKIDNOBODY", DESCRIBE, &page).ok();
    vpc.call_as("AKIDLAB", DESCRIBE, &page).ok();
    let unsigned = send(vpc.ec2, "POST", "/", &[], &form(DESCRIBE, &page));
    let unsigned = unsigned.expect("there is an answer");
    assert_eq!(unsigned.error().1, "AuthFailure");
    let elsewhere = "authorization: AWS4-HMAC-SHA256 Credential=AKIDLAB/1/eu-west-1/ec2/aws4_request, Signature=0";
    let elsewhere = send(vpc.ec2, "POST", "/", &[elsewhere], &form(DESCRIBE, &page));
    let elsewhere = elsewhere.expect("there is an answer");
    assert_eq!(elsewhere.error().1, "AuthFailure");
}

/// The code is in no document.
#[test]
fn expired_credentials_are_refused() {
    let vpc = Vpc::new();
    let old = vpc.lab.access_key(&vpc.node);
    vpc.lab.expire_credentials();
    let call = || {
        vpc.call_as(&old, DESCRIBE, &[("MaxResults", "5")])
            .error()
            .1
    };
    assert_eq!(call(), "RequestExpired");
    vpc.lab
        .rules(|r| r.expired_code = "ExpiredToken".to_owned());
    assert_eq!(call(), "ExpiredToken");
    vpc.describe().ok();
}

/// A bucket for each action; calls that fail take tokens too.
#[test]
fn each_action_has_a_bucket_of_tokens() {
    let vpc = Vpc::new();
    let bucket = |burst| Bucket {
        burst,
        per_second: 0.0,
    };
    vpc.lab.rules(|r| {
        r.describe_needs_filter = false;
        r.token_buckets = Some(Buckets {
            mutating: bucket(2.0),
            describing: bucket(3.0),
            unfiltered: bucket(1.0),
        });
    });
    vpc.assign(&["10.0.4.70"]).ok();
    assert_eq!(
        vpc.assign(&["192.0.2.1"]).error().1,
        "InvalidParameterValue"
    );
    let (status, code, message) = vpc.assign(&["10.0.4.71"]).error();
    assert_eq!((status, code.as_str()), (503, "RequestLimitExceeded"));
    assert_eq!(message, "Request limit exceeded.");
    vpc.unassign(&["10.0.4.70"]).ok();
    for _ in 0..3 {
        vpc.describe().ok();
    }
    assert_eq!(vpc.describe().error().1, "RequestLimitExceeded");
    vpc.call("DescribeVpcs", &[]).ok();
    let again = vpc.call("DescribeVpcs", &[]);
    assert_eq!(again.error().1, "RequestLimitExceeded");
}

#[test]
fn a_bucket_fills_again() {
    let vpc = Vpc::new();
    let bucket = Bucket {
        burst: 1.0,
        per_second: 50.0,
    };
    vpc.lab.rules(|r| {
        r.token_buckets = Some(Buckets {
            describing: bucket,
            ..Buckets::default()
        });
    });
    let answered = |_: &Lab| vpc.describe().status == 200;
    for _ in 0..3 {
        assert!(vpc.lab.wait_until(PATIENCE, answered));
    }
}

#[test]
fn a_script_can_be_posted() {
    let vpc = Vpc::new();
    let post = |script: &str| {
        send(vpc.ec2, "POST", "/lab/faults", &[], script).expect("there is an answer")
    };
    let script = format!(
        r#"[{{"action": "{ASSIGN}", "nth": 2, "times": 2, "fault": "throttle"}},
            {{"action": "{ASSIGN}", "fault": {{"error": {{"status": 500, "code": "InternalError", "message": ""}}}}}},
            {{"action": "{DESCRIBE}", "fault": {{"delay": 1}}}},
            {{"action": "None", "times": 0, "fault": {{"terminate-instance": "i-1"}}}}]"#
    );
    assert!(post(&script).ok().body.contains("\"armed\": 4"));
    let codes: Vec<u16> = (0..4).map(|_| vpc.assign(&["10.0.4.70"]).status).collect();
    assert_eq!(codes, [500, 503, 503, 200]);
    vpc.describe().ok();
    assert_eq!(vpc.call("None", &[]).error().1, "InvalidAction");
    for script in [
        "{}",
        "nonsense",
        r#"[{"action": "x", "fault": "earthquake"}]"#,
    ] {
        assert_eq!(post(script).status, 400, "{script}");
    }
}
