# Sourced by the other scripts: what they need, installed if it is missing. Debian and its like, as root.
#   install_packages COMMAND=PACKAGE ...      by apt-get, only those whose command is missing
#   install_longshore [EXTRA]                 this checkout into .venv (with an extra of pyproject.toml)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*" >&2; }

need_root() {
  [ "$(id -u)" = 0 ] || { say "this needs root: longshore does, for now (sudo bash $0)"; exit 125; }
}

install_packages() {
  local missing=() pair
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || [ -e "${pair%%=*}" ] || missing+=("${pair##*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || { say "please install: ${missing[*]}"; exit 125; }
  say "installing ${missing[*]}"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_longshore() {
  local extra=${1:-} python=python3 stamp
  if [ ! -x .venv/bin/pip ]; then
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages ensurepip-module=python3-venv
    say "making .venv"
    "$python" -m venv .venv
  fi
  stamp=".venv/.installed${extra:+-$extra}"
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    say "installing longshore into .venv"
    .venv/bin/pip install --quiet --editable ".${extra:+[$extra]}"
    touch "$stamp"
  fi
}
