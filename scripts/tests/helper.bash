# What the tests of the scripts share: one cluster of three for a file, in a directory that is removed.
# shellcheck shell=bash disable=SC2154 # bats sets its own variables

root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
bin=${STAGING_BIN:-$root/target/debug}
export STAGING_DIR=$BATS_FILE_TMPDIR/cluster

env_() { "$root/scripts/env" "$@"; }

start_cluster() { # port base, more options
  [[ -x $bin/konsuld ]] || {
    echo "no konsuld in $bin; run: cargo build, or set STAGING_BIN" >&2
    return 1
  }
  # The nodes run under other user ids if this is root.
  chmod 755 "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"
  env_ --bin "$bin" --port-base "$1" "${@:2}" start
}

end_cluster() { [[ ! -d $STAGING_DIR ]] || env_ reset; }

servers() { env_ json | jq -r '[.nodes[].http] | join(",")'; }

ctl() { "$STAGING_DIR/bin/konsulctl" --server "$(servers)" "$@"; }
