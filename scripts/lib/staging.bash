# Shared by scripts/env and scripts/chaos: a private cluster on this host, described by one directory.
# shellcheck shell=bash disable=SC2034,SC2154 # set and used by those who source it
#
#   D/test-cluster   the mark: this cluster may be broken on purpose; and what it consists of, one NAME=VALUE a line
#   D/bin/           the programs it runs: a copy, so that a new build does not change a running cluster
#   D/nI.toml, D/nI.log, D/nI.pid, D/nI/   configuration, log, process and data of node I
#   D/nI.bin/        other programs for node I alone, if it was given some
#   D/nI.img         its disk, if it has one of its own

self=scripts/${0##*/}
MARK=test-cluster
FIRST_UID=61100 # as root each node runs under a user id of its own, so that its packets can be told from others'

# Exit codes of scripts that act on a cluster.
EXIT_FAILED=1 EXIT_USAGE=2 EXIT_PRECONDITION=3

usage_error() {
  echo "$self: $*; see $self --help" >&2
  exit "$EXIT_USAGE"
}

unmet() {
  echo "$self: $*" >&2
  exit "$EXIT_PRECONDITION"
}

failed() {
  echo "$self: $*" >&2
  exit "$EXIT_FAILED"
}

need_command() { # command, package, what for
  command -v "$1" >/dev/null || unmet "no $1 ($3); run: apt-get install $2"
}

default_dir() { echo "${STAGING_DIR:-${TMPDIR:-/tmp}/konsul-env-$UID}"; }

# Reads the mark of the cluster in $dir; nothing of it is executed.
read_mark() {
  [[ -f $dir/$MARK ]] || unmet "$dir holds no test cluster (no file $MARK); make one with: scripts/env --dir $dir start"
  local name value
  nodes="" base="" disk="" uids="" plain=""
  while IFS='=' read -r name value; do
    case "$name" in
      nodes) nodes=$value ;;
      base) base=$value ;;
      disk) disk=$value ;;
      uids) uids=$value ;;
      plain) plain=$value ;;
      *) unmet "$dir/$MARK: \"$name\" is not known to this version; make the cluster anew: scripts/env --dir $dir reset" ;;
    esac
  done <"$dir/$MARK"
  [[ $nodes =~ ^[1-9]$ && $base =~ ^[0-9]+$ && $disk =~ ^[0-9]+$ && $uids =~ ^(yes|no)$ && $plain =~ ^(yes|no)$ ]] ||
    unmet "$dir/$MARK is damaged; make the cluster anew: scripts/env --dir $dir reset"
  bin=$dir/bin
}

http_port() { echo $((base + $1)); }
rpc_port() { echo $((base + 50 + $1)); }
http() { echo "http://127.0.0.1:$(http_port "$1")"; }

# konsulctl asking node number $1.
ask() { "$bin/konsulctl" --server "$(http "$1")" --timeout 5s "${@:2}"; }

all_servers() {
  local i all=""
  for ((i = 1; i <= nodes; i++)); do all+=,$(http "$i"); done
  echo "${all#,}"
}

# "n2" → 2, if there is such a node.
node_number() {
  [[ $1 =~ ^n([1-9])$ && ${BASH_REMATCH[1]} -le $nodes ]] || usage_error "no node \"$1\"; there are n1 to n$nodes"
  echo "${BASH_REMATCH[1]}"
}

# The process of node number $1, if it runs: a process id that was given to somebody else meanwhile does not count.
pid_of() {
  local pid
  pid=$(cat "$dir/n$1.pid" 2>/dev/null) || return
  # It may end meanwhile, and then there is nothing to be read.
  [[ -n $pid && $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) == *"--config $dir/n$1.toml "* ]] && echo "$pid"
}

# Where the programs of node number $1 are.
bin_of() { if [[ -x $dir/n$1.bin/konsuld ]]; then echo "$dir/n$1.bin"; else echo "$bin"; fi; }

uid_of() { echo $((FIRST_UID + $1)); }

# Starts node number $1 so that it outlives this script; what else is given is put in front of its command line.
start_node() {
  local i=$1 as=() clean=(env -i "PATH=$PATH" LANG=C)
  shift
  [[ -z $(pid_of "$i") ]] || return 0
  if [[ $uids == yes ]]; then
    as=(setpriv "--reuid=$(uid_of "$i")" "--regid=$(uid_of "$i")" --clear-groups)
  fi
  # konsuld refuses what begins with KONSUL_ and is no key of its: who tests may have set such things.
  setsid "${clean[@]}" "${as[@]}" "$@" "$(bin_of "$i")/konsuld" --config "$dir/n$i.toml" >>"$dir/n$i.log" 2>&1 </dev/null 3>&- &
  echo "$!" >"$dir/n$i.pid"
  disown
}

# Ends node number $1, if it runs, with signal $2, and waits until it has.
end_node() {
  local pid end=$((SECONDS + 30))
  pid=$(pid_of "$1")
  [[ -n $pid ]] || return 0
  if ! kill "-$2" "$pid" 2>/dev/null && [[ -n $(pid_of "$1") ]]; then
    unmet "n$1 (process $pid) was started by another user; run this as that one, or with sudo"
  fi
  # A stopped process obeys nothing but SIGKILL until it goes on.
  kill -CONT "$pid" 2>/dev/null
  while [[ -n $(pid_of "$1") ]]; do
    ((SECONDS < end)) || kill -KILL "$pid" 2>/dev/null
    sleep 0.05
  done
}

# Waits until a command succeeds: seconds, what for, the command.
await() {
  local end=$((SECONDS + $1))
  until "${@:3}" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

is_ready() { ask "$1" health --ready; }

all_ready() {
  local i
  for ((i = 1; i <= nodes; i++)); do is_ready "$i" || return; done
}

# Number of the node that leads, as any that answers knows.
leader_number() {
  local name
  name=$("$bin/konsulctl" --server "$(all_servers)" --timeout 5s cluster leader 2>/dev/null | awk '$1 == "Node" { print $2 }')
  [[ $name =~ ^n[1-9]$ ]] && echo "${name#n}"
}
