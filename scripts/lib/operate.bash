# Shared by scripts that act on a cluster that is in use: backup, restore, recovery, rolling-upgrade.
# shellcheck shell=bash disable=SC2034,SC2154 # set and used by those who source it

self=scripts/${0##*/}
ctl=${KONSULCTL:-konsulctl}
servers="" dry=no

# The exit codes of all of them.
EXIT_FAILED=1 EXIT_USAGE=2 EXIT_PRECONDITION=3 EXIT_DAMAGED=4 EXIT_ROLLED_BACK=6 EXIT_PARTIAL=7 EXIT_LEADERLESS=10

stop_with() { # code, text
  echo "$self: $2" >&2
  exit "$1"
}

usage_error() { stop_with "$EXIT_USAGE" "$*; see $self --help"; }
unmet() { stop_with "$EXIT_PRECONDITION" "$*"; }
failed() { stop_with "$EXIT_FAILED" "$*"; }

need_value() { [[ $1 -ge 2 ]] || usage_error "$2 needs a value"; }

need_command() { # command, package, what for
  command -v "$1" >/dev/null || unmet "no $1 ($3); run: apt-get install $2"
}

need_ctl() {
  command -v "$ctl" >/dev/null || unmet "no $ctl; install the package konsul, or set KONSULCTL to where it is"
}

# konsulctl asking the servers of --server, or whom it asks by itself.
ask() { "$ctl" ${servers:+--server "$servers"} --timeout 30s "$@"; }

# Says what would be done, and whether it is to be done.
acts() {
  [[ $dry == yes ]] || return 0
  echo "would $*"
  return 1
}

# The cluster answers and has a leader; its id is in $cluster.
need_leader() {
  local status
  status=$(ask --json cluster status 2>&1) || unmet "no server answers: $(one_line "$status"); name one with --server"
  cluster=$(jq -r .cluster_id <<<"$status")
  [[ -n $cluster ]] || unmet "the server is in no cluster: $(jq -r '.node.waiting // empty' <<<"$status")"
  [[ $(jq -r .has_quorum <<<"$status") == true ]] ||
    stop_with "$EXIT_LEADERLESS" "there is no leader: nothing can be written; see runbooks/no-leader.md"
}

is_bucket() { [[ $1 == s3://* ]]; }

one_line() { tr '\n' ' ' <<<"$1" | sed 's/ *$//'; }

# Directory that can be written to and has so many MiB free; of a bucket that shows when it is used.
need_room() { # directory, MiB, option that names it
  ! is_bucket "$1" || return 0
  [[ -d $1 ]] || unmet "$1 is no directory; make it, or name another with $3"
  [[ -w $1 ]] || unmet "$1 cannot be written to by $(id -un); run this as its owner, or name another with $3"
  local free
  free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
  [[ $free -ge $2 ]] || unmet "$free MiB are free in $1, $2 are needed; make room, or name another with $3"
}
