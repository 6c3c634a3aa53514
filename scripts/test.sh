#!/usr/bin/env bash
# Installs what the tests need on a Debian-like machine, then runs them all, the cheap ones first.
#
#   scripts/test.sh                      everything; stops at the first stage that fails
#   scripts/test.sh fmt lint tidy unit   some stages, in this order of their own
#   scripts/test.sh oracle [--record]    recorded API behaviour; --record adds what passes now to tests/oracle/passing.txt
#   scripts/test.sh e2e [part of a name] real containerd and kubectl; needs root
#
# With CI=true a missing prerequisite is a failure; otherwise what cannot be run here is skipped with a reason.
set -euo pipefail
cd "$(dirname "$0")/.."

ci=${CI:-false}
passed=0
failed=0
skipped=()
KUBECTL_VERSION=v1.33.4
KUBECTL_OLD_VERSION=v1.27.16
tools=$PWD/target/tools
export PATH="$HOME/.cargo/bin:$tools:$PATH:/usr/sbin:/sbin"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
[ "$ci" = true ] && export CARGO_INCREMENTAL=0

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

finish() {
  for reason in ${skipped[@]+"${skipped[@]}"}; do echo "skipped: $reason"; done
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
  exit
}

# stage NAME COMMAND...: runs it, prints its time, adds its counts, and ends everything when it fails.
stage() {
  local name=$1 begun=$SECONDS log status=0 p f
  shift
  say "$name"
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" || status=$?
  counts "$log" "$status"
  rm -f "$log"
  echo "$name: $((SECONDS - begun)) s"
  if [ "$status" -ne 0 ]; then
    echo "$name failed"
    finish
  fi
}

# What a stage says of itself: nextest's summary, or a closing "N passed, N failed"; else it is one check.
counts() {
  local plain p=0 f=0
  plain=$(sed 's/\x1b\[[0-9;]*m//g' "$1" | grep -E 'tests? run: |^[0-9]+ passed, [0-9]+ failed' | tail -n 1 || true)
  p=$(grep -oE '[0-9]+ passed' <<<"$plain" | grep -oE '[0-9]+' | head -n 1 || true)
  f=$(grep -oE '[0-9]+ (failed|timed out)' <<<"$plain" | grep -oE '^[0-9]+' | head -n 1 || true)
  if [ -z "$plain" ]; then
    if [ "$2" -eq 0 ]; then p=1; else f=1; fi
  fi
  if [ "$2" -ne 0 ] && [ "${f:-0}" -eq 0 ]; then f=1; fi
  passed=$((passed + ${p:-0}))
  failed=$((failed + ${f:-0}))
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi
}

# lacks REASON: a failure in CI, a skip elsewhere.
lacks() {
  if [ "$ci" = true ]; then
    echo "missing: $1"
    failed=$((failed + 1))
    finish
  fi
  skipped+=("$1")
}

packages() {
  # program:package
  local wanted=(gcc:gcc curl:curl git:git python3:python3 jq:jq tar:tar containerd:containerd runc:runc nft:nftables
    ip:iproute2 busybox:busybox-static openssl:openssl script:bsdutils unshare:util-linux ps:procps
    conntrack:conntrack modprobe:kmod etcd:etcd-server etcdctl:etcd-client)
  local missing=() entry
  for entry in "${wanted[@]}"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" && return 0
  fi
  lacks "packages ${missing[*]}: install them"
}

rust() {
  if ! command -v cargo >/dev/null; then
    echo "installing rust"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
  fi
  cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
}

# kubectl VERSION NAME: fetched once into target/tools, checked against its published checksum.
fetch_kubectl() {
  local version=$1 target=$tools/$2 architecture sum
  case "$(uname -m)" in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) return 1 ;; esac
  mkdir -p "$tools"
  local url=https://dl.k8s.io/release/$version/bin/linux/$architecture/kubectl
  curl -fsSL -o "$target.part" "$url" && sum=$(curl -fsSL "$url.sha256") &&
    echo "$sum  $target.part" | sha256sum -c --quiet && chmod +x "$target.part" && mv "$target.part" "$target"
}

kubectls() {
  local sdk=/usr/lib/google-cloud-sdk/bin
  if [ -z "${KUBECTL:-}" ] && [ ! -x $sdk/kubectl.1.33 ] && [ ! -x "$tools/kubectl.1.33" ] && ! command -v kubectl.1.33 >/dev/null; then
    fetch_kubectl $KUBECTL_VERSION kubectl.1.33 || command -v kubectl >/dev/null || lacks "kubectl 1.33: set KUBECTL"
  fi
  if [ -z "${KUBECTL_OLD:-}" ] && [ ! -x $sdk/kubectl.1.27 ] && [ ! -x "$tools/kubectl.1.27" ] && ! command -v kubectl.1.27 >/dev/null; then
    fetch_kubectl $KUBECTL_OLD_VERSION kubectl.1.27 || lacks "kubectl 1.27: set KUBECTL_OLD"
  fi
}

profile=default
[ "$ci" = true ] && profile=ci

fmt() { stage fmt cargo fmt --all --check; }
lint() { stage lint cargo clippy --locked --workspace --all-targets -- -D warnings; }
tidy() { stage tidy cargo nextest run --locked -P $profile -p kedge-tests --test tidy; }
# One build for all that follows: the programs beside the tests, with the same features.
build() { [ -n "${built:-}" ] || stage build cargo build --locked --workspace --lib --bins --tests; built=yes; }
unit() { build; stage unit cargo nextest run --locked -P $profile --workspace -E 'not binary(tidy)'; }
oracle() { build; stage oracle target/debug/oracle "$@"; }
e2e() {
  build
  if [ "$(id -u)" -ne 0 ]; then
    if as_root true 2>/dev/null; then
      stage e2e sudo -n env "PATH=$PATH" "KUBECTL=${KUBECTL:-}" "KUBECTL_OLD=${KUBECTL_OLD:-}" target/debug/e2e "$@"
      return
    fi
    lacks "e2e: needs root"
    return
  fi
  stage e2e target/debug/e2e "$@"
}

main() {
  local begun=$SECONDS
  say prerequisites
  packages
  rust
  case "${1:-all}" in
  all)
    kubectls
    fmt
    tidy
    lint
    unit
    oracle
    e2e
    ;;
  oracle)
    shift
    oracle "$@"
    ;;
  e2e)
    shift
    kubectls
    e2e "$@"
    ;;
  *)
    for name in "$@"; do
      case "$name" in
      fmt | lint | tidy | build | unit | oracle | e2e) ;;
      *)
        echo "no stage $name: allowed are fmt, lint, tidy, build, unit, oracle, e2e" >&2
        exit 2
        ;;
      esac
    done
    for name in fmt tidy lint build unit oracle e2e; do
      for wanted in "$@"; do if [ "$name" = "$wanted" ]; then "$name"; fi; done
    done
    ;;
  esac
  echo
  echo "all stages: $((SECONDS - begun)) s"
  finish
}

main "$@"
