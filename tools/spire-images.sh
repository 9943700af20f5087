#!/usr/bin/env bash
# Usage: spire-images.sh DIR VERSION
#
# Puts the spire-server and spire-agent of a directory into images under the names of the official ones, with the user and the directories that
# those have, so that compose.spire.yaml runs on binaries where no registry can be reached. An official image that is there is left as it is.
set -euo pipefail

bin=$1 version=$2
label=org.countersign.spire-stand-in

failed() {
	echo "spire-images: $1" >&2
	exit 1
}

[[ -n $bin ]] || failed "SPIRE_BIN is not set; right would be the directory with spire-server and spire-agent"
docker version >/dev/null 2>&1 || failed "docker does not answer; right would be a running Docker Engine (docker info)"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' INT TERM HUP # which runs the trap above

# wrap NAME USER DIRECTORY...
wrap() {
	local name=$1 user=$2 image=ghcr.io/spiffe/$1:$version directory
	shift 2
	local binary=$bin/$name
	[[ -x $binary ]] || failed "$bin has no $name; right would be the directory with spire-server and spire-agent"
	# The images have no libraries. ldd fails for a static binary.
	local is
	is=$("$binary" --version 2>&1) || failed "$binary --version: $is"
	[[ $is == "$version"* ]] || failed "$binary is of version $is; right would be $version, which compose.spire.yaml names"
	if ldd "$binary" >/dev/null 2>&1; then failed "$binary is not static, as the official ones are"; fi
	if found=$(docker image inspect --format "{{with .Config.Labels}}{{index . \"$label\"}}{{end}}" "$image" 2>/dev/null) && [[ -z $found ]]; then
		echo "$image: is there and no stand-in; it is used as it is"
		return
	fi
	local context=$stage/$name
	mkdir -p "$context"
	cp "$binary" "$context/"
	for directory; do
		mkdir -p "$context/root$directory"
		touch "$context/root$directory/.keep" # COPY leaves out what is empty in some builders
	done
	docker build --quiet --tag "$image" --file - "$context" >/dev/null <<-EOF
		FROM scratch
		LABEL $label=$version
		COPY $name /opt/spire/bin/$name
		COPY --chown=$user root/ /
		USER $user
		WORKDIR /opt/spire
		ENTRYPOINT ["/opt/spire/bin/$name", "run"]
	EOF
	echo "$image: made from $binary"
}

wrap spire-server 1000:1000 /etc/spire/server /run/spire/server/private /var/lib/spire/server
wrap spire-agent 0:0 /etc/spire/agent /run/spire/agent/public /var/lib/spire/agent
