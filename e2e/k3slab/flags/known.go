package flags

import "strings"

type kind int

const (
	unknown kind = iota
	boolean
	value
)

// boolFlags and valueFlags are K3s' own command line. What the stand-in does
// not act on is accepted in silence, so that a configuration written for K3s
// needs no editing; a flag in neither list is warned about.
var (
	boolFlags = words(`cluster-init cluster-reset debug disable-agent disable-apiserver disable-controller-manager
 disable-scheduler disable-cloud-controller disable-kube-proxy disable-network-policy disable-helm-controller disable-etcd
 flannel-ipv6-masq flannel-external-ip secrets-encryption docker rootless prefer-bundled-bin selinux
 protect-kernel-defaults enable-pprof embedded-registry etcd-expose-metrics etcd-disable-snapshots etcd-s3 servicelb
 disable-default-registry-endpoint node-name-from-cloud-provider-metadata nonroot-devices with-node-id
 supervisor-metrics multi-cluster-cidr alsologtostderr`)

	valueFlags = words(`server token token-file agent-token agent-token-file node-ip node-name node-external-ip
 node-internal-dns node-external-dns advertise-address advertise-port bind-address flannel-iface flannel-backend
 flannel-conf flannel-cni-conf data-dir disable tls-san tls-san-security write-kubeconfig write-kubeconfig-mode
 write-kubeconfig-group node-label node-taint https-listen-port cluster-cidr service-cidr service-node-port-range
 cluster-dns cluster-domain egress-selector-mode kube-apiserver-arg kube-controller-manager-arg kube-scheduler-arg
 kube-cloud-controller-manager-arg etcd-arg kubelet-arg kube-proxy-arg container-runtime-endpoint
 default-local-storage-path lb-server-port private-registry pause-image snapshotter resolv-conf log v vmodule config
 datastore-endpoint datastore-cafile datastore-certfile datastore-keyfile etcd-snapshot-dir etcd-snapshot-name
 etcd-snapshot-retention etcd-snapshot-schedule-cron etcd-snapshot-compress cluster-reset-restore-path helm-job-image
 vpn-auth vpn-auth-file system-default-registry kine-tls audit-log-path airgap-extra-registry bin-dir image-credential-provider-bin-dir
 image-credential-provider-config`)

	aliases = map[string]string{
		"s": "server", "t": "token", "d": "data-dir", "o": "write-kubeconfig", "l": "log", "c": "config", "i": "node-ip",
	}

	// environment names the variable that stands in for a flag given nowhere else.
	environment = map[string]string{
		"token":                 "K3S_TOKEN",
		"token-file":            "K3S_TOKEN_FILE",
		"agent-token":           "K3S_AGENT_TOKEN",
		"agent-token-file":      "K3S_AGENT_TOKEN_FILE",
		"server":                "K3S_URL",
		"node-name":             "K3S_NODE_NAME",
		"data-dir":              "K3S_DATA_DIR",
		"write-kubeconfig":      "K3S_KUBECONFIG_OUTPUT",
		"write-kubeconfig-mode": "K3S_KUBECONFIG_MODE",
		"cluster-init":          "K3S_CLUSTER_INIT",
		"cluster-reset":         "K3S_CLUSTER_RESET",
		"debug":                 "K3S_DEBUG",
		"config":                "K3S_CONFIG_FILE",
	}
)

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

func kindOf(name string) kind {
	switch {
	case boolFlags[name]:
		return boolean
	case valueFlags[name]:
		return value
	}
	return unknown
}
