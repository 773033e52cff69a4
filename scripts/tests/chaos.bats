#!/usr/bin/env bats
# shellcheck disable=SC2154 # the helper sets root and bin
# scripts/chaos: each fault, against real nodes under load.
#
# A partition filters packets and a disk is mounted: that needs root, and a network namespace of its own, in which
# scripts/test runs this file.

load helper

setup_file() {
  if [[ $UID == 0 ]] && losetup --find >/dev/null 2>&1; then disks=(--disk 128); else disks=(); fi
  start_cluster 26700 "${disks[@]}"
}
teardown_file() { end_cluster; }

chaos() {
  run "$root/scripts/chaos" --duration 3 "$@"
  echo "$output"
}

survives() {
  chaos "$@"
  [ "$status" -eq 0 ]
  [[ $output == *"mended: all nodes are ready, every acknowledged write is there"* ]]
  run env_ status
  [ "$status" -eq 0 ]
}

needs_root() { [[ $UID == 0 ]] || skip "needs root"; }
needs_disks() {
  needs_root
  mountpoint -q "$STAGING_DIR/n1" || skip "needs loop devices"
}

@test "kill -9 of the leader" { survives kill leader; }
@test "a follower is paused" { survives pause follower; }
@test "memory is taken" { survives --mib 32 memory-pressure; }

@test "a clock that is two hours wrong" {
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' || skip "needs faketime"
  survives --skew +2h clock-skew follower
}

@test "the leader is cut off, and nothing of the filter stays" {
  needs_root
  nft list tables >/dev/null 2>&1 || skip "needs nft"
  survives partition leader
  [[ $(nft list tables) != *konsul_chaos* ]]
}

@test "a disk fills up, which scripts/smoke tells, and is emptied again" {
  needs_disks
  survives --duration 5 disk-full follower &
  chaos=$!
  full() { KONSULCTL=$bin/konsulctl "$root/scripts/smoke" --server "$(servers)" | grep "takes no writes, its disk is full: runbooks/disk-full.md"; }
  until full; do kill -0 "$chaos"; done
  wait "$chaos"
  # Not one process more than there are nodes.
  [ "$(pgrep -c -f "konsuld --config $STAGING_DIR/")" -eq 3 ]
  run ls "$STAGING_DIR"/n1/filler "$STAGING_DIR"/n2/filler "$STAGING_DIR"/n3/filler
  [ "$status" -ne 0 ]
}

@test "a disk is slow" {
  needs_disks
  survives slow-disk leader
}

@test "interrupted, it mends what it broke" {
  "$root/scripts/chaos" --duration 60 pause follower >"$BATS_TEST_TMPDIR/out" 2>&1 &
  chaos=$!
  stopped() {
    local pid
    for pid in $(env_ json | jq -r '.nodes[].pid'); do
      if grep -q '^State:.T' "/proc/$pid/status"; then return; fi
    done
    return 1
  }
  until stopped; do kill -0 "$chaos"; sleep 0.1; done
  kill -TERM "$chaos"
  status=0
  wait "$chaos" || status=$?
  [ "$status" -eq 143 ]
  run stopped
  [ "$status" -ne 0 ]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "restore mends what a killed run left" {
  pid=$(env_ json | jq -r '.nodes[2].pid')
  kill -STOP "$pid"
  chaos restore
  [ "$status" -eq 0 ]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "--dry-run breaks nothing" {
  chaos --dry-run kill leader
  [ "$status" -eq 0 ]
  [[ $output == "would bring about kill on n"* ]]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "only a test cluster is broken; what is missing is told with the remedy, and code 3" {
  chaos --dir "$BATS_TEST_TMPDIR" kill
  [ "$status" -eq 3 ]
  [[ $output == *"holds no test cluster"*"scripts/env"* ]]
  chaos --mib 65536 memory-pressure
  [ "$status" -eq 3 ]
  [[ $output == *"name less"* ]]
  if [[ $UID != 0 ]]; then
    chaos partition
    [ "$status" -eq 3 ]
  fi
}

@test "who may not break it, and no space, are told with the remedy, and code 3" {
  needs_root
  run setpriv --reuid=65534 --regid=65534 --clear-groups env "TMPDIR=/tmp" "$root/scripts/chaos" --dir "$STAGING_DIR" kill
  echo "$output"
  [ "$status" -eq 3 ]
  [[ $output == *"was started by another user; run this as that one, or with sudo"* ]]
  mkdir "$BATS_TEST_TMPDIR/small"
  mount -t tmpfs -o size=8m tmpfs "$BATS_TEST_TMPDIR/small"
  TMPDIR=$BATS_TEST_TMPDIR/small chaos kill
  umount "$BATS_TEST_TMPDIR/small"
  [ "$status" -eq 3 ]
  [[ $output == *"64 are needed to note what was acknowledged; make room, or name another directory with TMPDIR"* ]]
  run env_ status
  [ "$status" -eq 0 ]
}

@test "a cluster that is not well is not broken further" {
  env_ stop n3
  chaos kill
  [ "$status" -eq 3 ]
  [[ $output == *"not all nodes are ready before anything is broken"* ]]
  env_ start
}

@test "wrong usage is code 2" {
  for line in "" "burn" "kill n9" "kill n1 n2" "--duration 0 kill" "--duration 301 kill" "--skew 2 clock-skew" "--mib 1 kill"; do
    # shellcheck disable=SC2086 # words
    run "$root/scripts/chaos" $line
    [ "$status" -eq 2 ]
  done
}
