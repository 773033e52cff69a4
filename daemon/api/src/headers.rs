//! Header names, spelled as they go over the wire.

/// The index a blocking query passes as `?index=`.
pub const INDEX: &str = "X-Consul-Index";
/// Whether the answering node knows a leader.
pub const KNOWN_LEADER: &str = "X-Consul-Knownleader";
/// Milliseconds since the answering node heard from the leader.
pub const LAST_CONTACT: &str = "X-Consul-Lastcontact";
/// Request: answer a write on a follower with 307 instead of forwarding it.
pub const LEADER_REDIRECT: &str = "X-Leader-Redirect";
/// Node name of the leader, on 307 and 409.
pub const LEADER: &str = "X-Leader";
/// URL of the leader's HTTP API, on 307 and 409.
pub const LEADER_URL: &str = "X-Leader-URL";
