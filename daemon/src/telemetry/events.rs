//! Events that operators act on: a number for each, the same in every release, by which the journal finds them and
//! explains them (`journalctl -x`). What is explained is in `systemd/konsul.catalog`; a test compares the two.

/// This node leads from now on.
pub const LEADER_WON: &str = "a0a5cc604659426a9f7f25e6f18894af";
/// This node leads no more.
pub const LEADER_LOST: &str = "1094f5989d9e4d599fb98214f6c3e5d2";
/// The node serves.
pub const NODE_READY: &str = "b657a337382b46409cc7cda6d7317c17";
/// A node was let into the cluster.
pub const MEMBER_ADMITTED: &str = "4550a4eeb5b24aa4b2b7192c2d3b1ec2";
/// A node belongs to the cluster no more.
pub const MEMBER_REMOVED: &str = "dbbfa8d17c3f47919b50c6e1997aff2c";
/// This node belongs to its cluster no more, and ends.
pub const NODE_REMOVED: &str = "2a49f33f218e4531be98efb6c3e6150f";
/// A snapshot was damaged, and is set aside.
pub const SNAPSHOT_DAMAGED: &str = "eea7242789d54ee8b8a8b0055c9ee364";
/// The storage was damaged beyond repair, and is set aside.
pub const STORAGE_DAMAGED: &str = "41179e78a631499095da40994e072913";
/// Nothing is written any more: the disk is nearly full.
pub const DISK_FULL: &str = "728151064a794ac287d54be607a775b5";
/// There is space again.
pub const DISK_FREED: &str = "15410bed210949488b11542b6e2af06f";
/// A flush has been taking seconds.
pub const DISK_SLOW: &str = "8a80381605f74d8e9ddae4923e87834c";
/// The log cannot be written; the node ends.
pub const LOG_FAILED: &str = "b0347b4ea2f444e2b2ac3f0fb95eb319";
/// A part failed; the node ends.
pub const NODE_FAILED: &str = "9049f94220244404827b9fefe39024bd";
/// The process panicked; it aborts.
pub const PANICKED: &str = "0b4cfef3434b429587dbae50a0723a68";
/// A thread makes no progress.
pub const STALLED: &str = "f00ec4a2c9c44c8d93de3b0638a4ba55";
/// The certificate was not renewed; it is tried again.
pub const CERTIFICATE_NOT_RENEWED: &str = "155c1f5484b54d9e8544a3d4ccb39684";
/// The data was replaced by a backup.
pub const RESTORED: &str = "42c5611714c64b8daf408bd4b1adb566";
/// The state of this node is not that of the others: it answers nobody.
pub const NODE_FENCED: &str = "0077e4ea3a614721a2318fb3f71936ec";
/// It is again.
pub const NODE_UNFENCED: &str = "8a6eb6601ee84e759f55492c480c4a1e";
/// The states of the members are not the same.
pub const STATES_DIFFER: &str = "f8bd2defa81d416fa0ed0f09e112be3e";
/// The log, or a snapshot, holds what only a newer program understands; the node ends.
pub const NEWER_NEEDED: &str = "ef8cb5b4cfdd499688f1cf5335d9d055";
/// The journal did not take lines for a while.
pub const LINES_DROPPED: &str = "168d60a7fa8f413191246309d6468737";

/// All of them, by name.
pub const ALL: &[(&str, &str)] = &[
    ("LEADER_WON", LEADER_WON),
    ("LEADER_LOST", LEADER_LOST),
    ("NODE_READY", NODE_READY),
    ("MEMBER_ADMITTED", MEMBER_ADMITTED),
    ("MEMBER_REMOVED", MEMBER_REMOVED),
    ("NODE_REMOVED", NODE_REMOVED),
    ("SNAPSHOT_DAMAGED", SNAPSHOT_DAMAGED),
    ("STORAGE_DAMAGED", STORAGE_DAMAGED),
    ("DISK_FULL", DISK_FULL),
    ("DISK_FREED", DISK_FREED),
    ("DISK_SLOW", DISK_SLOW),
    ("LOG_FAILED", LOG_FAILED),
    ("NODE_FAILED", NODE_FAILED),
    ("PANICKED", PANICKED),
    ("STALLED", STALLED),
    ("CERTIFICATE_NOT_RENEWED", CERTIFICATE_NOT_RENEWED),
    ("RESTORED", RESTORED),
    ("NODE_FENCED", NODE_FENCED),
    ("NODE_UNFENCED", NODE_UNFENCED),
    ("STATES_DIFFER", STATES_DIFFER),
    ("NEWER_NEEDED", NEWER_NEEDED),
    ("LINES_DROPPED", LINES_DROPPED),
];
