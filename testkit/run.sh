#!/usr/bin/env bash
# What `make demo`, `make test` and others do, phase by phase, with the time of each.
# Usage: run.sh demo [NAME] | test | bench | bench-operator [OPTION...] | lint | audit | clean-lab
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
bin=$target/x86_64-unknown-linux-gnu/debug
release=$target/x86_64-unknown-linux-gnu/release
times=()

phase() {
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  if ! "$@"; then
    echo "== $name failed after $((SECONDS - began)) s" >&2
    exit 1
  fi
  times+=("$(printf '%5d s  %s' $((SECONDS - began)) "$name")")
}

summary() {
  echo "== time"
  printf '%s\n' "${times[@]}" "$(printf '%5d s  %s' "$SECONDS" all)"
}

# Lists of phases side by side where there is memory for a lab each. The output of a list is shown when it has ended; one
# that fails does not end the others, so each takes its lab away.
side_by_side() {
  local list file free status=0 pids=() names=()
  free=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
  if [ "$free" -lt $((4 * $#)) ]; then
    for list in "$@"; do "$list"; done
    return
  fi
  mkdir -p target/phases
  # A group of processes for each list: an interrupt reaches all that it has started.
  set -m
  for list in "$@"; do
    file=target/phases/$list
    rm -f "$file.times"
    (times=(); "$list"; printf '%s\n' "${times[@]}" >"$file.times") >"$file.log" 2>&1 &
    pids+=($!)
  done
  set +m
  # shellcheck disable=SC2064 # these processes, not those of later
  trap "kill -INT ${pids[*]/#/-} 2>/dev/null; exit 130" INT TERM
  echo "== side by side: $*; the output is in target/phases"
  names=("$@")
  for list in "${!pids[@]}"; do
    file=target/phases/${names[list]}
    wait "${pids[list]}" || status=1
    cat "$file.log"
    [ ! -e "$file.times" ] || mapfile -t -O "${#times[@]}" times <"$file.times"
  done
  trap - INT TERM
  [ "$status" = 0 ] || exit 1
}

# Everything at once, tests included: a selection of packages would unify features differently and compile the
# dependencies once more.
build() { cargo build --workspace --all-targets --locked; }
clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

# Every generated file: what would be written is compared with the commit.
generated() { "$bin/xtask" generate --check; }

# All tests that need no lab. Those against the simulated IM&P wait far more than they compute, so many run at once.
tests() {
  local file name others=()
  for file in tests/*.rs tests/*/main.rs */tests/*.rs */tests/*/main.rs; do
    [ -e "$file" ] || continue
    name=$(basename "${file%/main.rs}" .rs)
    [ "$name" = imp ] || others+=(--test "$name")
  done
  cargo test --workspace --locked --lib --bins "${others[@]}" &&
    cargo test --workspace --locked --doc &&
    cargo test --workspace --locked --test imp -- --test-threads=8
}

# A lab of this checkout's own, so that neither a demo nor another checkout's tests are disturbed.
test_lab() { echo "test$(pwd | sha256sum | cut -c1-8)"; }

# The rules of the resource, asked of the lab's API server.
crd_rules() {
  "$bin/testkit" lab exec --name "$1" -- env "KUBECONFIG_TEST=$PWD/target/lab/$1/kubernetes/admin.kubeconfig" \
    cargo test --workspace --locked --test crd_rules
}

# The chart takes over from deploy/: the operator that it installs finds the resource in order, and leaves it so.
chart_takes_over() {
  local lab=("$bin/testkit" lab exec --name "$1" --) tools=$PWD/target/lab-bin ns=xmpp-federation-system
  local kubectl=("${lab[@]}" "$tools/kubectl" --kubeconfig "$PWD/target/lab/$1/kubernetes/admin.kubeconfig")
  "${kubectl[@]}" delete -f deploy/rbac.yaml -f deploy/deployment.yaml
  "${lab[@]}" "$tools/helm" --kubeconfig "$PWD/target/lab/$1/kubernetes/admin.kubeconfig" \
    install xmpp-federation-operator charts/xmpp-federation-operator --namespace "$ns" --wait --timeout 120s \
    --set crds.enabled=false \
    --set image.repository=localhost/xmpp-federation-operator --set image.tag=dev \
    --set edgeImage.repository=localhost/xmpp-federation-edge --set edgeImage.tag=dev
  # The new operator has looked at the resource when it has noted this request as served.
  "${kubectl[@]}" -n federation annotate xfed coluc --overwrite xmppfederation.io/refresh="chart-$$"
  "${kubectl[@]}" -n federation wait xfed coluc --timeout=60s \
    --for=jsonpath='{.status.handledRequests[?(@.value=="chart-'"$$"'")].value}'="chart-$$"
  "${kubectl[@]}" -n federation wait xfed coluc --for=condition=Ready --timeout=60s
  "${kubectl[@]}" -n federation get xfed coluc
}

# A stage of the scenario, in a lab that stays; without a name the first one, which starts the lab.
stage() { "$bin/testkit" demo --name "$1" --keep ${2:+--stage "$2"}; }

stages() {
  stage "$1" &&
    stage "$1" beyond &&
    crd_rules "$1" &&
    chart_takes_over "$1" &&
    stage "$1" rights &&
    stage "$1" migration
}

# The scenario with IPv6 before IPv4, by the chart, for three namespaces: a lab of its own, which the command removes.
dual() { "$bin/testkit" demo --name "dual$(test_lab)" --stage dual; }

# Plays the demo's steps and what needs its lab, and removes the lab whatever the outcome; the logs of a failure stay.
demo_steps() {
  local name status=0
  name=$(test_lab)
  stages "$name" || status=$?
  if [ "$status" != 0 ]; then
    echo "the logs of this run are in target/lab-logs/$name" >&2
    "$bin/testkit" lab down --name "$name" --keep-logs "target/lab-logs/$name" || true
  else
    "$bin/testkit" lab down --name "$name" || status=$?
  fi
  return "$status"
}

# The scenario once more: two nodes, enforced policies, a quota, assigned users. The lab is its own, removed at the end.
strict_steps() { "$bin/testkit" demo --stage strict --name "$(test_lab)e"; }

# A lab of its own: for ten minutes after a restore no router is restarted unasked, which other steps wait for.
restore_steps() {
  local name status=0
  name=$(test_lab)r
  { stage "$name" && stage "$name" restore; } || status=$?
  "$bin/testkit" lab down --name "$name" || status=$?
  return "$status"
}

# A few hundred messages through the benchmark's chain: it must not rot between the times that somebody needs figures.
bench_smoke() {
  "$bin/testkit" bench --smoke --dir target/bench-smoke --server "edge=$bin/xmpp-federation-edge" --server relay
}

# Figures want what is shipped: the release profile.
bench_build() { cargo build --release --locked -p xmpp-federation-edge -p testkit --bins --examples; }
bench_framer() { "$release/examples/framer"; }
bench_chain() {
  "$release/testkit" bench --server "edge=$release/xmpp-federation-edge" --server relay --server prosody --server ejabberd
}

# Hundreds of resources, cert-manager beside them; a few of them in a smoke run.
bench_operator_build() { cargo build --release --locked -p xmpp-federation-operator -p testkit --bins; }
bench_operator() {
  local bin=$1
  shift
  "$bin/testkit" bench-operator --name "$(test_lab)" --operator "$bin/xmpp-federation-operator" "$@"
}
bench_operator_smoke() {
  bench_operator "$bin" --resources 4 --most 4 --idle 1 --rest 0 --limit 10 --starts 1 --json target/bench-smoke.json \
    --part one --part many --part dead --part namespaces
}

# Tests that start labs of their own, one after the other.
lab_tests() {
  cargo test --workspace --locked \
    --test lab --test partner --test interop --test packaging --test it -- --ignored --test-threads=1
}

# What is played side by side.
scenario() {
  phase "demo" demo_steps
  phase "demo, strict cluster" strict_steps
  phase "demo, restore" restore_steps
}
other_labs() { phase "dual stack" dual && phase "lab tests" lab_tests; }

# All attacks at once, and a partner's latency meanwhile: of the build that is shipped.
siege() {
  cargo build --release --locked -p xmpp-federation-edge --bins &&
    EDGE_TEST_BINARY=$(realpath "$release/xmpp-federation-edge") \
      cargo test --workspace --locked --test siege -- --ignored --nocapture
}

audit() {
  if ! command -v cargo-deny >/dev/null; then
    phase "cargo-deny" cargo install --locked cargo-deny --target x86_64-unknown-linux-gnu
  fi
  cargo deny --locked check bans licenses sources
}

# Every lab that was started from here, running or not; also when target/ was removed meanwhile.
clean_lab() {
  local file name here
  local -A labs=()
  here=$(pwd -P)
  for file in target/lab/*/.lab; do
    if [ -e "$file" ]; then
      name=$(basename "$(dirname "$file")")
      labs[$name]=$here/target/lab/$name
    fi
  done
  for file in /run/xf-*/checkout; do
    if [ -e "$file" ] && [ "$(cat "$file")" = "$here" ]; then
      name=$(basename "$(dirname "$file")")
      labs[${name#xf-}]=$(cat "$(dirname "$file")/owner")
    fi
  done
  [ ${#labs[@]} -gt 0 ] || { echo "there is no lab of this checkout"; return 0; }
  [ -x "$bin/testkit" ] || build
  for name in "${!labs[@]}"; do
    "$bin/testkit" lab down --name "$name" --dir "${labs[$name]}"
  done
}

case ${1:-} in
  demo)
    name=${2:-demo}
    phase "set-up" testkit/setup.sh kube pause
    phase "build" build
    phase "images" "$bin/testkit" lab images
    summary
    exec "$bin/testkit" demo --name "$name" --keep
    ;;
  test)
    phase "set-up" testkit/setup.sh kube pause helm policy-agent
    phase "format" cargo fmt --all --check
    phase "build" build
    phase "lints" clippy
    phase "tests" tests
    phase "generated files" generated
    phase "benchmark, smoke" bench_smoke
    phase "benchmark of the operator, smoke" bench_operator_smoke
    phase "images" "$bin/testkit" lab images
    side_by_side scenario other_labs
    phase "siege" siege
    summary
    ;;
  bench)
    phase "set-up" testkit/setup.sh pause
    phase "build" bench_build
    phase "framer" bench_framer
    phase "chain" bench_chain
    summary
    ;;
  bench-operator)
    phase "set-up" testkit/setup.sh kube helm cert-manager
    phase "build" bench_operator_build
    phase "operator" bench_operator "$release" "${@:2}"
    summary
    ;;
  lint)
    phase "format" cargo fmt --all --check
    phase "lints" clippy
    ;;
  audit) audit ;;
  clean-lab) clean_lab ;;
  *)
    echo "usage: run.sh demo [NAME] | test | bench | bench-operator [OPTION...] | lint | audit | clean-lab" >&2
    exit 2
    ;;
esac
