#!/usr/bin/env bats
# shellcheck disable=SC2154 # the helper sets root and bin
# All hosts are lost, and what scripts/backup saved comes back on new ones with scripts/restore.

load helper
load ../lib/moto

setup_file() { start_cluster 27500; }
teardown_file() { end_cluster; }

setup() {
  export KONSULCTL=$bin/konsulctl
  KONSUL_HTTP_ADDR=$(servers)
  export KONSUL_HTTP_ADDR
  before=$BATS_TEST_TMPDIR/before
}

cluster_id() { ctl --json cluster status | jq -r .cluster_id; }

fill() { # how many keys
  seq "$1" | jq -c '{key: "app/\(.)", value: ("value \(.)" | @base64), flags: .}' | ctl kv import -
}

# Every key, value and flag.
digest() { ctl kv export | sha256sum; }

wiped_and_formed_anew() {
  env_ reset
  env_ --bin "$bin" --port-base 27500 start
  [ "$(ctl kv export | wc -l)" -eq 0 ]
}

# All nodes hold the same, and that is what was there before.
is_back() {
  [ "$(digest)" = "$(cat "$before")" ]
  run ctl cluster compare
  echo "$output"
  [ "$status" -eq 0 ]
  for node in n1 n2 n3; do
    [ "$("$KONSULCTL" --server "$(env_ json | jq -r --arg n "$node" '.nodes[] | select(.name == $n).http')" kv export --stale | sha256sum)" = "$(cat "$before")" ]
  done
}

@test "save, wipe all three nodes, restore: the same keys, and the same state on all" {
  kept=$BATS_TEST_TMPDIR/kept
  mkdir "$kept"
  fill 500
  digest >"$before"
  "$root/scripts/backup" --to "$kept"
  lost=$(cluster_id)
  wiped_and_formed_anew
  run "$root/scripts/restore" --from "$kept" --yes-i-am "$(cluster_id)"
  echo "$output"
  [ "$status" -eq 3 ]
  [[ $output == *"no archive of cluster $(cluster_id) is in $kept; name one"* ]]
  archive=$(ctl --json snapshot list "$kept" | jq -r --arg id "$lost" '.[] | select(.cluster_id == $id).file')
  run "$root/scripts/restore" --from "$kept" --yes-i-am "$(cluster_id)" "$archive"
  echo "$output"
  [ "$status" -eq 3 ]
  [[ $output == *"--allow-cluster-change"* ]]
  "$root/scripts/restore" --from "$kept" --yes-i-am "$(cluster_id)" --allow-cluster-change "$archive"
  is_back
  # Not by one host alone: the authority that the archive speaks of is gone.
  sed "s:$STAGING_DIR/n1/data:$BATS_TEST_TMPDIR/empty:" "$STAGING_DIR/n1.toml" >"$BATS_TEST_TMPDIR/n1.toml"
  run "$KONSULCTL" snapshot restore "$archive" --empty-host --config "$BATS_TEST_TMPDIR/n1.toml"
  echo "$output"
  [ "$status" -eq 3 ]
  [[ $output == *"form a new cluster with \`konsulctl cluster init\`, then \`konsulctl snapshot restore --allow-cluster-change\`"* ]]
  [ ! -e "$BATS_TEST_TMPDIR/empty" ]
}

# S3 as moto plays it; it ends with file descriptor 4. In a network of its own, the environment has to be there already.
start_s3() {
  local moto
  moto=$(moto_environment "$root")
  mkfifo "$BATS_TEST_TMPDIR/ask"
  "$moto/bin/python" "$root/daemon/tests/cluster/s3.py" <"$BATS_TEST_TMPDIR/ask" >"$BATS_TEST_TMPDIR/told" 3>&- &
  s3=$!
  exec 4>"$BATS_TEST_TMPDIR/ask"
  until [[ -s $BATS_TEST_TMPDIR/told ]]; do
    kill -0 "$s3"
    sleep 0.1
  done
  AWS_ENDPOINT_URL=$(jq -r .endpoint "$BATS_TEST_TMPDIR/told")
  AWS_ACCESS_KEY_ID=$(jq -r .access_key_id "$BATS_TEST_TMPDIR/told")
  AWS_SECRET_ACCESS_KEY=$(jq -r .secret_access_key "$BATS_TEST_TMPDIR/told")
  export AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
}

@test "the same from an encrypted archive in a bucket" {
  age-keygen -o "$BATS_TEST_TMPDIR/key" 2>/dev/null
  recipient=$(age-keygen -y "$BATS_TEST_TMPDIR/key")
  start_s3
  fill 600
  digest >"$before"
  "$root/scripts/backup" --to s3://backups/konsul --recipient "$recipient" --identity "$BATS_TEST_TMPDIR/key"
  [ "$(ctl --json snapshot status | jq -r .verified.index)" -gt 0 ]
  archive=$(ctl --json snapshot list s3://backups/konsul | jq -r '.[].file')
  [[ $archive == s3://backups/konsul/*.kbs.age ]]
  # The nodes outlive this test: they must not hold its files.
  wiped_and_formed_anew 4>&-
  run "$root/scripts/restore" --from s3://backups/konsul --yes-i-am "$(cluster_id)" --allow-cluster-change "$archive"
  echo "$output"
  [ "$status" -ne 0 ]
  [[ $output == *"--identity"* ]]
  "$root/scripts/restore" --from s3://backups/konsul --identity "$BATS_TEST_TMPDIR/key" --recipient "$recipient" \
    --yes-i-am "$(cluster_id)" --allow-cluster-change "$archive"
  is_back
  # What was there before the restore is encrypted, too.
  [ "$(ctl --json snapshot list s3://backups/konsul | jq '[.[] | select(.file | endswith(".kbs.age"))] | length')" -ge 2 ]
  exec 4>&-
  wait "$s3"
}
