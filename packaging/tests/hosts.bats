#!/usr/bin/env bats
# The packages on hosts with a real systemd: installed, run, restarted, upgraded, stalled, removed.
# `scripts/test hosts` runs it.
# The tests build on each other, in this order.

setup_file() {
  load hosts
  hosts_up kh 2
  cp "$PACKAGES"/konsul_*.deb "$HOSTS_DIR/konsul.deb"
  cp "$PACKAGES"/konsul-[0-9]*.rpm "$HOSTS_DIR/konsul.rpm"
}

teardown_file() {
  load hosts
  hosts_down
}

setup() {
  load hosts
}

teardown() {
  # What a failed test left running, or standing still.
  local left
  for left in "$BATS_TEST_TMPDIR"/*.pid; do
    [[ ! -e $left ]] || kill "$(cat "$left")" 2>/dev/null || true
  done
  [[ ! -e $BATS_TEST_TMPDIR/frozen ]] || disk_thaw 2
  [[ -n ${BATS_TEST_COMPLETED:-} ]] || hosts_tell
}

# Copies a file to host $1, as /root/NAME.
send() { cp "$2" "$HOSTS_DIR/$1/root/root/$3"; }

# What is asked of host $1 all the time from now on.
load_begin() {
  local load=$BATS_TEST_TMPDIR/load-$1
  ip netns exec "$HOSTS_NAME-$1" "$BATS_TEST_DIRNAME/load.py" 127.0.0.1:8500 4 >"$load" 2>"$load.began" 3>&- &
  echo $! >"$load.pid"
  wait_until "the load has begun" 30 grep --quiet begun "$load.began"
}

load_end() {
  local load=$BATS_TEST_TMPDIR/load-$1
  kill "$(cat "$load.pid")"
  wait "$(cat "$load.pid")"
  rm "$load.pid"
  cat "$load"
}

# Every connection was taken, every request done, and not just a few.
load_is_whole() {
  jq --exit-status '.refused == 0 and .reset == 0 and .timeout == 0 and .failed == 0 and .done > 20' "$BATS_TEST_TMPDIR/load-$1"
}

# Stops the threads of this name of the daemon of host $1, until that ends.
thread_stall() {
  local pid
  pid=$(pid_here "$1" "$(pid_of "$1")")
  "$BATS_TEST_DIRNAME/stall.py" "$pid" "$2" >"$BATS_TEST_TMPDIR/stall" 3>&- &
  echo $! >"$BATS_TEST_TMPDIR/stall.pid"
  wait_until "$2 of host $1 stands still" 10 grep --quiet stalled "$BATS_TEST_TMPDIR/stall"
}

# Whatever is written to the disk of host $1 waits from now on.
disk_freeze() {
  touch "$BATS_TEST_TMPDIR/frozen"
  fsfreeze --freeze "$HOSTS_DIR/$1/disk"
}

disk_thaw() {
  fsfreeze --unfreeze "$HOSTS_DIR/$1/disk"
  rm "$BATS_TEST_TMPDIR/frozen"
}

status_of() { on "$1" systemctl show --property=StatusText --value konsul.service; }

tells_role() { [[ $(status_of "$1") =~ (leader|follower).*term ]]; }

has_status() { [[ $(status_of "$1") == *"$2"* ]]; }

# Whether there is something to read, and this text is not in it.
lacks() {
  local text
  text=$(tr '\0' '\n')
  [[ -n $text && $text != *"$1"* ]]
}

journal_has() { on "$1" journalctl --unit=konsul.service --output=cat | grep --quiet "$2"; }

# A package of version $1 whose program differs in its last bytes; or is the file $2.
make_upgrade() {
  local tree=$BATS_FILE_TMPDIR/upgrade
  rm -rf "$tree"
  dpkg-deb --raw-extract "$HOSTS_DIR/konsul.deb" "$tree"
  sed --in-place "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
  if [[ -n ${2:-} ]]; then install --mode=0755 "$2" "$tree/usr/bin/konsuld"; else echo "$1" >>"$tree/usr/bin/konsuld"; fi
  dpkg-deb -Zgzip -z1 --root-owner-group --build "$tree" "$HOSTS_DIR/upgrade.deb" >/dev/null
}

# scripts/rolling-upgrade from konsul.deb to upgrade.deb, from where no node serves HTTP to.
roll() {
  XDG_STATE_HOME=$BATS_TEST_TMPDIR ip netns exec "$SWITCH" "$REPO/scripts/rolling-upgrade" --via "$(address 1)" \
    --ssh-config "$HOSTS_DIR/ssh/config" --package "$HOSTS_DIR/upgrade.deb" --old-package "$HOSTS_DIR/konsul.deb" \
    --soak 4 --gate 30 "$@"
}

# shellcheck disable=SC2016 # dpkg-query's own
version_of() { on "$1" dpkg-query --show --showformat='${Version}' konsul; }

# Which program the daemon of host $1 is.
program_of() { on "$1" sha256sum "/proc/$(pid_of "$1")/exe" | cut --delimiter=' ' --fields=1; }

install_deb() {
  send "$1" "$2" konsul.deb
  on "$1" apt-get install --quiet --yes --allow-downgrades /root/konsul.deb
}

@test "three hosts: install, init, token, join, join make a healthy cluster" {
  local n token
  for n in 1 2 3; do
    run install_deb "$n" "$HOSTS_DIR/konsul.deb"
    [[ $status -eq 0 ]]
    [[ $(on "$n" systemctl is-enabled konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket | sort -u) == enabled ]]
    wait_until "host $n answers" 20 is_alive "$n"
  done
  on 1 konsulctl cluster init
  token=$(on 1 konsulctl cluster generate-token --json | jq --raw-output .token)
  on 2 konsulctl cluster join "$token"
  token=$(on 1 konsulctl cluster generate-token --json | jq --raw-output .token)
  on 3 konsulctl cluster join "$token"
  wait_until "the cluster is healthy" 60 is_well
  on 2 konsulctl kv put color blue
  [[ $(on 3 konsulctl kv get color) == blue ]]
}

@test "systemctl status tells role, leader and term" {
  local n
  for n in 1 2 3; do
    wait_until "host $n tells" 10 tells_role "$n"
  done
}

@test "the sockets are systemd's, and the daemon took them" {
  local unit
  for unit in konsul-http konsul-rpc konsul-admin; do
    [[ $(on 1 systemctl is-active $unit.socket) == active ]]
  done
  on 1 ss --no-header --listening --tcp --processes | grep ':8500 ' | grep --quiet systemd
  on 1 ss --no-header --listening --tcp --processes | grep ':8500 ' | grep --quiet konsuld
  on 1 ls -l /run/konsul/admin.sock | grep --quiet '^srw-rw---- .* root konsul '
}

@test "the units are right, and the sandbox as tight as it should be, while it runs" {
  run on 1 systemd-analyze verify --man=no konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket
  echo "$output"
  [[ $status -eq 0 && -z $output ]]
  local exposure
  exposure=$(on 1 systemd-analyze security konsul.service | sed --quiet 's/.*Overall exposure level for konsul.service: \([0-9.]*\).*/\1/p')
  echo "exposure $exposure"
  awk -v exposure="$exposure" 'BEGIN { exit !(exposure > 0 && exposure <= 1.2) }'
  local pid
  pid=$(pid_of 1)
  on 1 grep --quiet '^CapEff:\s*0000000000000000$' "/proc/$pid/status"
  on 1 grep --quiet '^Seccomp:\s*2$' "/proc/$pid/status"
  on 1 grep --quiet '^NoNewPrivs:\s*1$' "/proc/$pid/status"
}

@test "the doctor finds a packaged node confined, and its ports its own" {
  # The containers lie on an overlay and may have less files than a host: those it reports, rightly.
  run on 1 konsulctl doctor --json
  echo "$output"
  [[ $(jq '[.findings[] | select(.check == "sandbox" or .check == "port") | .verdict] | unique | join(" ")' <<<"$output") == '"ok"' ]]
}

@test "the addresses of the sockets come from the configuration" {
  on 1 sed --in-place 's/^listen = .*/listen = ["127.0.0.1:8500", "10.77.0.1:8500"]/' /etc/konsul/konsul.toml
  on 1 systemctl daemon-reload
  on 1 systemctl stop konsul.service 'konsul-*.socket'
  on 1 systemctl start konsul.service
  wait_until "the cluster is healthy" 60 is_well
  ip netns exec "$HOSTS_NAME-2" curl --silent --fail http://10.77.0.1:8500/v1/kv/color?raw | grep --quiet blue
}

@test "restarting each node in turn under load fails no request" {
  local n
  for n in 1 2 3; do
    load_begin "$n"
    on "$n" konsulctl cluster can-restart --hand-over --wait 1m
    on "$n" systemctl restart konsul.service
    wait_until "the cluster is healthy" 60 is_well
    load_end "$n"
    load_is_whole "$n"
  done
}

@test "rolling-upgrade: a first node that is not well with the new package gets the old one back, and no other is touched" {
  local leader first n old before=()
  hosts_let_in
  on 1 konsulctl snapshot save --verify --report --to /var/tmp
  printf '#!/bin/sh\nexit 1\n' >"$BATS_TEST_TMPDIR/broken"
  make_upgrade 9.0.0-1 "$BATS_TEST_TMPDIR/broken"
  run roll --user nobody
  echo "$output"
  [[ $status -eq 3 && $output == *"no command can be run on 10.77.0.1 as nobody"* ]]

  leader=$(leader_host)
  first=$((leader == 1 ? 2 : 1))
  old=$(program_of "$first")
  for n in 1 2 3; do
    before[n]=$(pid_of "$n")
    load_begin "$n"
  done
  run roll
  echo "$output"
  [[ $status -eq 6 ]]
  [[ $output == *"it was restarted and does not get ready"* ]]
  [[ $output == *"n$first runs the old program again and is well; nothing else was touched"* ]]
  for n in 1 2 3; do
    load_end "$n"
    load_is_whole "$n"
    [[ $(version_of "$n") == 0.1.0-1 && $(program_of "$n") == "$old" ]]
    [[ $n == "$first" || $(pid_of "$n") == "${before[n]}" ]]
  done
  has_other_pid "$first" "${before[first]}"
  is_well
}

@test "rolling-upgrade: one node after the other, the leader last, under load, and no request fails" {
  local leader n new
  make_upgrade 9.0.0-2
  leader=$(leader_host)
  run roll --user admin --dry-run
  echo "$output"
  [[ $status -eq 0 && $(tail --lines=1 <<<"$output") == "would upgrade n$leader "* ]]
  for n in 1 2 3; do load_begin "$n"; done
  run roll --user admin
  echo "$output"
  [[ $status -eq 0 && $(grep 'its turn' <<<"$output" | tail --lines=1) == "n$leader: its turn" ]]
  new=$(dpkg-deb --fsys-tarfile "$HOSTS_DIR/upgrade.deb" | tar --extract --to-stdout ./usr/bin/konsuld | sha256sum | cut --delimiter=' ' --fields=1)
  for n in 1 2 3; do
    load_end "$n"
    load_is_whole "$n"
    [[ $(version_of "$n") == 9.0.0-2 && $(program_of "$n") == "$new" ]]
  done
  is_well
}

@test "upgrading each node in turn under load fails no request" {
  local n before
  make_upgrade 9.1.0-1
  for n in 1 2 3; do
    before=$(pid_of "$n")
    load_begin "$n"
    run install_deb "$n" "$HOSTS_DIR/upgrade.deb"
    echo "$output"
    [[ $status -eq 0 ]]
    has_other_pid "$n" "$before"
    wait_until "the cluster is healthy" 60 is_well
    load_end "$n"
    load_is_whole "$n"
  done
}

@test "two hosts that are upgraded at the same time go one after the other" {
  local n before=()
  make_upgrade 9.1.0-2
  for n in 1 2; do before[n]=$(pid_of "$n"); done
  load_begin 3
  install_deb 1 "$HOSTS_DIR/upgrade.deb" >"$BATS_TEST_TMPDIR/first" 3>&- &
  install_deb 2 "$HOSTS_DIR/upgrade.deb"
  wait $!
  cat "$BATS_TEST_TMPDIR/first"
  load_end 3
  for n in 1 2; do has_other_pid "$n" "${before[n]}"; done
  wait_until "the cluster is healthy" 60 is_well
  load_is_whole 3
}

@test "an upgrade waits while another node is down, and so does needrestart; both say how to go on" {
  local before=() n
  for n in 1 2; do before[n]=$(pid_of "$n"); done
  # A process that runs what is not on the disk any more: what an upgrade of a library leaves.
  on 2 cp --preserve=all /usr/bin/konsuld /usr/bin/konsuld.new
  on 2 mv /usr/bin/konsuld.new /usr/bin/konsuld
  run on 2 needrestart -b
  echo "$output"
  [[ $output == *"NEEDRESTART-SVC: konsul.service"* ]]

  on 3 systemctl stop konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket
  on 2 needrestart -r a >"$BATS_TEST_TMPDIR/needrestart" 2>&1 3>&- &
  make_upgrade 9.2.0-1
  run install_deb 1 "$HOSTS_DIR/upgrade.deb"
  echo "$output"
  [[ $status -eq 0 ]]
  wait $!
  cat "$BATS_TEST_TMPDIR/needrestart"
  [[ $output == *"not well: n3"* && $output == *"systemctl restart konsul"* ]]
  grep 'not well: n3' "$BATS_TEST_TMPDIR/needrestart"
  for n in 1 2; do [[ $(pid_of "$n") == "${before[n]}" ]]; done

  on 3 systemctl start konsul.service
  wait_until "the cluster is healthy" 60 is_well
  run on 2 needrestart -r a
  echo "$output"
  has_other_pid 2 "${before[2]}"
  wait_until "the cluster is healthy" 60 is_well
  on 1 konsulctl cluster can-restart --hand-over --wait 30s
  on 1 systemctl restart konsul.service
  wait_until "the cluster is healthy" 60 is_well
}

@test "a host that lost its power comes back, and one that is rebooted does by itself" {
  local before
  host_stop 2
  host_boot 2
  wait_until "the cluster is healthy" 90 is_well
  [[ $(on 2 konsulctl kv get color) == blue ]]
  before=$(init_of 3)
  # Its PID 1 may be gone before it has answered.
  on 3 systemctl reboot || true
  wait_until "host 3 has rebooted" 90 has_rebooted 3 "$before"
  wait_until "the cluster is healthy" 90 is_well
  [[ $(on 3 konsulctl kv get color) == blue ]]
}

@test "a frozen process is started anew within 15 seconds" {
  local before
  before=$(pid_of 2)
  on 2 kill -STOP "$before"
  wait_until "host 2 has another process" 15 has_other_pid 2 "$before"
  wait_until "the cluster is healthy" 60 is_well
  journal_has 2 'Watchdog timeout'
}

@test "a daemon that was killed uses its state as it is" {
  local before
  before=$(pid_of 2)
  on 2 kill -KILL "$before"
  wait_until "host 2 has another process" 15 has_other_pid 2 "$before"
  wait_until "the cluster is healthy" 60 is_well
  on 2 journalctl "_PID=$(pid_of 2)" --output=cat | lacks 'the state is rebuilt'
}

@test "a stalled thread is started anew within 15 seconds" {
  local thread before
  for thread in log-writer apply; do
    before=$(pid_of 2)
    thread_stall 2 "$thread"
    wait_until "host 2 has another process" 15 has_other_pid 2 "$before"
    journal_has 2 'a thread makes no progress'
    wait_until "the cluster is healthy" 60 is_well
  done
}

@test "a slow disk alone has nobody started anew" {
  [[ -d $HOSTS_DIR/2/disk ]] || skip "no loop device here"
  local before
  before=$(pid_of 2)
  load_begin 1
  disk_freeze 2
  wait_until "host 2 tells that its disk is slow" 30 has_status 2 "slow disk"
  sleep 20 # twice what the watchdog allows
  disk_thaw 2
  load_end 1
  wait_until "the cluster is healthy" 60 is_well
  [[ $(pid_of 2) == "$before" ]]
}

@test "a journal that takes nothing for a minute holds up no request, and hears what it missed" {
  local journald daemon before
  journald=$(on 1 systemctl show --property=MainPID --value systemd-journald.service)
  daemon=$(pid_of 1)
  load_begin 1
  sleep 10 # how it is usually
  load_end 1
  before=$(jq .p99_ms "$BATS_TEST_TMPDIR/load-1")

  on 1 kill -STOP "$journald"
  # Far more lines than can wait.
  printf '\n[log]\nlevel = "debug"\n' >>"$HOSTS_DIR/1/root/etc/konsul/konsul.toml"
  on 1 kill -HUP "$daemon"
  load_begin 1
  sleep 60 # what is looked at is what happens in that minute
  on 1 kill -CONT "$journald"
  load_end 1
  on 1 sed --in-place 's/^level = .*/level = "info"/' /etc/konsul/konsul.toml
  on 1 kill -HUP "$daemon"
  load_is_whole 1
  jq --exit-status --argjson before "$before" '.gap_ms < 2000 and .p99_ms < 3 * $before + 200' "$BATS_TEST_TMPDIR/load-1"
  wait_until "the journal has what was dropped" 30 journal_has 1 'the journal took nothing for a while: [0-9]* log lines dropped'
  on 1 konsulctl metrics | grep --quiet '^konsul_log_dropped_lines_total{.*} [1-9]'
}

@test "a host joins by a credential, which nobody else reads, and takes a new one at a restart" {
  local wrong right secret pid
  # Two that are left may not fail any more, which has to be meant.
  on 3 konsulctl cluster leave --force
  wait_until "host 3 has stopped" 30 is_stopped 3
  on 3 find /var/lib/konsul -mindepth 1 -delete
  wrong=$(on 1 konsulctl cluster generate-token)
  on 1 konsulctl cluster revoke-token "$(cut --delimiter=. --fields=2 <<<"$wrong")"
  mkdir -p "$HOSTS_DIR/3/root/etc/systemd/system/konsul.service.d"
  printf '[Service]\nLoadCredential=join-token:/root/join.token\n' >"$HOSTS_DIR/3/root/etc/systemd/system/konsul.service.d/join.conf"
  install --mode=0600 <(echo "$wrong") "$HOSTS_DIR/3/root/root/join.token"
  on 3 systemctl daemon-reload
  on 3 systemctl start --no-block konsul.service
  wait_until "host 3 tells that its token is of no use" 30 has_status 3 "not admitted yet"

  right=$(on 1 konsulctl cluster generate-token)
  install --mode=0600 <(echo "$right") "$HOSTS_DIR/3/root/root/join.token"
  on 3 systemctl restart konsul.service
  wait_until "the cluster is healthy" 60 is_well

  pid=$(pid_of 3)
  for secret in "$(cut --delimiter=. --fields=3 <<<"$wrong")" "$(cut --delimiter=. --fields=3 <<<"$right")"; do
    [[ ${#secret} -gt 16 ]]
    on 3 systemctl show konsul.service | lacks "$secret"
    on 3 cat "/proc/$pid/environ" "/proc/$pid/cmdline" | lacks "$secret"
    on 3 journalctl --output=export | lacks "$secret"
  done
  run on 3 setpriv --reuid=65534 --regid=65534 --clear-groups cat /run/credentials/konsul.service/join-token
  [[ $status -ne 0 ]]
  on 3 rm /etc/systemd/system/konsul.service.d/join.conf
  on 3 systemctl daemon-reload
}

@test "removing and purging keep the data, unless somebody wrote down that it may go" {
  # Two that are left may not fail any more, which has to be meant.
  on 3 konsulctl cluster leave --force
  wait_until "host 3 has stopped" 30 is_stopped 3
  on 3 apt-get remove --quiet --yes konsul
  on 3 test -d /var/lib/konsul/raft
  run on 3 systemctl is-active konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket
  [[ $(sort --unique <<<"$output") =~ ^(failed)?[[:space:]]*(inactive)?$ ]]
  run on 3 apt-get purge --quiet --yes konsul
  [[ $output == *"the data stays in /var/lib/konsul"* ]]
  on 3 test -d /var/lib/konsul/raft
  on 3 mkdir -p /etc/konsul
  on 3 touch /etc/konsul/delete-data-on-purge
  run install_deb 3 "$HOSTS_DIR/konsul.deb"
  [[ $status -eq 0 ]]
  on 3 apt-get purge --quiet --yes konsul
  run on 3 test -e /var/lib/konsul
  [[ $status -ne 0 ]]
}

@test "the .rpm installs, upgrades and is erased" {
  send 3 "$HOSTS_DIR/konsul.rpm" konsul.rpm
  # dpkg owns what it depends on.
  on 3 rpm --install --nodeps /root/konsul.rpm
  wait_until "host 3 answers" 20 is_alive 3
  on 3 konsulctl cluster init
  wait_until "host 3 leads" 30 on 3 konsulctl cluster leader
  on 3 konsulctl kv put color green
  local before
  before=$(pid_of 3)
  on 3 rpm --upgrade --force --nodeps /root/konsul.rpm
  has_other_pid 3 "$before"
  [[ $(on 3 konsulctl kv get color) == green ]]
  on 3 rpm --erase konsul
  run on 3 systemctl is-active konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket
  [[ $(sort -u <<<"$output") == inactive ]]
  on 3 test -d /var/lib/konsul/raft
}
