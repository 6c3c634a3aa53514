#!/bin/sh
# Sets up kedge on this machine, and everything it needs, and leaves a running cluster with a sample workload answering.
#
#   ./install.sh                 from a clone: builds when no binary is given
#   ./install.sh --binary PATH   with a kedge that is built already
#   ./install.sh --no-sample     without the sample workload
#   ./install.sh --uninstall     undoes it all: pods, service, program, data, configuration
#
# Settings for the server go to /etc/kedge/config.yaml before, or after (then restart the service).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bin=/usr/local/bin
etc=/etc/kedge
data=/var/lib/kedge
run=/run/kedge
kubeconfig=$etc/kedge.yaml
KUBECTL_VERSION=v1.33.4
binary=
sample=yes
action=install
PATH=$PATH:$bin:/usr/sbin:/sbin
export PATH

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case "$1" in
  --binary)
    [ $# -ge 2 ] || die "--binary wants a path"
    binary=$2
    shift
    ;;
  --no-sample) sample=no ;;
  --uninstall) action=uninstall ;;
  -h | --help)
    sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'
    exit 0
    ;;
  *) die "unknown option $1: allowed are --binary PATH, --no-sample, --uninstall" ;;
  esac
  shift
done

[ "$(uname -s)" = Linux ] || die "kedge runs on Linux only"
case "$(uname -m)" in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) die "no kedge for $(uname -m)" ;;
esac

if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || die "needs root: run it as root, or install sudo"
  say "asking sudo for root"
  set --
  [ -n "$binary" ] && set -- "$@" --binary "$binary"
  [ "$sample" = no ] && set -- "$@" --no-sample
  [ "$action" = uninstall ] && set -- "$@" --uninstall
  exec sudo env "PATH=$PATH" "$here/install.sh" "$@"
fi

# Who cloned the repository builds in it.
owner() {
  if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    sudo -u "$SUDO_USER" -H env "PATH=$(eval echo "~$SUDO_USER")/.cargo/bin:$PATH" "$@"
  else
    "$@"
  fi
}

init_system() {
  if [ -d /run/systemd/system ]; then
    echo systemd
  elif [ -d /run/openrc ] && command -v rc-service >/dev/null; then
    echo openrc
  else
    echo background
  fi
}

# ---- what must be there

package_for() { # the name that this machine's package manager has for a program
  case "$2:$1" in
  *:nft) echo nftables ;;
  apt-get:ip | apk:ip | pacman:ip | zypper:ip) echo iproute2 ;;
  dnf:ip | yum:ip) echo iproute ;;
  apt-get:cc | dnf:cc | yum:cc | pacman:cc | zypper:cc) echo gcc ;;
  apk:cc) echo build-base ;;
  *:modprobe) echo kmod ;;
  apt-get:ps | dnf:ps | yum:ps) echo procps ;;
  *) echo "$1" ;;
  esac
}

manager() {
  for m in apt-get dnf yum apk pacman zypper; do
    if command -v $m >/dev/null; then
      echo $m
      return
    fi
  done
}

need() { # need PROGRAM...
  m=$(manager)
  packages=
  for program in "$@"; do
    command -v "$program" >/dev/null || packages="$packages $(package_for "$program" "$m")"
  done
  [ -z "$packages" ] && return 0
  [ -n "$m" ] || die "no package manager that I know: install$packages yourself, then run this again"
  say "installing$packages with $m"
  case $m in
  apt-get)
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    ;;
  dnf | yum) $m install -y -q $packages ;;
  apk) apk add -q $packages ;;
  pacman) pacman -Sy --noconfirm --needed $packages ;;
  zypper) zypper -n -q install $packages ;;
  esac || die "$m could not install$packages: see above"
  mkdir -p $etc
  echo "$packages" >>$etc/.installed-packages
}

get_binary() {
  if [ -n "$binary" ]; then
    [ -x "$binary" ] || die "$binary is not a program"
    return
  fi
  if [ -x "$here/kedge" ] && [ -f "$here/kedge" ]; then
    binary=$here/kedge # an unpacked release
    return
  fi
  [ -f "$here/Cargo.toml" ] || die "no kedge here: run this from a clone, or give --binary PATH"
  need cc curl git
  if ! owner sh -c 'command -v cargo >/dev/null || [ -x "$HOME/.cargo/bin/cargo" ]'; then
    say "installing rust (rustup, for the user who builds)"
    owner sh -c 'curl --proto "=https" --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -q -y --profile minimal'
  fi
  say "building kedge: some minutes, once"
  owner sh -c 'PATH=$HOME/.cargo/bin:$PATH exec "$1"' sh "$here/scripts/build-static.sh" || die "the build failed: see above"
  binary=$here/target/dist/kedge
  [ -x "$binary" ] || die "scripts/build-static.sh left no $binary"
}

get_kubectl() {
  command -v kubectl >/dev/null && return 0
  say "fetching kubectl $KUBECTL_VERSION"
  need curl
  url=https://dl.k8s.io/release/$KUBECTL_VERSION/bin/linux/$arch/kubectl
  part=$(mktemp)
  if curl -fsSL -o "$part" $url && sum=$(curl -fsSL $url.sha256) && echo "$sum  $part" | sha256sum -c - >/dev/null; then
    install -m 0755 "$part" $bin/kubectl
    mkdir -p $etc
    : >$etc/.installed-kubectl
    rm -f "$part"
  else
    rm -f "$part"
    die "cannot fetch kubectl from $url: install kubectl yourself, then run this again"
  fi
}

# ---- the service

stop_service() {
  case "$(init_system)" in
  systemd) systemctl stop kedge 2>/dev/null || true ;;
  openrc) rc-service -q kedge stop 2>/dev/null || true ;;
  esac
  if [ -x $bin/kedge-supervise ]; then $bin/kedge-supervise stop; fi
}

start_service() {
  case "$(init_system)" in
  systemd)
    install -m 0644 "$here/packaging/systemd/kedge.service" /etc/systemd/system/kedge.service
    systemctl daemon-reload
    systemctl enable -q kedge
    systemctl start --no-block kedge
    logs='journalctl -u kedge'
    again='systemctl restart kedge'
    ;;
  openrc)
    install -m 0755 "$here/packaging/openrc/kedge" /etc/init.d/kedge
    rc-update -q add kedge default
    rc-service -q kedge start
    logs='less /var/log/kedge.log'
    again='rc-service kedge restart'
    ;;
  background)
    install -m 0755 "$here/packaging/background/kedge-supervise" $bin/kedge-supervise
    $bin/kedge-supervise start
    logs='less /var/log/kedge.log'
    again="$bin/kedge-supervise stop && $bin/kedge-supervise start"
    ;;
  esac
}

k() { kubectl --kubeconfig $kubeconfig "$@"; }

wait_ready() {
  say "waiting for the node to be Ready"
  n=0
  until k get nodes 2>/dev/null | grep -q ' Ready '; do
    n=$((n + 1))
    if [ $n -gt 240 ]; then
      echo "the last words of kedge:" >&2
      case "$(init_system)" in
      systemd) journalctl -u kedge -n 20 --no-pager >&2 ;;
      *) tail -n 20 /var/log/kedge.log >&2 ;;
      esac
      die "no Ready node within two minutes; more: $logs"
    fi
    sleep 0.5
  done
}

start_sample() {
  say "starting a sample workload"
  # The default service account is made a moment after the node.
  n=0
  until k get serviceaccount default >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -gt 60 ] && die "no default service account; more: $logs"
    sleep 0.5
  done
  k apply -f "$here/packaging/sample.yaml"
  k rollout status deployment/hello --timeout=120s || {
    k describe pods -l app=hello >&2
    die "the sample workload does not get ready; more: $logs"
  }
  ip=$(k get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
  n=0
  until answer=$(curl -sf --max-time 3 "http://$ip:30080/"); do
    n=$((n + 1))
    [ $n -gt 30 ] && die "http://$ip:30080/ does not answer; more: $logs"
    sleep 0.5
  done
  printf '    $ curl http://%s:30080/\n    %s\n' "$ip" "$answer"
}

do_install() {
  need containerd runc nft ip modprobe curl
  get_binary
  get_kubectl
  modprobe -q overlay 2>/dev/null || true
  say "installing $bin/kedge"
  stop_service # an older one; its pods keep running
  mkdir -p $bin $etc
  install -m 0755 "$binary" $bin/kedge.new
  mv $bin/kedge.new $bin/kedge
  $bin/kedge check-config || die "this machine lacks something: see above"
  say "starting the service ($(init_system))"
  start_service
  wait_ready
  [ "$sample" = yes ] && start_sample
  sync # a power cut now must not cost what was just installed
  cat <<END

kedge is running. What to type next:

    export KUBECONFIG=$kubeconfig        (as root; or copy that file to ~/.kube/config)
    kubectl get nodes,pods,services -o wide
    kubectl create deployment web --image=docker.io/kedge/pause:1 --port=8080 -- /pause serve --port 8080
    kubectl expose deployment web --port=80 --target-port=8080 --type=NodePort

    logs:       $logs
    restart:    $again
    settings:   $etc/config.yaml (names: kedge server --help)
    remove:     $here/install.sh --uninstall
END
}

# Processes that hold our folders in their command line, by id.
ours() {
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    [ "$pid" != $$ ] || continue
    line=$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) || continue
    case "$line" in
    *containerd*"$run/"* | *containerd*"$data/"*) echo "$pid" ;;
    esac
  done
}

do_uninstall() {
  say "stopping kedge and its pods"
  stop_service
  if [ -x $bin/kedge ]; then $bin/kedge killall --data-dir $data --run-dir $run || true; fi
  for pid in $(ours); do kill -TERM "$pid" 2>/dev/null || true; done
  n=0
  while [ -n "$(ours)" ] && [ $n -lt 30 ]; do
    n=$((n + 1))
    sleep 0.1
  done
  for pid in $(ours); do kill -KILL "$pid" 2>/dev/null || true; done
  awk -v data="$data/" -v run="$run/" 'index($5, data) == 1 || index($5, run) == 1 {print $5}' /proc/self/mountinfo | sort -r |
    while read -r point; do umount -l "$point" 2>/dev/null || true; done
  say "removing the service, the program, data and configuration"
  if [ -f /etc/systemd/system/kedge.service ]; then
    systemctl disable -q kedge 2>/dev/null || true
    rm -f /etc/systemd/system/kedge.service
    systemctl daemon-reload 2>/dev/null || true
  fi
  if [ -f /etc/init.d/kedge ]; then
    rc-update -q del kedge default 2>/dev/null || true
    rm -f /etc/init.d/kedge
  fi
  [ -f $etc/.installed-kubectl ] && rm -f $bin/kubectl
  left=$(tr '\n' ' ' 2>/dev/null <$etc/.installed-packages || true)
  rm -rf $data $run $etc $bin/kedge $bin/kedge-supervise /run/kedge-supervise.pid /var/log/kedge.log
  say "kedge is gone"
  [ -z "$left" ] || echo "    packages that install.sh had installed are still here: $left"
}

do_$action
