#!/bin/bash
# debian:bookworm-slim, from the registry; where none can be reached, made with debootstrap from Debian's archive.
set -euo pipefail
image=debian:bookworm-slim
docker image inspect "$image" >/dev/null 2>&1 && exit 0
timeout 120 docker pull "$image" && exit 0
echo "no registry: making $image with debootstrap" >&2
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
if ! command -v debootstrap >/dev/null; then
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi
root=$(mktemp -d)
trap '$sudo rm -rf "$root"' EXIT
$sudo debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
# What the slim image leaves out.
$sudo rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
$sudo tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image"
