# Shared by the scripts beside it; sourced, never run.

# The system's Python: a virtual environment made from another one would be built against the wrong headers.
system_python=/usr/bin/python3
[ -x "$system_python" ] || system_python=python3

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# The comment at the head of a script is its help text.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"; }

# need WHAT:PACKAGE... installs the Debian packages whose command, file (a path, globs allowed) or Python module
# (@name) is missing, so that a machine which has everything needs neither root nor a network.
need() {
  local item what package missing=()
  for item in "$@"; do
    what=${item%:*} package=${item##*:}
    case $what in
      /*) compgen -G "$what" >/dev/null || missing+=("$package") ;;
      @*) "$system_python" -c "import ${what#@}" 2>/dev/null || missing+=("$package") ;;
      *) command -v "$what" >/dev/null || [ -x "/usr/sbin/$what" ] || [ -x "/sbin/$what" ] || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "needs these Debian packages, and neither is this root nor does sudo work without a password:
    sudo apt-get install -y --no-install-recommends ${missing[*]}"
    sudo=(sudo -n)
  fi
  command -v apt-get >/dev/null || die "needs these packages, and there is no apt-get here: ${missing[*]}"
  echo "installing: ${missing[*]}" >&2
  local log lock=/tmp/borg-serve-apt-$(id -u).lock
  log=$(mktemp)
  (
    flock -w 600 8 # two scripts may both miss something
    apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"; }
    apt install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
      { apt update >"$log" 2>&1 && apt install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; }
  ) 8>"$lock" || { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get could not install: ${missing[*]}"; }
  rm -f "$log"
}
