#!/usr/bin/env bash
# Usage: postgres.sh FOLDER
#
# Prints the folder of PostgreSQL's initdb and postgres, for the tests that start a server: the one on PATH, else the newest one that the
# machine's packages have installed, else the one in FOLDER. Where there is none, it comes from the Debian or Ubuntu package "postgresql":
# as root, who may, the package is installed, without a server that it would start; for everybody else it and what it needs is
# unpacked in FOLDER, and not installed.
set -euo pipefail

[[ $1 == /* ]] && folder=$1 || folder=$PWD/$1

installed() {
	local found
	if found=$(command -v initdb); then
		dirname "$(readlink -f "$found")" # next to it are the others
	elif found=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1) && [[ -n $found ]]; then
		dirname "$found"
	elif [[ -x $folder/bin/initdb ]]; then
		echo "$folder/bin"
	else
		return 1
	fi
}

missing() {
	echo "PostgreSQL is missing: $1. Put initdb and postgres on PATH" \
		"(apt-get install postgresql, brew install postgresql, https://www.postgresql.org/download/)." >&2
	exit 1
}

if installed; then
	exit
fi
for tool in apt-get dpkg-deb; do
	command -v "$tool" >/dev/null || missing "it is not on PATH, and without $tool it cannot be fetched here"
done

temp=$(mktemp -d)
next=$folder.$$
policy=/usr/sbin/policy-rc.d
made=
trap 'rm -rf "$temp" "$next"; [[ -z $made ]] || rm -f "$policy"' EXIT
trap 'exit 1' INT TERM HUP # which runs the trap above
chmod 755 "$temp" # apt gives up its privileges while it downloads
log=$temp/log

failed() {
	cat "$log" >&2
	missing "$1"
}

# Installs the package. Its scripts would make a cluster of databases and start a server; postgresql-common asks this file first, and the
# init system asks policy-rc.d.
install() {
	local config=/etc/postgresql-common/createcluster.conf
	if [[ ! -e $policy ]]; then
		made=yes
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
	fi
	# It stays: an upgrade of the package shall make no cluster either. Remove it to have one made.
	if [[ ! -e $config ]]; then
		mkdir -p "$(dirname "$config")" && echo "create_main_cluster = false" >"$config"
	fi
	local options=(-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold)
	export DEBIAN_FRONTEND=noninteractive
	local status=0
	# The machine's package lists may be missing, or so old that the version they name is gone.
	{
		apt-get "${options[@]}" install --no-install-recommends postgresql ||
			{ apt-get "${options[@]}" update && apt-get "${options[@]}" install --no-install-recommends postgresql; }
	} </dev/null >>"$log" 2>&1 || status=$?
	return $status
}

# Downloads the package, and those that it needs and the machine has not, into $temp.
download() {
	rm -f "$temp"/*.deb
	local packages
	packages=$(apt-get -qq -o Debug::NoLocking=true "$@" --print-uris install --no-install-recommends postgresql 2>>"$log" |
		sed -n "s/^'[^']*' \([^_ ]*\)_.*$/\1/p") || return 1
	[[ -n $packages ]] || return 1
	# shellcheck disable=SC2086 # it is a list
	(cd "$temp" && apt-get -qq -o Acquire::Retries=3 "$@" download $packages) >>"$log" 2>&1
}

# Unpacks what download has brought. PostgreSQL finds its other files from where its programs are; the libraries have to be shown to it, and
# to it alone, which is what the two little scripts do.
unpack() {
	local deb bin libraries program
	mkdir -p "$next/root" "$next/bin"
	for deb in "$temp"/*.deb; do
		dpkg-deb -x "$deb" "$next/root" || return 1
	done
	bin=$(cd "$next" && ls -d root/usr/lib/postgresql/*/bin | sort -V | tail -n 1)
	libraries=$(cd "$next" && find root -name '*.so.*' ! -path '*/postgresql/*' -exec dirname {} + | sort -u | sed "s|^|$folder/|" | paste -sd: -)
	[[ -n $bin ]] || return 1
	local show=: # the machine may have all of the libraries
	[[ -z $libraries ]] || show="export LD_LIBRARY_PATH='$libraries'\"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\""
	for program in initdb postgres; do
		cat >"$next/bin/$program" <<-END
			#!/bin/sh
			$show
			exec '$folder/$bin/$program' "\$@"
		END
		chmod 755 "$next/bin/$program"
	done
}

if [[ $(id -u) -eq 0 ]]; then
	install || failed "the package postgresql cannot be installed"
else
	if ! download; then
		# Lists of our own take no root, wait for no lock and change nothing outside of the temporary folder.
		own=(-o "Dir::State::Lists=$temp/lists" -o "Dir::Cache=$temp/cache")
		mkdir -p "$temp/lists/partial" "$temp/cache/archives/partial"
		# A list that cannot be fetched is no reason to stop: the package may be in another one.
		apt-get -qq -o Acquire::Retries=3 "${own[@]}" update >>"$log" 2>&1 || true
		download "${own[@]}" || failed "the package postgresql cannot be downloaded"
	fi
	unpack >>"$log" 2>&1 || failed "the package postgresql cannot be unpacked"
	# Under its name it is whole and runs, or it is not there.
	mkdir -p "$(dirname "$folder")" && rm -rf "$folder" && mv "$next" "$folder"
	"$folder/bin/postgres" --version >>"$log" 2>&1 || { rm -rf "$folder"; failed "the one in the package does not run here"; }
fi
installed || failed "the package postgresql has no initdb"
