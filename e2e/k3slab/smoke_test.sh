#!/usr/bin/env bash
# Brings up 3 servers and an agent, each in network, mount and UTS namespaces of
# its own, and checks what the lab relies on. Needs root; takes about a minute.
#
#   smoke_test.sh             on the stand-in
#   K3S_BIN=/path/k3s smoke_test.sh
#   KEEP=1 smoke_test.sh      leaves the logs
#   ETCD_ARGS= smoke_test.sh  with K3s' slow etcd timers
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${K3S_BIN:=$("$here/build")}"
: "${ETCD_ARGS=--etcd-arg=heartbeat-interval=100 --etcd-arg=election-timeout=1000}"
read -r -a etcd_args <<<"$ETCD_ARGS"
prefix=k3ls$$
work=$(mktemp -d "${TMPDIR:-/tmp}/$prefix.XXXX")
started=$(date +%s%N)

say() { printf "%6.1fs  %s\n" "$((($(date +%s%N) - started) / 100000000))e-1" "$*"; }
fail() {
  say "FAILED: $*"
  for log in "$work"/*/log; do echo "--- $log"; grep -E 'level=(fatal|error|warning)|^F' "$log" | tail -n 5; done
  exit 1
}

cleanup() {
  set +e
  for i in 1 2 3 4 5; do
    ip netns pids "$prefix-n$i" 2>/dev/null | xargs -r kill -9
    ip netns del "$prefix-n$i" 2>/dev/null
  done
  wait 2>/dev/null
  ip netns del "$prefix-br" 2>/dev/null
  if [ "${KEEP:-}" ]; then echo "logs: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

node() { # node I: a network namespace on the bridge, address 10.78.0.I
  local ns=$prefix-n$1
  ip netns add "$ns"
  ip -n "$prefix-br" link add "v$1" type veth peer name eth0 netns "$ns"
  ip -n "$prefix-br" link set "v$1" master br0 up
  ip -n "$ns" addr add "10.78.0.$1/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" link set lo up
  ip -n "$ns" route add default dev eth0
  mkdir -p "$work/n$1/etc" "$work/n$1/var"
}

start() { # start I server|agent ARGS...: with an /etc/rancher and /var/lib/rancher of its own
  local i=$1 dir=$work/n$1
  shift
  rm -f "$dir/pid"
  if [ -e "$dir/log" ]; then mv "$dir/log" "$dir/log.$SECONDS"; fi
  mkdir -p /etc/rancher /var/lib/rancher # mount points
  ip netns exec "$prefix-n$i" unshare --uts bash -c '
    hostname "n$1"
    mount --bind "$2/etc" /etc/rancher
    mount --bind "$2/var" /var/lib/rancher
    echo $$ >"$2/pid"
    exec "${@:3}"' - "$i" "$dir" "$K3S_BIN" "$@" --node-ip "10.78.0.$i" >"$dir/log" 2>&1 &
  within 5 "n$i to start" test -s "$dir/pid"
}

stop() { # stop I: SIGTERM, and wait until it is gone
  local pid
  pid=$(cat "$work/n$1/pid")
  kill "$pid"
  within 10 "n$1 to stop" eval "! kill -0 $pid 2>/dev/null"
}

within() { # within SECONDS WHAT CONDITION...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited too long for $what"
    sleep 0.1
  done
}

k() { ip netns exec "$prefix-n$1" "$K3S_BIN" kubectl --kubeconfig "$work/n$1/etc/k3s/k3s.yaml" "${@:2}" 2>/dev/null; }
ready() { [ "$(k 1 get node "n$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
logged() { grep -q "$2" "$work/n$1/log"; }
ended() { ! kill -0 "$(cat "$work/n$1/pid")" 2>/dev/null; }
etcd_members() { # through n1's own client certificate
  local tls=$work/n1/var/k3s/server/tls/etcd
  ip netns exec "$prefix-n1" curl -s --cacert "$tls/server-ca.crt" --cert "$tls/client.crt" --key "$tls/client.key" \
    -X POST -d '{}' https://127.0.0.1:2379/v3/cluster/member/list | grep -o '"clientURLs"' | wc -l
}
member_count() { [ "$(etcd_members)" = "$1" ]; }

ip netns add "$prefix-br"
ip -n "$prefix-br" link add br0 type bridge
ip -n "$prefix-br" link set br0 up
for i in 1 2 3 4 5; do node "$i"; done

say "$("$K3S_BIN" --version | head -n 1)"
server=(server --token server-secret --agent-token agent-secret "${etcd_args[@]}")
start 1 "${server[@]}" --cluster-init
within 60 "n1 to be Ready" ready 1
say "n1 Ready (first server)"
for i in 2 3; do
  start "$i" "${server[@]}" --server https://10.78.0.1:6443
  within 90 "n$i to be Ready" ready "$i"
  say "n$i Ready (joined as a server)"
done
start 4 agent --token "$(cat "$work/n1/var/k3s/server/agent-token")" --server https://10.78.0.1:6443 --node-label lab=yes
within 60 "n4 to be Ready" ready 4
say "n4 Ready (joined as an agent, full agent token)"
k 1 get nodes -o wide --show-labels=false
[ "$(k 1 get nodes -l node-role.kubernetes.io/control-plane=true --no-headers | wc -l)" = 3 ] || fail "not 3 control-plane nodes"
[ "$(k 1 get nodes -l lab=yes --no-headers | wc -l)" = 1 ] || fail "the label of n4 is missing"
member_count 3 || fail "not 3 etcd members"
for i in 1 2 3 4; do printf '        n%s RSS %s MB\n' "$i" "$(($(awk '/^VmRSS/{print $2}' "/proc/$(cat "$work/n$i/pid")/status") / 1024))"; done

start 5 server --token agent-secret --server https://10.78.0.1:6443
within 30 "n5 to give up" logged 5 level=fatal
within 10 "n5 to end" ended 5
member_count 3 || fail "an agent token let a server join"
say "a server with the agent token was refused"
start 5 agent --token wrong --server https://10.78.0.1:6443
within 30 "n5 to be refused" logged 5 401
stop 5
say "an agent with a wrong token was refused"

stop 3
say "n3 stopped on SIGTERM"
start 3 "${server[@]}" --server https://10.78.0.1:6443
within 60 "n3's API" eval 'k 3 get --raw /readyz >/dev/null'
# A kubelet registers its Node once, at its start: deleted before that, it returns.
within 60 "n3's kubelet" logged 3 'registered.*node="n3"'
say "n3 is back"
k 1 delete node n3 >/dev/null
within 60 "the etcd member of n3 to go" member_count 2
within 60 "n3 to end" ended 3
say "deleting node n3 removed its etcd member"
rm -rf "$work"/n3/var/k3s
start 3 "${server[@]}" --server https://10.78.0.2:6443
within 90 "n3 to be Ready" ready 3
member_count 3 || fail "n3 is not an etcd member"
say "n3, wiped, joined again through n2"
for i in 4 3 2 1; do stop "$i"; done
say "all stopped; PASSED"
