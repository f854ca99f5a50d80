#!/bin/sh
# Runs prepack or postpack in the current package's folder, with the workspace's Node; installs what is missing.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
[ -x "$root/node_modules/.bin/node" ] || (cd "$root" && npx -y pnpm@12 install >&2)
exec "$root/node_modules/.bin/node" "$root/tooling/pack/src/$1.ts"
