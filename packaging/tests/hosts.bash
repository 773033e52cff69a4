# Hosts with a real systemd as PID 1: containers on a bridge, each with its own address, made from one root.
# For bats. Everything made here is named after $HOSTS_NAME and taken away by hosts_down.
# SUITE is the Debian release of the hosts [bookworm], PACKAGES the directory of the packages [target/package/test].
# shellcheck shell=bash

# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib/moto.bash"

# The address of host N.
address() { echo "10.77.0.$1"; }

# What a host has before anything of ours is installed.
ROOT_PACKAGES=systemd,systemd-sysv,dbus,libnss-systemd,iproute2,procps,ca-certificates,rpm,sudo,needrestart,openssh-server,age

# A Debian root of suite $1, made once and kept in target/; anew when other packages belong into it.
root_of() {
  local dir=$REPO/target/hosts/$1
  if [[ $(cat "$dir/.made" 2>/dev/null) != "$ROOT_PACKAGES" ]]; then
    rm -rf "$dir"
    mkdir -p "$dir"
    (
      set -o pipefail
      # Its own descriptors have to be of one digit, for dash knows no others; so none that was opened by whoever runs this.
      exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
      mmdebstrap --quiet --variant=minbase --include="$ROOT_PACKAGES" "$1" - http://deb.debian.org/debian | tar -C "$dir" -x >&2
    ) || return
    # Hosts that are thrown away need not wait for their disk at every file of a package.
    echo force-unsafe-io >"$dir/etc/dpkg/dpkg.cfg.d/unsafe-io"
    echo "$ROOT_PACKAGES" >"$dir/.made"
  fi
  echo "$dir"
}

# Three hosts that are up, for a file of tests whose hosts are called $1 and a number; those of $2… have disks of their own.
hosts_up() {
  REPO=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
  HOSTS_DIR=$BATS_FILE_TMPDIR/hosts
  HOSTS_NAME=$1$$
  SWITCH=$HOSTS_NAME-sw
  SUITE=${SUITE:-bookworm}
  PACKAGES=${PACKAGES:-$REPO/target/package/test}
  export REPO HOSTS_DIR HOSTS_NAME SWITCH SUITE PACKAGES
  local root n
  root=$(root_of "$SUITE")
  mkdir -p "$HOSTS_DIR"
  hosts_network
  for n in "${@:2}"; do host_disk "$n"; done
  for n in 1 2 3; do host_make "$n" "$root"; done
}

hosts_network() {
  ip netns add "$SWITCH"
  ip -n "$SWITCH" link set lo up
  ip -n "$SWITCH" link add br0 type bridge
  ip -n "$SWITCH" link set br0 up
  # From where somebody reaches all hosts.
  ip -n "$SWITCH" addr add "$(address 254)/24" dev br0
}

# Makes host $1 with the root $2, and boots it.
host_make() {
  local n=$1 root=$2 dir=$HOSTS_DIR/$1 other
  mkdir -p "$dir"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
  echo "n$n" >"$dir/root/etc/hostname"
  {
    echo "127.0.0.1 localhost"
    for other in 1 2 3; do echo "$(address "$other") n$other"; done
  } >"$dir/root/etc/hosts"
  : >"$dir/root/etc/machine-id"
  ip netns add "$HOSTS_NAME-$n"
  ip -n "$HOSTS_NAME-$n" link set lo up
  ip -n "$SWITCH" link add "p$n" type veth peer name eth0 netns "$HOSTS_NAME-$n"
  ip -n "$SWITCH" link set "p$n" master br0 up
  ip -n "$HOSTS_NAME-$n" addr add "$(address "$n")/24" dev eth0
  ip -n "$HOSTS_NAME-$n" link set eth0 up
  host_boot "$n"
}

# Lets whoever has the key that is made here log in on all hosts, as root, or as admin, who may use sudo. How, is told to ssh by
# the file $HOSTS_DIR/ssh/config.
hosts_let_in() {
  local dir=$HOSTS_DIR/ssh n home
  mkdir -p "$dir"
  ssh-keygen -q -t ed25519 -N '' -C '' -f "$dir/key"
  for n in 1 2 3; do
    on "$n" useradd --create-home --shell /bin/sh admin
    echo "admin ALL=(ALL) NOPASSWD: ALL" >"$HOSTS_DIR/$n/root/etc/sudoers.d/admin"
    for home in /root /home/admin; do
      on "$n" install -d --mode=0700 --owner="$(basename "$home")" "$home/.ssh"
      on "$n" install --mode=0600 --owner="$(basename "$home")" /dev/stdin "$home/.ssh/authorized_keys" <"$dir/key.pub"
    done
    echo "n$n,$(address "$n") $(on "$n" cat /etc/ssh/ssh_host_ed25519_key.pub)" >>"$dir/known"
  done
  printf '%s\n' "IdentityFile $dir/key" "IdentitiesOnly yes" "UserKnownHostsFile $dir/known" >"$dir/config"
}

# Gives host $1 a disk of its own for the data; before it is booted. Without a loop device it has none.
host_disk() {
  local dir=$HOSTS_DIR/$1
  mkdir -p "$dir"
  truncate --size=1G "$dir/disk.img"
  mkfs.ext4 -q -F "$dir/disk.img"
  mkdir "$dir/disk"
  mount -o loop "$dir/disk.img" "$dir/disk" || rmdir "$dir/disk"
}

host_boot() {
  local n=$1 dir=$HOSTS_DIR/$1 tree more=()
  [[ ! -d $dir/disk ]] || more+=(--bind="$dir/disk:/var/lib/konsul")
  (
    # Each its own, or systemd-nspawn puts all containers into one group and they end each other.
    for tree in unified systemd; do
      [[ -d /sys/fs/cgroup/$tree ]] || continue
      mkdir -p "/sys/fs/cgroup/$tree/$HOSTS_NAME-$n"
      echo "$BASHPID" >"/sys/fs/cgroup/$tree/$HOSTS_NAME-$n/cgroup.procs"
    done
    code=133 # so systemd-nspawn says that it is to be started again: the host reboots
    while [[ $code -eq 133 ]]; do
      # Without a filter by the kernel, IPAddressDeny= is silently without effect.
      SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory="$dir/root" \
        --machine="$HOSTS_NAME-n$n" --hostname="n$n" --boot --register=no --keep-unit --console=pipe \
        --kill-signal=SIGRTMIN+3 --system-call-filter=bpf --network-namespace-path="/run/netns/$HOSTS_NAME-$n" "${more[@]}" &
      echo $! >"$dir/nspawn"
      code=0
      wait $! || code=$?
    done
  ) </dev/null >>"$dir/console" 2>&1 3>&- &
  wait_until "host $n is up" 60 is_up "$n"
}

# What bats runs in the end it runs in a trap, where a `return` without a number returns the status of before the trap.

# PID 1 of host $1, as this machine numbers it.
init_of() {
  local child
  for child in $(pgrep -P "$(cat "$HOSTS_DIR/$1/nspawn")"); do
    if grep --quiet --extended-regexp '^NSpid:.*\s1$' "/proc/$child/status" 2>/dev/null; then
      echo "$child"
      return 0
    fi
  done
  return 1
}

# Process $2 of host $1, as this machine numbers it.
pid_here() {
  local init status
  init=$(init_of "$1") || return
  while read -r status; do
    if [[ /proc/$init/ns/pid -ef ${status%status}ns/pid ]]; then
      basename "${status%/status}"
      return 0
    fi
  done < <(grep --files-with-matches --no-messages --extended-regexp "^NSpid:.*\s$2\$" /proc/[0-9]*/status)
  return 1
}

# Runs a command on host $1.
on() {
  local init n=$1
  shift
  init=$(init_of "$n") || return
  nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup --root --wd -- \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 \
    DEBIAN_FRONTEND=noninteractive "$@"
}

is_up() {
  case "$(on "$1" systemctl is-system-running 2>/dev/null)" in
    running | degraded) return 0 ;;
  esac
  return 1
}

# Ends host $1 as a power cut does.
host_stop() {
  local n=$1 pid
  pid=$(cat "$HOSTS_DIR/$n/nspawn") || return 0
  kill -KILL "$(init_of "$n")"
  wait_until "host $n is down" 90 is_gone "$pid"
}

# Whether host $1 runs, and not as it did when its PID 1 was $2.
has_rebooted() {
  local now
  now=$(init_of "$1") && [[ $now != "$2" ]] && is_up "$1"
}

is_gone() { ! kill -0 "$1" 2>/dev/null || grep --quiet '^State:.*Z' "/proc/$1/status"; }

# For a test that failed: what the hosts say of their nodes.
hosts_tell() {
  local n
  for n in 1 2 3; do
    echo "--- host $n"
    on "$n" systemctl --no-pager --lines=0 status konsul.service || true
    on "$n" journalctl --no-pager --lines=15 --unit=konsul.service || true
  done
}

# What is asked about the nodes of all hosts.

# As any of them sees it: only the leader knows.
is_well() {
  local n
  for n in 1 2 3; do
    [[ $(on "$n" konsulctl --timeout 2s cluster status --json | jq '.healthy == true and .failure_tolerance == 1') == true ]] && return
  done
  return 1
}

is_alive() { on "$1" konsulctl health --live; }

pid_of() { on "$1" systemctl show --property=MainPID --value konsul.service; }

has_other_pid() {
  local now
  now=$(pid_of "$1") && [[ $now != 0 && $now != "$2" ]]
}

is_stopped() { [[ $(pid_of "$1") == 0 ]]; }

# The number of the host whose node leads.
leader_host() {
  local name
  name=$(on 1 konsulctl cluster leader --json | jq --raw-output .name)
  echo "${name#n}"
}

# Removes the control groups of host $1, which takes until the last of their processes has died.
groups_are_gone() {
  local tree group
  for tree in unified systemd; do
    group=/sys/fs/cgroup/$tree/$HOSTS_NAME-$1
    [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
    [[ ! -d $group ]] || return 1
  done
}

hosts_down() {
  local dir n pid
  for dir in "$HOSTS_DIR"/[0-9]*; do
    [[ -e $dir/nspawn ]] || continue
    n=$(basename "$dir")
    pid=$(init_of "$n" 2>/dev/null) && kill -KILL "$pid"
    kill -KILL "$(cat "$dir/nspawn")" 2>/dev/null
    wait_until "host $n is down" 30 is_gone "$(cat "$dir/nspawn")"
    umount --lazy "$dir/root"
    [[ ! -d $dir/disk ]] || umount --lazy "$dir/disk"
    ip netns del "$HOSTS_NAME-$n"
    wait_until "the control groups of host $n are gone" 30 groups_are_gone "$n" || true
  done
  ip netns del "$SWITCH" 2>/dev/null
  rm -rf "$HOSTS_DIR"
}

# wait_until WHAT SECONDS COMMAND...: until it succeeds; else fails and says what never came.
wait_until() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= end)); then
      echo "never: $what ($*)" >&2
      "$@" >&2
      return 1
    fi
    sleep 0.2
  done
}
