//! Headers of answers: names and values made once, not per request.

use super::body::Body;
use crate::raft::Contact;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use konsul_state::Index;

/// Written to the wire with each word's first letter in upper case, which is exactly Consul's spelling.
pub(super) mod name {
    use hyper::header::HeaderName;

    pub(in crate::http) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
    pub(in crate::http) const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
    pub(in crate::http) const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
    pub(in crate::http) const LEADER_REDIRECT: HeaderName = HeaderName::from_static("x-leader-redirect");
    pub(in crate::http) const ARCHIVE: HeaderName = HeaderName::from_static("x-konsul-archive");
    pub(in crate::http) const LEADER: HeaderName = HeaderName::from_static("x-leader");
    pub(in crate::http) const LEADER_URL: HeaderName = HeaderName::from_static("x-leader-url");
}

pub(super) mod value {
    use hyper::header::HeaderValue;

    pub(in crate::http) const JSON: HeaderValue = HeaderValue::from_static("application/json");
    pub(in crate::http) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    /// Of raw values: without a charset, because nobody knows it.
    pub(in crate::http) const RAW: HeaderValue = HeaderValue::from_static("text/plain");
    pub(in crate::http) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
    pub(in crate::http) const GZIP_FILE: HeaderValue = HeaderValue::from_static("application/x-gzip");
    pub(in crate::http) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
    pub(in crate::http) const OPENMETRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    pub(in crate::http) const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");
    pub(in crate::http) const GZIP: HeaderValue = HeaderValue::from_static("gzip");
    pub(in crate::http) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
    pub(in crate::http) const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox");
    pub(in crate::http) const TRUE: HeaderValue = HeaderValue::from_static("true");
    pub(in crate::http) const FALSE: HeaderValue = HeaderValue::from_static("false");
    pub(in crate::http) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    pub(in crate::http) const ZERO: HeaderValue = HeaderValue::from_static("0");
}

/// Room for what nearly every answer carries, so that the map is allocated once.
const HEADERS_USUAL: usize = 8;

/// An answer without headers.
pub(super) fn response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = HeaderMap::with_capacity(HEADERS_USUAL);
    response
}

/// 200 with a body of this type.
pub(super) fn ok(content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = response(StatusCode::default(), body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The headers of every read: a client that misses one of them stops reading the others.
pub(super) fn read_meta(headers: &mut HeaderMap, index: Index, contact: Contact) {
    // Never 0: a client that sends 0 back would not wait at all.
    headers.insert(name::INDEX, HeaderValue::from(index.get().max(1)));
    contact_meta(headers, contact);
}

/// Whether and when this node heard of a leader.
pub(super) fn contact_meta(headers: &mut HeaderMap, contact: Contact) {
    headers.insert(name::KNOWN_LEADER, if contact.known_leader { value::TRUE } else { value::FALSE });
    let millis = last_contact_ms(contact);
    headers.insert(name::LAST_CONTACT, if millis == 0 { value::ZERO } else { HeaderValue::from(millis) });
}

/// As Consul tells it: 0 on the leader and where no leader was ever heard.
pub(super) fn last_contact_ms(contact: Contact) -> u64 {
    let since = contact.since_heard.unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Who leads, and where.
pub(super) fn leader(headers: &mut HeaderMap, leader: &str, url: &str) {
    headers.insert(name::LEADER, text_value(leader));
    headers.insert(name::LEADER_URL, text_value(url));
}

/// A text that may hold what a header cannot: then without that.
pub(super) fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        let visible: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        HeaderValue::from_str(&visible).expect("visible ASCII is a header value")
    })
}

/// Whether the request carries this header with this value.
pub(super) fn says(headers: &HeaderMap, name: HeaderName, text: &str) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes() == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_names_are_those_of_the_api() {
        use konsul_api::headers as api;
        for (ours, published) in [
            (name::INDEX, api::INDEX),
            (name::KNOWN_LEADER, api::KNOWN_LEADER),
            (name::LAST_CONTACT, api::LAST_CONTACT),
            (name::LEADER_REDIRECT, api::LEADER_REDIRECT),
            (name::LEADER, api::LEADER),
            (name::LEADER_URL, api::LEADER_URL),
            (name::ARCHIVE, konsul_api::archive::ARCHIVE),
        ] {
            assert_eq!(ours.as_str(), published.to_ascii_lowercase());
        }
    }

    #[test]
    fn an_index_is_never_zero_and_a_contact_never_missing() {
        let mut headers = HeaderMap::new();
        let contact = Contact { known_leader: false, is_leader: false, since_heard: None };
        read_meta(&mut headers, Index::ZERO, contact);
        assert_eq!(headers[name::INDEX], "1");
        assert_eq!(headers[name::KNOWN_LEADER], "false");
        assert_eq!(headers[name::LAST_CONTACT], "0");
        let contact = Contact { since_heard: Some(Duration::from_millis(1500)), ..contact };
        read_meta(&mut headers, Index::new(7), contact);
        assert_eq!(headers[name::LAST_CONTACT], "1500");
    }
}
