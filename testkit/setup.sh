#!/usr/bin/env bash
# Prepares a Debian machine for the lab: packages, and the tools that are built from source into target/lab-bin.
# Usage: setup.sh [kube] [pause] [helm] [cert-manager] [policy-agent]   (root; quick when all is there)
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${TESTKIT_TOOLS:-$PWD/target/lab-bin}

RUST=1.95
GO=1.26
PACKAGES=(
  containerd runc containernetworking-plugins buildah # containers
  iproute2 nftables conntrack kmod procps util-linux  # network namespaces, kube-proxy
  iptables ipset                                      # the agent that enforces policies
  gcc libc6-dev binutils                              # static binaries
  libexpat1-dev                                       # the judge of what the edge writes to a router
  prosody lua-event lua-unbound ejabberd              # federation partners; without libunbound Prosody asks the machine's resolver
  ca-certificates curl openssl
)

fail() { echo "setup: $*" >&2; exit 1; }
say() { echo "setup: $*"; }

# at_least HAVE WANT: compares dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# timed WHAT COMMAND...: runs it with its output in a log, and tells every 15 seconds that it still runs.
timed() {
  local what=$1 log began=$SECONDS pid told=$SECONDS
  shift
  mkdir -p target
  log=target/setup-${what//[^a-z]/-}.log
  say "$what ..."
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - told)) -ge 15 ]; then
      told=$SECONDS
      say "$what: $((SECONDS - began)) s so far"
    fi
  done
  if ! wait "$pid"; then
    tail -n 20 "$log" >&2
    fail "$what failed after $((SECONDS - began)) s; all it said is in $log"
  fi
  say "$what: done in $((SECONDS - began)) s"
}

check_machine() {
  [ "$(uname -s)" = Linux ] || fail "this needs Linux: the lab is made of network namespaces, cgroups and containers"
  [ "$(uname -m)" = x86_64 ] || fail "this needs an x86_64 machine, and this one is $(uname -m): the images' binaries are built for x86_64"
  [ "$(id -u)" = 0 ] || fail "this needs root: it installs Debian packages and makes network namespaces, mounts and cgroups"
  local id='' version=''
  if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && echo "${ID:-}")
    version=$(. /etc/os-release && echo "${VERSION_ID:-}")
  fi
  case $id:$version in
    debian:12) ;;
    debian:13) say "warning: this is Debian 13; the lab is tested on Debian 12" ;;
    *) fail "this needs Debian 12 (bookworm), and this is ${id:-unknown} ${version:-}: containerd, runc, buildah and the partner servers come from its packages" ;;
  esac
}

check_rust() {
  local hint="install it by rustup (https://rustup.rs)" have
  command -v cargo >/dev/null && command -v rustc >/dev/null || fail "this needs Rust $RUST or newer, and cargo is not on the PATH: $hint"
  have=$(rustc --version | awk '{print $2}')
  at_least "${have%%-*}" "$RUST" || fail "this needs Rust $RUST or newer, and this is $have: run \`rustup update\`"
  # The lints and the format are part of the tests; a minimal toolchain lacks them.
  for component in clippy rustfmt; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
      command -v rustup >/dev/null || fail "this needs cargo ${component/rustfmt/fmt}: $hint"
      timed "$component" rustup component add "$component"
    fi
  done
}

check_go() {
  local hint="install it from https://go.dev/dl" have
  command -v go >/dev/null || fail "this needs Go $GO or newer, and go is not on the PATH: $hint"
  have=$(go env GOVERSION)
  have=${have#go}
  at_least "${have%%[^0-9.]*}" "$GO" || fail "this needs Go $GO or newer, and this is $have: $hint"
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

policy=/usr/sbin/policy-rc.d
mark="written by the set-up of the lab, for the time of an installation"
restore_policy() {
  rm -f "$policy"
  [ ! -e "$policy.before-lab" ] || mv "$policy.before-lab" "$policy"
}

install_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  # The lab runs these servers itself, in its own network: the packages must not start theirs.
  if [ -e "$policy" ] && ! grep -q "$mark" "$policy"; then mv "$policy" "$policy.before-lab"; fi
  trap restore_policy EXIT
  printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
  chmod 755 "$policy"
  say "installing ${missing[*]}"
  if ! apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    # Most often the package lists are old or absent. A source that is not Debian's may be out of reach: the installation tells.
    timed "package lists" sh -c 'apt-get update || true'
    timed "packages" apt-get install -y --no-install-recommends "${missing[@]}"
  fi
  if command -v systemctl >/dev/null; then
    for package in containerd prosody ejabberd; do
      # Nor at the next boot, unless they were there before.
      [[ " ${missing[*]} " != *" $package "* ]] || systemctl disable "$package" >/dev/null 2>&1 || true
    done
    # Erlang's port mapper came with ejabberd.
    [[ " ${missing[*]} " != *" ejabberd "* ]] || systemctl disable epmd.service epmd.socket >/dev/null 2>&1 || true
  fi
  restore_policy
  trap - EXIT
}

# build NAME STAMP COMMAND...: runs the command, which writes $tools/NAME, unless it was built from the same sources.
build() {
  local name=$1 stamp=$2
  shift 2
  if [ -x "$tools/$name" ] && [ "$(cat "$tools/$name.stamp" 2>/dev/null)" = "$stamp" ]; then return 0; fi
  mkdir -p "$tools"
  rm -f "$tools/$name.stamp"
  timed "building $name" "$@"
  echo "$stamp" >"$tools/$name.stamp"
}

stamp() { cat "$@" <(go env GOVERSION) | sha256sum | cut -d' ' -f1; }

build_kube() {
  local dir=testkit/control-plane version flags v=k8s.io/component-base/version
  version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' $dir/go.mod)
  # What `kubectl version` and the node say; the upstream build sets the same.
  flags="-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$(echo "$version" | cut -d. -f2)"
  build kube "$(stamp $dir/go.mod $dir/go.sum $dir/main.go)" \
    go -C $dir build -trimpath -mod=readonly -ldflags "$flags" -o "$tools/kube" .
  printf '#!/bin/sh\nexec "%s" kubectl "$@"\n' "$tools/kube" >"$tools/kubectl"
  chmod 755 "$tools/kubectl"
}

build_helm() {
  local dir=testkit/helm
  build helm "$(stamp $dir/go.mod $dir/go.sum)" \
    go -C $dir build -trimpath -mod=readonly -ldflags "-s -w" -o "$tools/helm" helm.sh/helm/v4/cmd/helm
}

# With the definitions of its resources, from the same module.
compile_cert_manager() {
  local module file
  go -C "$1" build -trimpath -mod=readonly -ldflags "-s -w" -o "$tools/cert-manager" . || return
  module=$(go -C "$1" list -mod=readonly -m -f '{{.Dir}}' github.com/cert-manager/cert-manager) || return
  for file in "$module"/deploy/crds/*.yaml; do
    echo "---"
    cat "$file"
  done >"$tools/cert-manager.yaml"
}

build_cert-manager() {
  local dir=testkit/cert-manager
  build cert-manager "$(stamp $dir/go.mod $dir/go.sum $dir/main.go)" compile_cert_manager $dir
}

build_policy-agent() {
  local dir=testkit/policy-agent
  build kube-router "$(stamp $dir/go.mod $dir/go.sum)" \
    go -C $dir build -trimpath -mod=readonly -ldflags "-s -w" -o "$tools/kube-router" \
    github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
}

build_pause() {
  local source=testkit/images/pause/pause.c
  build pause "$(sha256sum <$source)" gcc -static -O2 -s -Wall -Wextra -Werror -o "$tools/pause" $source
}

check_machine
check_rust
check_go
install_packages
for part in "${@:-kube pause}"; do
  for one in $part; do
    case $one in
      kube | helm | pause | cert-manager | policy-agent) "build_$one" ;;
      *) fail "there is no part $one: use kube, helm, pause, cert-manager, policy-agent" ;;
    esac
  done
done
