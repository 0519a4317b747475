#!/bin/bash
# Scenarios under load: run.sh core | all | 1,7,12. Over containers where Docker works, else over network namespaces: the first
# lines say which. OSTRAKON_CHAOS_GROUND=docker or namespaces asks for one.
set -euo pipefail
cd "$(dirname "$0")/../.."
sudo=$([ "$(id -u)" = 0 ] || echo sudo)

missing=()
command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
command -v ip >/dev/null || [ -x /usr/sbin/ip ] || missing+=(iproute2)
command -v iptables >/dev/null || [ -x /usr/sbin/iptables ] || missing+=(iptables)
# Moves the clock of a proxy (scenario 25).
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { echo "missing: ${missing[*]}" >&2; exit 1; }
  echo "installing ${missing[*]} from the distribution (apt-get)"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  if command -v systemctl >/dev/null; then $sudo systemctl disable -q --now haproxy 2>/dev/null || true; fi
fi

# A daemon that answers may still be unable to run anything.
docker_works() {
  local empty
  empty=$(mktemp -d)
  tar -C "$empty" -c . | timeout 60 docker import - ostrakon-chaos-probe >/dev/null || return 1
  rmdir "$empty"
  timeout 60 docker run --rm --network none -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro \
    ostrakon-chaos-probe /usr/bin/true || return 1
  timeout 60 docker network create --internal ostrakon-chaos-probe >/dev/null || return 1
  timeout 60 docker network rm ostrakon-chaos-probe >/dev/null
  timeout 60 docker image rm ostrakon-chaos-probe >/dev/null
}

# Some machines let nobody make networks.
namespaces_work() {
  local name=ostrakon-probe
  $sudo ip netns add $name && $sudo ip link add $name type bridge && $sudo ip netns exec $name ip link set lo up
  local made=$?
  $sudo ip link del $name 2>/dev/null || true
  $sudo ip netns del $name 2>/dev/null || true
  return $made
}

daemon=
# It takes some seconds to end; whoever begins meanwhile would find one that answers and does nothing more.
end_daemon() {
  [ -n "$daemon" ] || return 0
  $sudo kill "$daemon" 2>/dev/null || return 0
  for _ in $(seq 1 150); do
    $sudo kill -0 "$daemon" 2>/dev/null || return 0
    sleep 0.2
  done
}
trap end_daemon EXIT
if [ "${OSTRAKON_CHAOS_GROUND:-auto}" = auto ]; then
  OSTRAKON_CHAOS_GROUND=namespaces
  if daemon=$(docker/daemon.sh) && docker_works; then
    OSTRAKON_CHAOS_GROUND=docker
  else
    echo "Docker does not work on this machine: the scenarios run over network namespaces instead"
    if ! namespaces_work; then
      echo "NO SCENARIO WAS RUN: neither containers nor network namespaces can be made on this machine" >&2
      exit "${OSTRAKON_CHAOS_NO_GROUND:-1}"
    fi
  fi
fi
export OSTRAKON_CHAOS_GROUND OSTRAKON_CHAOS=${1:-all}
if [ "$OSTRAKON_CHAOS" = all ]; then export OSTRAKON_CHAOS_CONTROLS=${OSTRAKON_CHAOS_CONTROLS:-1}; fi
if [ -n "$sudo" ]; then
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=sudo -E"
fi
# Without a runner of tests, which would end what takes so long.
cargo test --locked --test chaos -- --ignored --nocapture --test-threads 1 scenarios_hold
