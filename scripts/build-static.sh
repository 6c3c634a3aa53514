#!/usr/bin/env bash
# One static release binary: target/dist/kedge. Prints its size, and refuses one that is not static.
#
#   scripts/build-static.sh [cargo options, as --offline]
#
# musl where its target and a C compiler for it are installed, else the gnu target with the C runtime linked in.
set -euo pipefail
cd "$(dirname "$0")/.."

case "$(uname -m)" in
x86_64 | aarch64) arch=$(uname -m) ;;
*)
  echo "build-static.sh: no static build for $(uname -m)" >&2
  exit 1
  ;;
esac

musl=$arch-unknown-linux-musl
compiler=$(command -v "$arch-linux-musl-gcc" || command -v musl-gcc || true)
if [ -n "$compiler" ] && [ -d "$(rustc --print target-libdir --target "$musl" 2>/dev/null)" ]; then
  target=$musl
  variable=${target//-/_}
  export "CC_$variable=$compiler"
else
  target=$arch-unknown-linux-gnu
fi
export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"

echo "building for $target"
# An explicit target: build scripts and procedural macros stay dynamic, as they must.
cargo build --locked --release --target "$target" -p kedge --bin kedge "$@"
mkdir -p target/dist
install -m 0755 "target/$target/release/kedge" target/dist/kedge

if ldd target/dist/kedge 2>&1 | grep -q '=>'; then
  echo "build-static.sh: target/dist/kedge is not static:" >&2
  ldd target/dist/kedge >&2
  exit 1
fi
target/dist/kedge version >/dev/null
bytes=$(stat -c %s target/dist/kedge)
echo "target/dist/kedge: static, $bytes bytes ($(awk "BEGIN{printf \"%.1f\", $bytes/1e6}") MB; budget 40 MB)"
