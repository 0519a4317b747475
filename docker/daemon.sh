#!/bin/bash
# Sees to it that a Docker daemon answers: installs it if missing and starts one if none runs. Prints its process id when it
# was started here, so that whoever asked can end it. Fails when Docker does not work on this machine.
# The daemon that is started has a data directory of its own, OSTRAKON_DOCKER_DATA: what another one keeps is not touched.
set -euo pipefail
if timeout 10 docker info >/dev/null 2>&1; then exit 0; fi
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  command -v apt-get >/dev/null || exit 1
  echo "installing Docker from the distribution (apt-get)" >&2
  $sudo apt-get update -qq >&2
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io iptables >&2 || exit 1
fi
if timeout 10 docker info >/dev/null 2>&1; then exit 0; fi
$sudo mkdir -p /var/run
log=${DOCKERD_LOG:-/tmp/ostrakon-dockerd.log}
pid_file=/var/run/ostrakon-dockerd.pid
# One that is about to end is waited for.
for _ in $(seq 1 100); do
  [ -e "$pid_file" ] && $sudo kill -0 "$(cat "$pid_file")" 2>/dev/null || break
  sleep 0.3
done
$sudo setsid dockerd -p "$pid_file" --data-root "${OSTRAKON_DOCKER_DATA:-/var/lib/ostrakon-docker}" >"$log" 2>&1 </dev/null &
for _ in $(seq 1 100); do
  if timeout 5 docker info >/dev/null 2>&1; then cat "$pid_file"; exit 0; fi
  sleep 0.3
done
[ ! -e "$pid_file" ] || $sudo kill "$(cat "$pid_file")" 2>/dev/null || true
tail -3 "$log" >&2
exit 1
