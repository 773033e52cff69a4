#!/usr/bin/env bats
# The packages as their users meet them: what README.md tells to type, on fresh hosts, by somebody who is not root; what an
# upgrade keeps, what removal leaves; the scripts of the .rpm.
# `scripts/test hosts` runs it.
# The tests build on each other, in this order.

setup_file() {
  load hosts
  hosts_up kp
  UNITS="konsul.service konsul-http.socket konsul-rpc.socket konsul-admin.socket"
  TIMERS="konsul-backup.timer konsul-verify.timer"
  export UNITS TIMERS
  local n
  for n in 1 2 3; do
    on "$n" useradd --create-home --shell /bin/bash alice
    echo "alice ALL=(ALL) NOPASSWD: ALL" >"$HOSTS_DIR/$n/root/etc/sudoers.d/alice"
  done
  sed --quiet '/^## Install/,/^## Quick start/p' "$REPO/README.md" >"$HOSTS_DIR/install.md"
}

teardown_file() {
  load hosts
  hosts_down
}

setup() {
  load hosts
}

teardown() {
  [[ -n ${BATS_TEST_COMPLETED:-} ]] || hosts_tell
}

# As somebody who has sudo, at home on host $1.
as_alice() { on "$1" runuser --login alice --command "$2"; }

# What README.md tells to type: refused if it does not, else typed on host $1. $3 is said in place of what stands there for
# something that differs each time.
readme() {
  local n=$1 line=$2
  grep --quiet --fixed-strings -- "$line" "$HOSTS_DIR/install.md" || {
    echo "README.md does not say: $line" >&2
    return 1
  }
  as_alice "$n" "${3:-$line}"
}

# Copies a package to where somebody downloads it on host $1.
download() { cp "$2" "$HOSTS_DIR/$1/root/home/alice/$(basename "${3:-$2}")"; }

tells_its_part() { [[ $(readme "$1" "systemctl status konsul") =~ Status:.*(leader|follower).*term ]]; }

has_color() { [[ $(on "$1" konsulctl --timeout 2s kv get color) == "$2" ]]; }

# Nothing of it runs on host $1, and nothing would at the next boot.
is_off() {
  local unit
  for unit in $UNITS $TIMERS; do
    ! on "$1" systemctl --quiet is-active "$unit" || return 1
    ! on "$1" systemctl --quiet is-enabled "$unit" 2>/dev/null || return 1
  done
}

is_on() {
  local unit
  for unit in $UNITS $TIMERS; do
    on "$1" systemctl --quiet is-active "$unit" && on "$1" systemctl --quiet is-enabled "$unit" || return 1
  done
}

# How often something happened, or when, as host $1 tells it.
metric() { on "$1" konsulctl metrics | sed --quiet "s/^konsul_backup_$2{.*} //p"; }

has_metric() { [[ -n $(metric "$1" "$2") ]]; }

archives_of() { on "$1" find /var/lib/konsul-backup -name '*.kbs'; }

has_lines() { [[ $(wc --lines <"$1") -ge $2 ]]; }

# Which files are below /var/lib/konsul on host $1, and whose they are.
data_of() { on "$1" find /var/lib/konsul -mindepth 1 -maxdepth 2 -printf '%P %u %m\n' | sort; }

# A .deb of version $1 whose default configuration has a line more.
make_deb() {
  local tree=$BATS_FILE_TMPDIR/deb
  rm -rf "$tree"
  dpkg-deb --raw-extract "$PACKAGES"/konsul_*.deb "$tree"
  sed --in-place "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
  echo "# New in $1." >>"$tree/etc/konsul/konsul.toml"
  dpkg-deb -Zgzip -z1 --root-owner-group --build "$tree" "$HOSTS_DIR/konsul_$1_amd64.deb" >/dev/null
}

# An .rpm of version $1 whose default configuration has a line more, by the spec of the real one.
make_rpm() {
  local tree=$BATS_FILE_TMPDIR/rpm program
  rm -rf "$tree"
  mkdir -p "$tree/stage"
  rpm2archive - <"$(echo "$PACKAGES"/konsul-[0-9]*.rpm)" | tar --extract --gzip --directory="$tree/stage"
  echo "# New in $1." >>"$tree/stage/etc/konsul/konsul.toml"
  for program in bin/konsuld bin/konsulctl lib/systemd/system-generators/konsul-generator; do
    objcopy --remove-section=.gnu_debuglink "$tree/stage/usr/$program"
  done
  rpmbuild -bb --quiet --define "_topdir $tree" --define "_rpmdir $HOSTS_DIR" --define "_rpmfilename %%{NAME}-%%{VERSION}.rpm" \
    --define "_binary_payload w1.gzdio" --define "konsul_version $1" --define "stage $tree/stage" --define "konsul_date Mon Nov 02 2026" \
    "$REPO/packaging/rpm/konsul.spec"
}

@test "README: install, first cluster, as somebody types it who is not root" {
  local n token
  [[ -s $HOSTS_DIR/install.md ]]
  for n in 1 2 3; do
    download "$n" "$(echo "$PACKAGES"/konsul_*.deb)"
    readme "$n" "sudo apt install ./konsul_0.1.0-1_amd64.deb"
    wait_until "host $n answers" 20 is_alive "$n"
    # It may find fault with the container, not fail to look.
    run readme "$n" "konsulctl doctor"
    [[ $status -le 1 && $output == *"data"* ]]
  done
  readme 1 "sudo konsulctl cluster init"
  for n in 2 3; do
    token=$(readme 1 "sudo konsulctl cluster generate-token" | grep --only-matching --max-count=1 'konsul-join-v1\.[^ ]*')
    readme "$n" "sudo konsulctl cluster join konsul-join-v1.…" "sudo konsulctl cluster join $token"
  done
  wait_until "the cluster is healthy" 60 is_well
  run readme 2 "konsulctl cluster status"
  [[ $status -eq 0 && $output == *n1* && $output == *n2* && $output == *n3* ]]
  wait_until "host 3 tells its part" 20 tells_its_part 3
  as_alice 2 "konsulctl kv put color blue"
}

@test "backups: the leader saves, the others leave it to it; what was saved is restored on trial where it is" {
  local n leader archive
  for n in 1 2 3; do
    is_on "$n"
    on "$n" systemctl start konsul-backup.service
  done
  leader=$(leader_host)
  for n in 1 2 3; do
    archive=$(archives_of "$n")
    if [[ $n == "$leader" ]]; then
      [[ $(on "$n" stat --format='%U %a' "$archive") == "konsul 600" ]]
      [[ $(on "$n" stat --format='%U %a' /var/lib/konsul-backup) == "konsul 700" ]]
    else
      [[ -z $archive ]]
      on "$n" journalctl --unit=konsul-backup.service --output=cat | grep "Nothing to do: n$n does not lead, n$leader does"
    fi
  done
  as_alice 2 "konsulctl snapshot status"
  run as_alice 2 "konsulctl snapshot status --json"
  [[ $(jq '[.saved.index > 0, .verified]' --compact-output <<<"$output") == "[true,null]" ]]
  for n in 1 2 3; do
    wait_until "host $n tells of the backup" 20 has_metric "$n" last_success_timestamp_seconds
    ! has_metric "$n" last_verified_timestamp_seconds || return 1
  done
  for n in 1 2 3; do on "$n" systemctl start konsul-verify.service; done
  on "$leader" journalctl --unit=konsul-verify.service --output=cat | grep "Restored on trial"
  [[ $(as_alice 2 "konsulctl snapshot status --json" | jq '.verified.index == .saved.index') == true ]]
  wait_until "host 2 tells of the trial" 20 has_metric 2 last_verified_timestamp_seconds
}

@test "a backup that fails is a failed unit, and is counted" {
  local leader
  leader=$(leader_host)
  [[ $(metric "$leader" failures_total | paste --serial --delimiters=' ') == "0 0" ]]
  on "$leader" sh -c 'echo KONSUL_BACKUP_TO=/mnt >>/etc/konsul/backup.conf'
  run on "$leader" systemctl start konsul-backup.service
  [[ $status -ne 0 ]]
  on "$leader" journalctl --unit=konsul-backup.service --output=cat | grep 'Error: make /mnt'
  on "$leader" konsulctl metrics | grep '^konsul_backup_failures_total{.*kind="base".*} 1$'
  on "$leader" systemctl stop konsul-backup.service
  on "$leader" sed --in-place '/^KONSUL_BACKUP_TO=/d' /etc/konsul/backup.conf
  on "$leader" systemctl start konsul-backup.service
}

@test "runbooks: what they tell to type on a host that has the packages" {
  local leader command commands
  leader=$(leader_host)
  # shellcheck disable=SC2016 # a prompt
  mapfile -t commands < <(sed --quiet '/^```console$/,/^```$/s/^\$ //p' "$REPO/runbooks/backup-restore.md")
  [[ ${#commands[@]} -eq 3 ]]
  for command in "${commands[@]}"; do on "$leader" bash -euc "$command"; done
}

@test "backups into a bucket, encrypted: whoever leads saves, and restores on trial what is there" {
  local moto s3 told keys recipient n leader saved archive failures=()
  moto=$(moto_environment "$REPO")
  # It serves as long as somebody could write to this.
  mkfifo "$BATS_TEST_TMPDIR/s3"
  exec {s3}<>"$BATS_TEST_TMPDIR/s3"
  ip netns exec "$SWITCH" "$moto/bin/python" "$REPO/daemon/tests/cluster/s3.py" "$(address 254)" \
    <"$BATS_TEST_TMPDIR/s3" >"$BATS_TEST_TMPDIR/s3.told" 2>"$BATS_TEST_TMPDIR/s3.log" {s3}>&- 3>&- &
  wait_until "S3 is served" 60 test -s "$BATS_TEST_TMPDIR/s3.told"
  told=$(cat "$BATS_TEST_TMPDIR/s3.told")
  keys=$(jq --raw-output '"[default]\naws_access_key_id = \(.access_key_id)\naws_secret_access_key = \(.secret_access_key)"' <<<"$told")
  recipient=$(age-keygen --output "$BATS_TEST_TMPDIR/identity" 2>&1 | sed --quiet 's/^Public key: //p')
  for n in 1 2 3; do
    on "$n" install -D --mode=0600 /dev/stdin /etc/credstore/aws-credentials <<<"$keys"
    on "$n" install -D --mode=0600 /dev/stdin /etc/credstore/backup-identity <"$BATS_TEST_TMPDIR/identity"
    on "$n" cp --archive /etc/konsul/backup.conf /root/backup.conf
    on "$n" tee --append /etc/konsul/backup.conf <<END
KONSUL_BACKUP_TO=s3://backups/konsul
AWS_REGION=us-east-1
AWS_ENDPOINT_URL=$(jq --raw-output .endpoint <<<"$told")
KONSUL_BACKUP_OPTIONS=--recipient $recipient
KONSUL_VERIFY_OPTIONS=--identity /run/credentials/konsul-verify.service/backup-identity
END
    failures[n]=$(metric "$n" failures_total)
  done
  saved=$(on 2 konsulctl snapshot status --json | jq .saved.index)
  as_alice 2 "konsulctl kv put color blue"

  for n in 1 2 3; do on "$n" systemctl start konsul-backup.service; done
  echo list >&"$s3"
  wait_until "it tells what is in the bucket" 20 has_lines "$BATS_TEST_TMPDIR/s3.told" 2
  archive=$(tail --lines=1 "$BATS_TEST_TMPDIR/s3.told" | jq --raw-output 'keys | join(" ")')
  [[ $archive =~ ^konsul/[^[:space:]]*\.kbs\.age$ ]]
  leader=$(leader_host)
  for n in 1 2 3; do
    on "$n" journalctl --unit=konsul-backup.service --output=cat >"$BATS_TEST_TMPDIR/journal"
    tail --lines=5 "$BATS_TEST_TMPDIR/journal" | if [[ $n == "$leader" ]]; then grep "$archive"; else grep "Nothing to do"; fi
  done
  [[ $(on 2 konsulctl snapshot status --json | jq --argjson before "$saved" '.saved.index > $before') == true ]]

  for n in 1 2 3; do on "$n" systemctl start konsul-verify.service; done
  [[ $(on 2 konsulctl snapshot status --json | jq '.verified.index == .saved.index') == true ]]
  # Whoever has no identity cannot read it.
  run on "$leader" env AWS_SHARED_CREDENTIALS_FILE=/etc/credstore/aws-credentials AWS_REGION=us-east-1 \
    AWS_ENDPOINT_URL="$(jq --raw-output .endpoint <<<"$told")" konsulctl snapshot verify "s3://backups/$archive"
  echo "$output"
  [[ $status -eq 3 && $output == *"--identity"* ]]
  for n in 1 2 3; do
    [[ $(metric "$n" failures_total) == "${failures[n]}" ]]
    on "$n" mv /root/backup.conf /etc/konsul/backup.conf
  done
  exec {s3}>&-
  wait
}

@test "README: configure an address, restart" {
  as_alice 2 "sudo sed --in-place 's/^listen = .*/listen = [\"127.0.0.1:8500\", \"10.77.0.2:8500\"]/' /etc/konsul/konsul.toml"
  readme 2 "systemctl daemon-reload; systemctl stop konsul.service 'konsul-*.socket'; systemctl start konsul" \
    "sudo sh -c \"systemctl daemon-reload; systemctl stop konsul.service 'konsul-*.socket'; systemctl start konsul\""
  wait_until "the cluster is healthy" 60 is_well
  [[ $(as_alice 1 "konsulctl --server http://10.77.0.2:8500 kv get color") == blue ]]
  local before
  before=$(pid_of 2)
  readme 2 "konsulctl cluster can-restart"
  readme 2 "systemctl restart konsul" "sudo systemctl restart konsul"
  has_other_pid 2 "$before"
  wait_until "the cluster is healthy" 60 is_well
}

@test "README: upgrade, and the configuration that was changed stays" {
  local n before
  make_deb 9.0.0-1
  for n in 1 2 3; do
    before=$(pid_of "$n")
    download "$n" "$HOSTS_DIR/konsul_9.0.0-1_amd64.deb"
    # On host 2 the file was changed by its user and by the package: dpkg asks, and whoever cannot answer says this.
    as_alice "$n" "sudo apt --option Dpkg::Options::=--force-confdef --option Dpkg::Options::=--force-confold install ./konsul_9.0.0-1_amd64.deb"
    has_other_pid "$n" "$before"
    wait_until "the cluster is healthy" 60 is_well
  done
  on 2 grep --quiet '10.77.0.2:8500' /etc/konsul/konsul.toml
  on 2 test -e /etc/konsul/konsul.toml.dpkg-dist
  on 1 grep --quiet 'New in 9.0.0-1' /etc/konsul/konsul.toml
  [[ $(as_alice 1 "konsulctl --server http://10.77.0.2:8500 kv get color") == blue ]]
}

@test "README: remove; the data stays, and so it does when it is purged" {
  # Two that are left may not fail any more, which has to be meant.
  run readme 3 "konsulctl cluster leave" "sudo konsulctl cluster leave"
  [[ $status -ne 0 ]]
  as_alice 3 "sudo konsulctl cluster leave --force"
  wait_until "host 3 has stopped" 30 is_stopped 3
  readme 3 "apt remove konsul" "sudo apt remove --yes konsul"
  is_off 3
  on 3 test -d /var/lib/konsul/raft
  on 3 test -e /etc/konsul/konsul.toml
  run readme 3 "apt purge" "sudo apt purge --yes konsul"
  echo "$output"
  [[ $status -eq 0 && $output == *"the data stays in /var/lib/konsul"* ]]
  on 3 test -d /var/lib/konsul/raft
  run on 3 test -e /etc/konsul/konsul.toml
  [[ $status -ne 0 ]]
}

@test "README: with the file that says so, purging deletes the data" {
  as_alice 3 "sudo apt install --yes ./konsul_9.0.0-1_amd64.deb"
  # It was removed from its cluster, and says so instead of starting.
  as_alice 3 "sudo mkdir -p /etc/konsul"
  readme 3 "/etc/konsul/delete-data-on-purge" "sudo touch /etc/konsul/delete-data-on-purge"
  as_alice 3 "sudo apt purge --yes konsul"
  run on 3 ls /var/lib/konsul /etc/konsul
  echo "$output"
  [[ $output != *raft* && $output != *toml* ]]
  is_off 3
}

@test "a node that was removed, or purged, and installed again is the one it was" {
  as_alice 3 "sudo apt install --yes ./konsul_0.1.0-1_amd64.deb"
  wait_until "host 3 answers" 20 is_alive 3
  on 3 konsulctl cluster init
  wait_until "host 3 leads" 30 on 3 konsulctl kv put color green
  local how before
  for how in remove purge; do
    before=$(on 3 konsulctl cluster status --json | jq '[.cluster_id, .members[].id]')
    as_alice 3 "sudo apt $how --yes konsul"
    is_off 3
    as_alice 3 "sudo apt install --yes ./konsul_0.1.0-1_amd64.deb"
    wait_until "the data is back" 60 has_color 3 green
    [[ $(on 3 konsulctl cluster status --json | jq '[.cluster_id, .members[].id]') == "$before" ]]
    is_on 3
  done
}

@test "the .rpm installs: user, directories, sockets, service" {
  as_alice 3 "sudo touch /etc/konsul/delete-data-on-purge"
  as_alice 3 "sudo apt purge --yes konsul"
  on 3 userdel konsul || true
  download 3 "$(echo "$PACKAGES"/konsul-[0-9]*.rpm)" konsul.rpm
  # dpkg owns what it depends on.
  run on 3 rpm --install --nodeps /home/alice/konsul.rpm
  echo "$output"
  [[ $status -eq 0 && ${output,,} != *error* && ${output,,} != *warning* && ${output,,} != *failed* ]]
  is_on 3
  on 3 getent passwd konsul
  [[ $(on 3 stat --format='%U %G %a' /var/lib/konsul) == "konsul konsul 700" ]]
  wait_until "host 3 answers" 20 is_alive 3
  on 3 konsulctl cluster init
  wait_until "host 3 leads" 30 on 3 konsulctl kv put color red
  [[ -z $(on 3 rpm --verify --nodeps konsul) ]]
}

@test "the .rpm upgrades: another process, the configuration that was changed, the data" {
  local before
  make_rpm 9.0.0
  download 3 "$HOSTS_DIR/konsul-9.0.0.rpm"
  on 3 sed --in-place 's/^listen = .*/listen = ["127.0.0.1:8500", "10.77.0.3:8500"]/' /etc/konsul/konsul.toml
  before=$(pid_of 3)
  run on 3 rpm --upgrade --nodeps /home/alice/konsul-9.0.0.rpm
  echo "$output"
  [[ $status -eq 0 ]]
  [[ $(on 3 rpm --query --queryformat '%{VERSION}' konsul) == 9.0.0 ]]
  has_other_pid 3 "$before"
  wait_until "the data is there" 60 has_color 3 red
  on 3 grep --quiet '10.77.0.3:8500' /etc/konsul/konsul.toml
  on 3 grep --quiet 'New in 9.0.0' /etc/konsul/konsul.toml.rpmnew
  is_on 3
}

@test "the .rpm is erased: nothing runs, the data and the changed configuration stay, and it comes back with them" {
  local data
  run on 3 rpm --erase konsul
  echo "$output"
  [[ $status -eq 0 ]]
  is_off 3
  data=$(data_of 3)
  [[ $data == *"raft konsul 700"* ]]
  on 3 grep --quiet '10.77.0.3:8500' /etc/konsul/konsul.toml.rpmsave
  run on 3 test -e /usr/bin/konsuld
  [[ $status -ne 0 ]]
  on 3 rpm --install --nodeps /home/alice/konsul-9.0.0.rpm
  wait_until "the data is back" 60 has_color 3 red
}
