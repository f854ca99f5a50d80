#!/bin/sh
# Downloads a Debian kernel and a static busybox for a guest and unpacks both into a folder; the system stays as it is.
# usage: fetch-guest.sh SUITE ARCHITECTURE KERNEL FOLDER
# KERNEL is the package that depends on the newest image: linux-image-cloud-amd64, linux-image-amd64...
# The mirror is the one that this machine's own apt sources name. Exit 3: cannot be had here (no apt, no network).
set -eu
suite=$1 architecture=$2 kernel=$3 folder=$4
command -v apt-get >/dev/null 2>&1 || { echo "no apt-get: $kernel of $suite cannot be fetched" >&2; exit 3; }
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  sed -nE 's#^(URIs:|deb( \[[^]]*\])?) *(https?://[^ ]*/debian/?)( .*)?$#\3#p' | head -n 1)
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources: $kernel of $suite cannot be fetched" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder"
: >"$work/status"
echo "deb [arch=$architecture signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
apt() {
  tool=$1
  shift
  "$tool" -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
    -o Dir::State::status="$work/status" -o Dir::State::lists="$work/lists" \
    -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
apt apt-get update >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2; exit 3; }
image=$(apt apt-cache show --no-all-versions "$kernel" 2>/dev/null | sed -nE 's/^Depends: (linux-image-[^ ,]*).*/\1/p')
[ -n "$image" ] || { echo "$suite has no package $kernel" >&2; exit 3; }
(cd "$work/archives" && apt apt-get download "$image" busybox-static) >"$work/log" 2>&1 ||
  { tail -n 3 "$work/log" >&2; exit 3; }
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$folder"; done
