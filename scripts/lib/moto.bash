# What tests in bash need of moto, which plays S3.
# shellcheck shell=bash

# A virtual environment with moto: that of the tests of the daemon, made if there is none yet, which needs PyPI.
moto_environment() { # root of the repository
  local what dir=$1/target/tmp name
  what=$(sed --quiet 's/^const MOTO: &str = "\(.*\)";/\1/p' "$1/daemon/tests/discovery/moto.rs")
  name=$(tr --complement '[:alnum:].\n' - <<<"$what")
  mkdir -p "$dir"
  (
    flock 9
    [[ -e $dir/$name.done ]] || {
      virtualenv --quiet --clear "$dir/$name" && "$dir/$name/bin/pip" install --quiet "$what" && touch "$dir/$name.done"
    } >&2
  ) 9>"$dir/moto.lock" || return
  echo "$dir/$name"
}
