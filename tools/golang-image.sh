#!/usr/bin/env bash
# Usage: golang-image.sh IMAGE
#
# Makes sure that there is an image of that name for deploy/Dockerfile to begin with. One that is there or can be pulled is left as it is.
# Where no registry can be reached, it makes a stand-in: this machine's Go toolchain, the few programs that the Dockerfile runs, and the
# modules that it needs, so that the build needs no network. A stand-in that has other modules or another Go than now is made anew.
#
# PULL_SECONDS says how long a pull may take (300).
set -euo pipefail

image=$1
label=org.countersign.golang-stand-in # its value is what the stand-in was made of
cd "$(dirname "$0")/.."
modules=(. services/*/)

failed() {
	echo "$image: $1" >&2
	exit 1
}

docker version >/dev/null 2>&1 || failed "docker does not answer; right would be a running Docker Engine (docker info)"

inputs=$({
	go version
	cat tools/golang-image.sh
	for module in "${modules[@]}"; do cat "$module/go.mod" "$module/go.sum"; done
} | git hash-object --stdin)

if found=$(docker image inspect --format "{{with .Config.Labels}}{{index . \"$label\"}}{{end}}" "$image" 2>/dev/null); then
	# The real one has no such label.
	if [[ -z $found ]]; then exit; fi
	if [[ $found == "$inputs" ]]; then
		echo "$image is a stand-in made from this machine's Go; where a registry can be reached, the real one comes after: docker image rm $image"
		exit
	fi
fi
old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
bound=
if command -v timeout >/dev/null; then bound="timeout ${PULL_SECONDS:-300}"; fi # macOS has none
if reason=$($bound docker pull --quiet "$image" 2>&1); then
	exit
fi
echo "$image cannot be pulled: ${reason:-it took too long}" >&2
[[ $(go env GOHOSTOS) == linux ]] || failed "a stand-in needs the Go toolchain of a Linux machine; right would be a registry that can be reached"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' INT TERM HUP # which runs the trap above
root=$stage/root

# Copies a program and the libraries that the loader maps for it to where they are here.
program() {
	local path file
	path=$(command -v "$1") || failed "the stand-in needs $1, and this machine has none"
	mkdir -p "$root/bin"
	cp -L "$path" "$root/bin/$1"
	# A program that is static has none, and ldd and grep say so by their exit codes.
	{ ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r file; do
		mkdir -p "$root$(dirname "$file")"
		cp -L "$file" "$root$file"
	done
}

for name in bash make find mkdir chmod; do
	program "$name"
done
ln -s bash "$root/bin/sh"
mkdir -p "$root/usr" "$root/tmp" "$root/root"
ln -s ../bin "$root/usr/bin"
chmod 1777 "$root/tmp"

goroot=$(go env GOROOT)
mkdir -p "$root/usr/local/go"
for part in VERSION go.env bin lib pkg src; do
	cp -RL "$goroot/$part" "$root/usr/local/go/"
done

for certificates in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
	[[ -z $certificates || ! -s $certificates ]] || break
done
[[ -s $certificates ]] || failed "this machine has no authorities of the public web; right would be the package ca-certificates"
mkdir -p "$root/etc/ssl/certs"
cp -L "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"

# This machine's cache is filled first, with what it lacks and nothing else; then the modules are taken from there, as the build will ask for
# them. go.sum is what holds both to what they should be.
cache=$(go env GOMODCACHE)
for module in "${modules[@]}"; do
	(
		cd "$module"
		export GOWORK=off GOFLAGS=-modcacherw
		go mod download
		GOPROXY=file://$cache/cache/download GOMODCACHE=$root/go/pkg/mod go mod download
	) || failed "the modules of $module cannot be had"
done

tar -c --owner=0 --group=0 --numeric-owner -C "$root" . | docker import \
	--message "stand-in made from a machine's own Go toolchain" \
	--change "LABEL $label=$inputs org.opencontainers.image.title=golang-stand-in" \
	--change 'ENV PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin GOPATH=/go GOTOOLCHAIN=local' \
	--change 'WORKDIR /go' --change 'CMD ["bash"]' - "$image" >/dev/null
# The stand-in that was there before has no name any more. It stays while something was built on it by the classic builder.
[[ -z $old ]] || docker image rm "$old" >/dev/null 2>&1 || true
echo "$image: made a stand-in from $(go version)"
