//! Contact points from AWS: the private addresses of the running EC2 instances that carry a tag.
//!
//! Speaks EC2's query API itself, signed by AWS's own signer: the SDK would bring a hundred crates and a second
//! cryptographic provider for one question.  Needs the permission ec2:DescribeInstances.

mod credentials;
mod describe;
mod http;

use super::AwsConfig;
use super::track::Answer;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningError, SigningSettings, sign};
use aws_sigv4::sign::v4;
use credentials::{CredentialsError, Sources};
use describe::{DescribeError, Page};
use http::{HttpError, Reply, Request};
use std::time::{Duration, SystemTime};

/// How long an answer is used: instances come and go, and EC2 limits how often it may be asked.
const HOLDS: Duration = Duration::from_secs(60);
/// Of a thousand instances each.
const PAGES_MAX: usize = 20;

/// EC2 gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AwsError {
    #[error("get AWS credentials")]
    Credentials(#[source] CredentialsError),
    #[error("find out the AWS region; set discovery.aws_region")]
    Region(#[source] CredentialsError),
    #[error("sign the question to EC2")]
    Sign(#[source] Box<SigningError>),
    #[error("ask EC2 for instances")]
    Http(#[source] HttpError),
    #[error("ask EC2 for instances")]
    Describe(#[source] DescribeError),
}

/// Whom to ask, and how.
#[derive(Debug)]
pub(super) struct Aws {
    config: AwsConfig,
}

impl Aws {
    pub(super) fn new(config: AwsConfig) -> Aws {
        Aws { config }
    }

    pub(super) async fn ask(&self) -> Result<Answer, AwsError> {
        let sources = Sources(&self.config.environment);
        let region = match &self.config.region {
            Some(region) => region.clone(),
            None => sources.region().await.map_err(AwsError::Region)?,
        };
        let endpoint = self.config.endpoint.clone().unwrap_or_else(|| describe::endpoint(&region));
        let credentials = sources.credentials().await.map_err(AwsError::Credentials)?;
        let mut answer = Answer { points: Vec::new(), ttl: HOLDS, wrong: Vec::new() };
        let mut next = None;
        for _ in 0..PAGES_MAX {
            let body = describe::question(&self.config.tag_key, self.config.tag_value.as_deref(), next.as_deref());
            let request = signed(&endpoint, &region, &credentials, body, SystemTime::now())?;
            let reply = http::send(request).await.map_err(AwsError::Http)?;
            let page = page(&reply).map_err(AwsError::Describe)?;
            answer
                .points
                .extend(page.addresses.iter().map(|ip| std::net::SocketAddr::new(*ip, self.config.port).to_string()));
            answer.wrong.extend(page.wrong);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        // EC2 promises no order; this one at least stays.
        answer.points.sort();
        Ok(answer)
    }
}

fn page(reply: &Reply) -> Result<Page, DescribeError> {
    if reply.status == 200 { describe::answer(&reply.body) } else { Err(describe::refusal(reply.status, &reply.body)) }
}

/// The question with AWS's signature, version 4.
fn signed(
    endpoint: &str,
    region: &str,
    credentials: &Credentials,
    body: String,
    now: SystemTime,
) -> Result<Request, AwsError> {
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    let wrong = |error: SigningError| AwsError::Sign(Box::new(error));
    let url = format!("{endpoint}/");
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder().identity(&identity).region(region).name("ec2").time(now);
    let params = params.settings(SigningSettings::default()).build().expect("every parameter is set").into();
    let signable = SignableRequest::new("POST", url.as_str(), [FORM].into_iter(), SignableBody::Bytes(body.as_bytes()));
    let output = sign(signable.map_err(wrong)?, &params).map_err(wrong)?;
    let (instructions, _signature) = output.into_parts();
    let mut headers = vec![(FORM.0.to_owned(), FORM.1.to_owned())];
    headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok(Request { method: "POST", url, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with botocore 1.44.5 for the same question, keys and time.
    const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20231114/eu-west-1/ec2/aws4_request, \
                             SignedHeaders=content-type;host;x-amz-date, \
                             Signature=810e94d488745a650ae2461f07fdadbbb0577b8d523a600c3e98f364be36fea6";

    #[test]
    fn a_signature_is_what_aws_own_client_makes_of_the_same_question() {
        let credentials =
            Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None, None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let body = describe::question("konsul", Some("prod"), None);
        let request = signed("https://ec2.eu-west-1.amazonaws.com", "eu-west-1", &credentials, body, now).unwrap();
        let header = |wanted: &str| {
            let found = request.headers.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        assert_eq!(header("x-amz-date"), "20231114T221320Z");
        assert_eq!(header("authorization"), SIGNATURE);
    }

    #[test]
    fn a_session_token_is_sent_along() {
        let token = Some("session".to_owned());
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", token, None, "test");
        let request = signed("http://127.0.0.1:1", "r", &credentials, String::new(), SystemTime::UNIX_EPOCH).unwrap();
        assert!(request.headers.contains(&("x-amz-security-token".into(), "session".into())));
    }
}
