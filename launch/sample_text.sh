#!/usr/bin/env bash
# Real English text without installing anything: the Jargon File (public domain), from Debian's package jargon-text.
#   launch/sample_text.sh DIR     makes DIR/calibration.txt (the first 85 %) and DIR/heldout.txt (the last 15 %)
source "$(dirname "$0")/common.sh"

[ $# = 1 ] || { sed -n '2,3p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
[ -s "$out/calibration.txt" ] && [ -s "$out/heldout.txt" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
say "text: Debian's jargon-text"
# A download needs no root, only a package list with this package; an installation would write to /usr.
fetch() { (cd "$work" && apt-get download -qq jargon-text 2>"$work/log"); }
if ! fetch; then
  as_root apt-get update -qq
  fetch || die "apt-get cannot download jargon-text (check network and package sources): $(tail -1 "$work/log")"
fi
dpkg -x "$work"/jargon-text_*.deb "$work/unpacked"
python3 "$root/launch/clean_text.py" "$work/unpacked/usr/share/doc/jargon-text/jargon.txt.gz" "$out" >&2
