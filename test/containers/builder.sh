#!/bin/sh
# Makes an image that the Dockerfile can build in out of this machine's own Go,
# module cache and shell, for machines that reach no registry:
#
#   test/containers/builder.sh covey-builder
#   docker build --build-arg BUILDER=covey-builder -t covey .
set -eu
name=${1:?usage: builder.sh IMAGE}
goroot=$(go env GOROOT)
gomod=$(go env GOMODCACHE)
# All modules, for the image downloads none; run from within the repository.
go mod download
# What the shell and mkdir are linked to.
libs=$(ldd "$(readlink -f /bin/sh)" "$(command -v mkdir)" | grep -o '/[^ )]*' | grep -v ':$' | sort -u)
tar -C / -chf - --transform "s,^${goroot#/},usr/local/go," --transform "s,^${gomod#/},go/pkg/mod," \
  --transform 's,^usr/bin/,bin/,' --exclude="${gomod#/}/cache/vcs" \
  "${goroot#/}" "${gomod#/}" bin/sh "$(command -v mkdir | cut -c2-)" $(printf '%s\n' $libs | cut -c2-) |
  docker import -c 'ENV PATH=/usr/local/go/bin:/bin GOPATH=/go HOME=/ TMPDIR=/ GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-buildvcs=false' - "$name" >/dev/null
