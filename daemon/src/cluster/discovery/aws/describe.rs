//! DescribeInstances of EC2's query API: the question as a form, the answer as XML. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::net::IpAddr;

/// One page of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) addresses: Vec<IpAddr>,
    /// Instances without an address, in words.
    pub(super) wrong: Vec<String>,
    /// What to ask with for the page behind.
    pub(super) next: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::cluster::discovery) enum DescribeError {
    #[error("EC2 refused with {status} {code}: {message}")]
    Refused { status: u16, code: String, message: String },
    #[error("EC2 answered with {status} and what cannot be read")]
    Failed { status: u16 },
    #[error("EC2's answer is not the XML that it should be")]
    Unreadable(#[source] Box<quick_xml::DeError>),
    #[error("EC2's answer is not text")]
    NoText(#[source] std::str::Utf8Error),
}

/// EC2 leaves these as they are.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "reservationSet", default)]
    reservations: Items<Reservation>,
    #[serde(rename = "nextToken")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Reservation {
    #[serde(rename = "instancesSet", default)]
    instances: Items<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    instance_id: String,
    private_ip_address: Option<String>,
    ipv6_address: Option<String>,
}

#[derive(Deserialize)]
struct Items<T> {
    #[serde(rename = "item", default = "Vec::new")]
    items: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Items<T> {
        Items { items: Vec::new() }
    }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "Errors")]
    errors: RefusalErrors,
}

#[derive(Deserialize)]
struct RefusalErrors {
    #[serde(rename = "Error")]
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RefusalError {
    code: String,
    message: String,
}

/// Where EC2 of this region listens.
pub(super) fn endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://ec2.{region}.{suffix}")
}

/// Running instances with this tag; the page named by `next`.
pub(super) fn question(tag_key: &str, tag_value: Option<&str>, next: Option<&str>) -> String {
    let tag = tag_value.map_or_else(
        || ("tag-key".to_owned(), tag_key.to_owned()),
        |value| (format!("tag:{tag_key}"), value.to_owned()),
    );
    let mut fields = vec![
        ("Action", "DescribeInstances".to_owned()),
        ("Version", "2016-11-15".to_owned()),
        ("Filter.1.Name", tag.0),
        ("Filter.1.Value.1", tag.1),
        ("Filter.2.Name", "instance-state-name".to_owned()),
        ("Filter.2.Value.1", "running".to_owned()),
        ("MaxResults", "1000".to_owned()),
    ];
    fields.extend(next.map(|next| ("NextToken", next.to_owned())));
    let pair = |(name, value): &(&str, String)| format!("{name}={}", utf8_percent_encode(value, FORM));
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Reads one page.
pub(super) fn answer(body: &[u8]) -> Result<Page, DescribeError> {
    let text = std::str::from_utf8(body).map_err(DescribeError::NoText)?;
    let read: Answer = quick_xml::de::from_str(text).map_err(|source| DescribeError::Unreadable(Box::new(source)))?;
    let mut page = Page { addresses: Vec::new(), wrong: Vec::new(), next: read.next.filter(|next| !next.is_empty()) };
    for instance in read.reservations.items.into_iter().flat_map(|reservation| reservation.instances.items) {
        let mut known = [&instance.private_ip_address, &instance.ipv6_address].into_iter().flatten();
        match known.find_map(|address| address.parse().ok()) {
            Some(address) => page.addresses.push(address),
            None => page.wrong.push(format!("the instance {} has no private address", instance.instance_id)),
        }
    }
    Ok(page)
}

/// Why EC2 said no.
pub(super) fn refusal(status: u16, body: &[u8]) -> DescribeError {
    let read = std::str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str::<Refusal>(text).ok());
    match read.and_then(|refusal| refusal.errors.errors.into_iter().next()) {
        Some(RefusalError { code, message }) => DescribeError::Refused { status, code, message },
        None => DescribeError::Failed { status },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from EC2's documentation of DescribeInstances.
    const ANSWER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-example</requestId>
    <reservationSet>
        <item>
            <reservationId>r-1234567890abcdef0</reservationId>
            <groupSet/>
            <instancesSet>
                <item>
                    <instanceId>i-1</instanceId>
                    <instanceState><code>16</code><name>running</name></instanceState>
                    <privateIpAddress>192.168.1.88</privateIpAddress>
                    <ipAddress>54.194.252.215</ipAddress>
                    <tagSet><item><key>konsul</key><value>prod</value></item></tagSet>
                    <networkInterfaceSet>
                        <item><privateIpAddress>192.168.1.99</privateIpAddress></item>
                    </networkInterfaceSet>
                </item>
                <item><instanceId>i-2</instanceId><ipv6Address>fd00::2</ipv6Address></item>
            </instancesSet>
        </item>
        <item>
            <instancesSet><item><instanceId>i-3</instanceId></item></instancesSet>
        </item>
    </reservationSet>
    <nextToken>more</nextToken>
</DescribeInstancesResponse>"#;

    #[test]
    fn an_answer_gives_the_private_address_of_each_instance() {
        let expected = Page {
            addresses: vec!["192.168.1.88".parse().unwrap(), "fd00::2".parse().unwrap()],
            wrong: vec!["the instance i-3 has no private address".into()],
            next: Some("more".into()),
        };
        assert_eq!(answer(ANSWER.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn no_instances_are_an_answer_and_nonsense_is_none() {
        let none = r#"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"#;
        assert_eq!(answer(none.as_bytes()).unwrap().addresses, [] as [IpAddr; 0]);
        for bad in [&b"\xff\xfe"[..], b"", b"<a", b"<html><p>busy</html>"] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_ec2() {
        let body = br#"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized.</Message></Error></Errors><RequestID>x</RequestID></Response>"#;
        assert_eq!(
            refusal(403, body).to_string(),
            "EC2 refused with 403 UnauthorizedOperation: You are not authorized."
        );
        assert_eq!(refusal(502, b"bad gateway").to_string(), "EC2 answered with 502 and what cannot be read");
    }

    #[test]
    fn questions_are_forms() {
        let with_value = question("konsul/role", Some("a b"), None);
        assert!(with_value.contains("Filter.1.Name=tag%3Akonsul%2Frole&Filter.1.Value.1=a%20b&"), "{with_value}");
        let any_value = question("konsul", None, Some("p2="));
        assert!(any_value.contains("Filter.1.Name=tag-key&Filter.1.Value.1=konsul&"), "{any_value}");
        assert!(any_value.ends_with("&NextToken=p2%3D"), "{any_value}");
    }

    #[test]
    fn china_has_its_own_domain() {
        assert_eq!(endpoint("eu-west-1"), "https://ec2.eu-west-1.amazonaws.com");
        assert_eq!(endpoint("cn-north-1"), "https://ec2.cn-north-1.amazonaws.com.cn");
    }
}
