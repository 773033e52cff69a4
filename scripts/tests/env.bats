#!/usr/bin/env bats
# shellcheck disable=SC2154 # the helper sets root and bin
# scripts/env: a private cluster is made, stopped, started, and leaves nothing.

load helper

setup_file() { start_cluster 26300; }
teardown_file() { end_cluster; }

@test "a cluster is formed, has an authority of its own, and takes writes" {
  run env_ status
  [ "$status" -eq 0 ]
  [ "$(grep -c ' ready$' <<<"$output")" -eq 3 ]
  ctl kv put a b
  [ "$(ctl kv get a)" = b ]
  ctl ca status
}

@test "what is stopped is told, with code 1, and started again with its data" {
  ctl kv put kept yes
  env_ stop n2
  run env_ status
  [ "$status" -eq 1 ]
  [[ $output == *"n2 "*"stopped"* ]]
  run env_ start
  [ "$status" -eq 0 ]
  run env_ status
  [ "$status" -eq 0 ]
  [ "$(ctl kv get kept)" = yes ]
}

@test "load writes and tells how fast" {
  run env_ --duration 2s --clients 4 load
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output == *Longest\ gap* ]]
}

@test "logs are of the nodes that are named" {
  run env_ logs n2
  [ "$status" -eq 0 ]
  [[ $output == "== n2: "* && $output != *"== n1"* ]]
}

@test "one more node waits to join, joins, and is gone again" {
  env_ add
  token=$(ctl --json cluster generate-token | jq -r .token)
  n4=$(env_ json | jq -r '.nodes[3].http')
  "$STAGING_DIR/bin/konsulctl" --server "$n4" cluster join "$token"
  # It is told of its own membership a moment later.
  until [[ $("$STAGING_DIR/bin/konsulctl" --server "$n4" cluster peers) == *n4* ]]; do sleep 0.1; done
  "$STAGING_DIR/bin/konsulctl" --server "$(env_ json | jq -r '.nodes[0].http')" cluster remove n4
  run env_ drop n3
  [ "$status" -eq 2 ]
  env_ drop n4
  [ ! -e "$STAGING_DIR/n4" ]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "--dry-run changes nothing" {
  run env_ --dry-run reset
  [ "$status" -eq 0 ]
  [[ $output == "would stop"* ]]
  run env_ --dry-run stop
  run env_ status
  [ "$status" -eq 0 ]
}

@test "what is missing is told with the remedy, and code 3" {
  run env_ --dir "$BATS_TEST_TMPDIR/none" status
  [ "$status" -eq 3 ]
  [[ $output == *"scripts/env --dir $BATS_TEST_TMPDIR/none start"* ]]
  run env_ --dir "$BATS_TEST_TMPDIR/new" --bin /nowhere start
  [ "$status" -eq 3 ]
  [[ $output == *"cargo build"* ]]
  [ ! -e "$BATS_TEST_TMPDIR/new" ]
  run env_ --dir "$BATS_TEST_TMPDIR/new" --bin "$bin" --port-base 26300 start
  [ "$status" -eq 3 ]
  [[ $output == *"is in use; choose others with --port-base"* ]]
  mkdir "$BATS_TEST_TMPDIR/full"
  touch "$BATS_TEST_TMPDIR/full/mine"
  run env_ --dir "$BATS_TEST_TMPDIR/full" --bin "$bin" --port-base 26500 start
  [ "$status" -eq 3 ]
  [ -e "$BATS_TEST_TMPDIR/full/mine" ]
  run env_ --dir "$BATS_TEST_TMPDIR/full" reset
  [ "$status" -eq 3 ]
  [ -e "$BATS_TEST_TMPDIR/full/mine" ]
}

@test "no space is told with what is needed, and code 3" {
  [[ $UID == 0 ]] || skip "needs root, to make a small disk"
  mkdir "$BATS_TEST_TMPDIR/small"
  mount -t tmpfs -o size=8m tmpfs "$BATS_TEST_TMPDIR/small"
  run env_ --dir "$BATS_TEST_TMPDIR/small/new" --bin "$bin" --port-base 26500 start
  umount "$BATS_TEST_TMPDIR/small"
  [ "$status" -eq 3 ]
  [[ $output == *"8 MiB are free in $BATS_TEST_TMPDIR/small, 384 are needed; choose another with --dir" ]]
}

@test "no permission is told with what to do, and code 3" {
  as=(env)
  if [[ $UID == 0 ]]; then as=(setpriv --reuid=65534 --regid=65534 --clear-groups env); fi
  run "${as[@]}" "$root/scripts/env" --dir /proc/new --bin "$STAGING_DIR/bin" --port-base 26500 start
  [ "$status" -eq 3 ]
  [[ $output == *"is not a directory that can be written to; choose another with --dir" ]]
  [[ $UID == 0 ]] || skip "the rest needs root"
  run "${as[@]}" "$root/scripts/env" --dir "$STAGING_DIR" stop
  [ "$status" -eq 3 ]
  [[ $output == *"was started by another user"* ]]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "wrong usage is code 2" {
  for line in "" "begin" "--nodes 0 start" "--port-base x start" "--disk 5 start" "--what start" "stop n7"; do
    # shellcheck disable=SC2086 # words
    run env_ $line
    [ "$status" -eq 2 ]
  done
}

@test "reset leaves neither processes nor files" {
  mapfile -t pids < <(env_ json | jq -r '.nodes[].pid')
  env_ reset
  [ ! -e "$STAGING_DIR" ]
  for pid in "${pids[@]}"; do [ ! -e "/proc/$pid/exe" ]; done
}
