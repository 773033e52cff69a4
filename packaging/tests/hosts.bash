# Hosts with a real systemd as PID 1: containers on a bridge, each with its own address, made from one root.
# For bats. Everything made here is named after $HOSTS_NAME and taken away by hosts_down.
# shellcheck shell=bash

HOSTS_NAME=${HOSTS_NAME:-kh$$}
SWITCH=$HOSTS_NAME-sw

# The address of host N.
address() { echo "10.77.0.$1"; }

# What a host has before anything of ours is installed.
ROOT_PACKAGES=systemd,systemd-sysv,dbus,libnss-systemd,iproute2,procps,ca-certificates,rpm,sudo,needrestart

# A Debian root of suite $1, made once and kept in target/; anew when other packages belong into it.
root_of() {
  local dir=$REPO/target/hosts/$1
  if [[ $(cat "$dir/.made" 2>/dev/null) != "$ROOT_PACKAGES" ]]; then
    rm -rf "$dir"
    mkdir -p "$dir"
    (
      set -o pipefail
      mmdebstrap --quiet --variant=minbase --include="$ROOT_PACKAGES" "$1" - http://deb.debian.org/debian | tar -C "$dir" -x >&2
    ) || return
    echo "$ROOT_PACKAGES" >"$dir/.made"
  fi
  echo "$dir"
}

hosts_network() {
  ip netns add "$SWITCH"
  ip -n "$SWITCH" link set lo up
  ip -n "$SWITCH" link add br0 type bridge
  ip -n "$SWITCH" link set br0 up
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
    # Without a filter by the kernel, IPAddressDeny= is silently without effect.
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --directory="$dir/root" \
      --machine="$HOSTS_NAME-n$n" --hostname="n$n" --boot --register=no --keep-unit --console=pipe \
      --kill-signal=SIGRTMIN+3 --system-call-filter=bpf --network-namespace-path="/run/netns/$HOSTS_NAME-$n" "${more[@]}" \
      </dev/null >>"$dir/console" 2>&1 3>&-
  ) &
  echo $! >"$dir/nspawn"
  wait_until "host $n is up" 60 is_up "$n"
}

# PID 1 of host $1, as this machine numbers it.
init_of() {
  local child
  for child in $(pgrep -P "$(cat "$HOSTS_DIR/$1/nspawn")"); do
    if grep --quiet --extended-regexp '^NSpid:.*\s1$' "/proc/$child/status" 2>/dev/null; then
      echo "$child"
      return
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
      return
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

# Ends host $1 as a power cut does, or orderly with `poweroff` as $2.
host_stop() {
  local n=$1 pid
  pid=$(cat "$HOSTS_DIR/$n/nspawn") || return 0
  if [[ ${2:-} == poweroff ]]; then kill -TERM "$pid"; else kill -KILL "$(init_of "$n")"; fi 2>/dev/null
  wait_until "host $n is down" 90 is_gone "$pid"
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

# Removes the control groups of host $1, which takes until the last of their processes has died.
groups_are_gone() {
  local tree group
  for tree in unified systemd; do
    group=/sys/fs/cgroup/$tree/$HOSTS_NAME-$1
    [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
    [[ ! -d $group ]] || return
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
    wait_until "the control groups of host $n are gone" 10 groups_are_gone "$n" || true
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
