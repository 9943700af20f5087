#!/usr/bin/env bash
# Usage: promtool.sh BINARY ARGUMENT...
#
# Runs promtool with these arguments: the one on PATH, else the one at BINARY. Where there is neither, it is taken to BINARY out
# of the Debian or Ubuntu package "prometheus", which is downloaded and verified by apt, and not installed.
set -euo pipefail

binary=$1
shift

if found=$(command -v promtool); then
	exec "$found" "$@"
fi
if [[ -x $binary ]]; then
	exec "$binary" "$@"
fi

missing() {
	echo "promtool is missing: $1. Put it on PATH: it is part of Prometheus" \
		"(apt-get install prometheus, brew install prometheus, https://prometheus.io/download/)." >&2
	exit 1
}

for tool in apt-get dpkg-deb; do
	command -v "$tool" >/dev/null || missing "it is not on PATH, and without $tool it cannot be fetched here"
done

temp=$(mktemp -d)
next=$binary.$$
trap 'rm -rf "$temp" "$next"' EXIT
chmod 755 "$temp" # apt gives up its privileges while it downloads

# The package comes into the folder that apt-get runs in.
download() {
	rm -f "$temp"/*.deb
	(cd "$temp" && apt-get -qq -o Acquire::Retries=3 "$@" download prometheus) >>"$temp/log" 2>&1
}

# The machine's own package lists may be missing, or so old that the version they name is gone. Then lists of our own are fetched, which
# takes no root, waits for no lock and changes nothing outside of the temporary folder.
if ! download; then
	own=(-o "Dir::State::Lists=$temp/lists" -o "Dir::Cache=$temp/cache")
	mkdir -p "$temp/lists/partial" "$temp/cache/archives/partial"
	# A list that cannot be fetched is no reason to stop: the package may be in another one.
	apt-get -qq -o Acquire::Retries=3 "${own[@]}" update >>"$temp/log" 2>&1 || true
	if ! download "${own[@]}"; then
		cat "$temp/log" >&2
		missing "the package prometheus cannot be downloaded"
	fi
fi

dpkg-deb -x "$temp"/prometheus_*.deb "$temp/package"
# Under its name it is whole and runs, or it is not there.
mkdir -p "$(dirname "$binary")"
cp "$temp/package/usr/bin/promtool" "$next"
"$next" --version >"$temp/log" 2>&1 || { cat "$temp/log" >&2; missing "the one in the package does not run here"; }
mv "$next" "$binary"
rm -rf "$temp"
exec "$binary" "$@"
