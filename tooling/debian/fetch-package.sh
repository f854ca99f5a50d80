#!/bin/sh
# Downloads one package of a newer Debian suite and unpacks it into a folder, leaving the system as it is.
# usage: fetch-package.sh SUITE PACKAGE FOLDER
# The mirror is the one that this machine's own apt sources name. Exit 3: cannot be had here (no apt, no network).
set -eu
suite=$1 package=$2 folder=$3
command -v apt-get >/dev/null 2>&1 || { echo "no apt-get: $package of $suite cannot be fetched" >&2; exit 3; }
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  sed -nE 's#^(URIs:|deb( \[[^]]*\])?) *(https?://[^ ]*/debian/?)( .*)?$#\3#p' | head -n 1)
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources: $package of $suite cannot be fetched" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$work/lists" -o Dir::Cache::archives="$work/archives" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Get::List-Cleanup=0 "$@"
}
{ apt update && (cd "$work" && apt download "$package"); } >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2; exit 3; }
dpkg -x "$work"/*.deb "$folder"
