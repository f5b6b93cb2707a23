//! The smallest client of EC2's Query API, with the retries of the SDKs that the
//! replayed programs use. It signs as they do, but for the signature itself, which the
//! simulated EC2 does not verify.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use harness::eni_lab::timestamp;

/// What EC2 answers when there were too many requests.
const THROTTLED: u16 = 503;
const SILENCE: Duration = Duration::from_secs(60);

/// How an SDK repeats what EC2 has refused because there were too many requests.
#[derive(Debug, Clone, Copy)]
pub enum Retries {
    /// boto3's default, the mode "legacy": five attempts in all, and before the n-th
    /// repetition a random part of 2^(n-1) seconds. Source: botocore, `retryhandler.py`
    /// and `data/_retry.json`.
    Boto3,
    /// The default of the AWS SDK for Go, version 1: four attempts, and before the n-th
    /// repetition 0.5 to 1 seconds times 2^(n-1). Source: aws-sdk-go,
    /// `aws/client/default_retryer.go`.
    GoV1,
}

impl Retries {
    fn attempts(self) -> u32 {
        match self {
            Self::Boto3 => 5,
            Self::GoV1 => 4,
        }
    }

    /// The pause before repetition `n`, which begins at 1.
    fn pause(self, n: u32) -> Duration {
        let factor = f64::from(2_u32.pow(n - 1));
        Duration::from_secs_f64(match self {
            Self::Boto3 => random() * factor,
            Self::GoV1 => (0.5 + random() / 2.0) * factor,
        })
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 32;
    let bits = u32::try_from(bits).expect("half of the bits were cut off");
    f64::from(bits) / f64::from(u32::MAX)
}

/// A client with the credentials of a node.
#[derive(Debug, Clone)]
pub struct Client {
    pub ec2: SocketAddr,
    pub access_key: String,
    pub retries: Retries,
}

impl Client {
    /// Asks EC2, again and again where the SDK would, and returns the document it
    /// answers, or the code of the error.
    pub fn ask(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let mut attempt = 1;
        loop {
            let (status, body) = self.send(action, parameters);
            if status == 200 {
                return Ok(body);
            }
            if status != THROTTLED || attempt >= self.retries.attempts() {
                let code = values(&body, "Code").into_iter().next();
                // Nothing would be measured.
                assert_ne!(code.as_deref(), Some("AuthFailure"), "{body}");
                return Err(code.unwrap_or_else(|| format!("HTTP {status}")));
            }
            sleep(self.retries.pause(attempt));
            attempt += 1;
        }
    }

    fn send(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, String) {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", "2016-11-15")
            .extend_pairs(parameters)
            .finish();
        let (host, key, length) = (self.ec2, &self.access_key, body.len());
        // EC2 refuses what was signed long ago.
        let date = timestamp(SystemTime::now()).replace(['-', ':'], "");
        let day = date.get(..8).expect("a date has eight digits");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Amz-Date: {date}\r\n\
             Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: {length}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={key}/{day}/us-west-2/ec2/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, Signature=00\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(host).expect("the simulated EC2 listens");
        let deadline = stream.set_read_timeout(Some(SILENCE));
        deadline.expect("a socket can have a deadline");
        let mut answer = String::new();
        stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.read_to_string(&mut answer))
            .expect("the simulated EC2 answers");
        let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        let (status, body) = status.zip(body).expect("the answer is HTTP");
        (status, body.to_owned())
    }
}

/// The text of every element of this name, in order.
pub fn values(document: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let after = document.split(&open).skip(1);
    after
        .filter_map(|text| Some(text.split_once(&close)?.0.to_owned()))
        .collect()
}
