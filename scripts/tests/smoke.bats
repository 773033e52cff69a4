#!/usr/bin/env bats
# shellcheck disable=SC2154 # the helper sets root and bin
# scripts/smoke against real nodes.

load helper

setup_file() { start_cluster 26100; }
teardown_file() { end_cluster; }

setup() {
  export KONSULCTL=$STAGING_DIR/bin/konsulctl
  KONSUL_HTTP_ADDR=$(servers)
  export KONSUL_HTTP_ADDR
}

# Brings back what a test stopped.
teardown() { env_ start; }

smoke() { run "$root/scripts/smoke" "$@"; }

@test "a cluster that is well passes, in less than 5 seconds, and is not changed" {
  before=$(ctl --json cluster digest | jq -r .digest)
  began=$EPOCHREALTIME
  smoke
  took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')
  echo "$output" "$took s"
  [ "$status" -eq 0 ]
  [[ $output != *BAD* ]]
  [ "$(grep -c '^ok ' <<<"$output")" -ge 15 ]
  awk -v t="$took" 'BEGIN { exit !(t < 5) }'
  [ "$(ctl --json cluster digest | jq -r .digest)" = "$before" ]
}

@test "--write writes, reads from each server, and leaves nothing" {
  smoke --write
  [ "$status" -eq 0 ]
  [ "$(grep -c 'reads what was written' <<<"$output")" -eq 3 ]
  run ctl kv list smoke/
  [[ $output != *smoke/* ]]
}

@test "a node that is down is named, with code 1" {
  env_ stop n3
  smoke
  [ "$status" -eq 1 ]
  [[ $output == *"BAD  http://127.0.0.1:26103 does not answer"* ]]
}

# A leader that lost the others is one until its lease ends.
no_leader() {
  local end=$((SECONDS + 30))
  while ctl cluster leader >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

@test "no leader is code 10, and names the runbook" {
  env_ stop n2 n3
  no_leader
  smoke
  [ "$status" -eq 10 ]
  [[ $output == *"no leader: runbooks/no-leader.md"* ]]
}

@test "servers of two clusters are told apart, with code 1" {
  other=$BATS_FILE_TMPDIR/other
  env_ --dir "$other" --bin "$bin" --nodes 1 --port-base 26200 start
  smoke --server "http://127.0.0.1:26101,http://127.0.0.1:26201"
  env_ --dir "$other" reset
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"BAD  http://127.0.0.1:26201 is of cluster "*"name the servers of one cluster with --server"* ]]
}

@test "nobody there is code 3, with what to do" {
  smoke --server http://127.0.0.1:1
  [ "$status" -eq 3 ]
  [[ $output == *"no server answers; name others with --server"* ]]
}

@test "no konsulctl is code 3, with what to do" {
  KONSULCTL=/nowhere/konsulctl smoke
  [ "$status" -eq 3 ]
  [[ $output == *"install the package konsul, or set KONSULCTL"* ]]
}

@test "wrong usage is code 2" {
  smoke --serve
  [ "$status" -eq 2 ]
  smoke --server
  [ "$status" -eq 2 ]
  smoke --server ftp://x
  [ "$status" -eq 2 ]
}

@test "--dry-run asks nothing" {
  smoke --server http://127.0.0.1:1 --dry-run --write
  [ "$status" -eq 0 ]
  [[ $output == *"would ask http://127.0.0.1:1"* && $output == *"would write"* ]]
}
