//! The command line's program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program beside konsuld's. Built with it by `cargo test --workspace`; if it was never built, it is now.
pub(crate) fn konsulctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_konsuld")).with_file_name("konsulctl");
        if !path.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--locked", "--package", "konsulctl"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            if path.parent().is_some_and(|dir| dir.ends_with("release")) {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "konsulctl cannot be built");
        }
        path
    })
}
