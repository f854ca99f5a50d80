#!/bin/sh
# Downloads packages of a Debian suite with every library they need and unpacks them into a folder. The system stays
# as it is: programs run there through the folder's own dynamic loader, whatever libc the system has.
# usage: fetch-closure.sh SUITE FOLDER PACKAGE...
# The mirror is the one that this machine's own apt sources name. Exit 3: cannot be had here (no apt, no network).
set -eu
suite=$1 folder=$2
shift 2
command -v apt-get >/dev/null 2>&1 || { echo "no apt-get: $* of $suite cannot be fetched" >&2; exit 3; }
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  sed -nE 's#^(URIs:|deb( \[[^]]*\])?) *(https?://[^ ]*/debian/?)( .*)?$#\3#p' | head -n 1)
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources: $* of $suite cannot be fetched" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder"
# Backports stand on their release. An empty status file: nothing counts as installed, so nothing is left out.
: >"$work/status"
for name in "${suite%-backports}" "$suite"; do
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $name main"
done | sort -u >"$work/sources.list"
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::status="$work/status" -o Dir::State::lists="$work/lists" \
    -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
{ apt update && apt install -y --no-install-recommends --download-only -t "$suite" "$@"; } >"$work/log" 2>&1 ||
  { tail -n 3 "$work/log" >&2; exit 3; }
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$folder"; done
