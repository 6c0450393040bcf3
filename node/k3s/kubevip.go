package k3s

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// KubeVIP is kube-vip as the server deploys it, with the settings that Kairos
// gives it: the control plane's address, by ARP, with leader election.
type KubeVIP struct {
	Address netip.Addr
	// Interface is empty to leave it to kube-vip, which takes the default route's.
	Interface      string
	Image, Version string
	// StaticPod is a pod of each server's kubelet, else a DaemonSet.
	StaticPod bool
	// ManifestURL, if set, names what stands in place of our account and rights
	// for it; it ends in the content's checksum (parsePinned).
	ManifestURL string
}

// Where K3s looks for what it applies to the cluster, and its kubelet for pods of
// its own. The names are Kairos's.
const (
	manifestDir  = dataDir + "/server/manifests"
	podDir       = dataDir + "/agent/pod-manifests"
	kubeVIPFile  = "kubevip.yaml"
	kubeVIPOther = "kubevipmanifest.yaml"
)

// kubeVIPPaths are all files that kubeVIPFiles may name.
var kubeVIPPaths = []string{manifestDir + "/" + kubeVIPFile, manifestDir + "/" + kubeVIPOther, podDir + "/" + kubeVIPFile}

// files returns what is to lie on a server, by path. manifest is what ManifestURL
// named.
func (v *KubeVIP) files(manifest []byte) map[string]string {
	if v == nil {
		return nil
	}
	files := map[string]string{manifestDir + "/" + kubeVIPOther: kubeVIPRights}
	if len(manifest) > 0 {
		files[manifestDir+"/"+kubeVIPOther] = string(manifest)
	}
	if v.StaticPod {
		files[podDir+"/"+kubeVIPFile] = v.pod()
	} else {
		files[manifestDir+"/"+kubeVIPFile] = v.daemonSet()
	}
	return files
}

// writeKubeVIP writes kube-vip's manifests, and takes away those of before. K3s
// then leaves what it applied as it is.
func writeKubeVIP(root string, v *KubeVIP, manifest []byte) error {
	files := v.files(manifest)
	for _, path := range kubeVIPPaths {
		text, wanted := files[path]
		if !wanted {
			if err := os.Remove(root + path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove kube-vip's manifest: %w", err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(root+path), 0o700); err != nil {
			return fmt.Errorf("write kube-vip's manifest: %w", err)
		}
		if _, err := writeChanged(root+path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write kube-vip's manifest: %w", err)
		}
	}
	return nil
}

func (v *KubeVIP) daemonSet() string {
	const head = `# Written by muster at every start, from the block kubevip of the cloud-config.
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: kube-vip-ds
  namespace: kube-system
  labels:
    app.kubernetes.io/name: kube-vip-ds
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: kube-vip-ds
  template:
    metadata:
      labels:
        app.kubernetes.io/name: kube-vip-ds
    spec:
      serviceAccountName: kube-vip
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - key: node-role.kubernetes.io/control-plane
                operator: Exists
      tolerations:
      - effect: NoSchedule
        operator: Exists
      - effect: NoExecute
        operator: Exists
`
	return head + indent(v.container(), 6)
}

func (v *KubeVIP) pod() string {
	const head = `# Written by muster at every start, from the block kubevip of the cloud-config.
apiVersion: v1
kind: Pod
metadata:
  name: kube-vip
  namespace: kube-system
spec:
  hostAliases:
  - hostnames:
    - kubernetes
    ip: 127.0.0.1
  volumes:
  - name: kubeconfig
    hostPath:
      path: ` + adminKubeconfig + `
`
	const mount = `  volumeMounts:
  - name: kubeconfig
    mountPath: /etc/kubernetes/admin.conf
`
	return head + indent(v.container()+mount, 2)
}

// container is the part that both have in common.
func (v *KubeVIP) container() string {
	var b strings.Builder
	b.WriteString("hostNetwork: true\ncontainers:\n- name: kube-vip\n")
	fmt.Fprintf(&b, "  image: %s\n", strconv.Quote(v.Image+":"+v.Version))
	b.WriteString(`  imagePullPolicy: IfNotPresent
  args:
  - manager
  securityContext:
    capabilities:
      add:
      - NET_ADMIN
      - NET_RAW
      drop:
      - ALL
  env:
  - name: vip_nodename
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
`)
	type variable struct{ name, value string }
	env := []variable{
		{"vip_arp", "true"},
		{"port", "6443"},
		{"vip_subnet", strconv.Itoa(v.Address.BitLen())},
		{"dns_mode", "first"},
		{"cp_enable", "true"},
		{"cp_namespace", "kube-system"},
		{"vip_leaderelection", "true"},
		{"vip_leasename", "plndr-cp-lock"},
		{"vip_leaseduration", "5"},
		{"vip_renewdeadline", "3"},
		{"vip_retryperiod", "1"},
		{"address", v.Address.String()},
		{"prometheus_server", ":2112"},
	}
	if v.Interface != "" {
		env = append(env, variable{"vip_interface", v.Interface})
	}
	for _, e := range env {
		fmt.Fprintf(&b, "  - name: %s\n    value: %s\n", e.name, strconv.Quote(e.value))
	}
	return b.String()
}

func indent(text string, by int) string {
	space := strings.Repeat(" ", by)
	return space + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+space) + "\n"
}

// kubeVIPRights are kube-vip's own account and role (kube-vip.io/manifests/rbac.yaml).
const kubeVIPRights = `# Written by muster at every start.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: kube-vip
  namespace: kube-system
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: system:kube-vip-role
rules:
- apiGroups: [""]
  resources: ["services/status"]
  verbs: ["update"]
- apiGroups: [""]
  resources: ["services", "endpoints"]
  verbs: ["list", "get", "watch", "update"]
- apiGroups: [""]
  resources: ["nodes"]
  verbs: ["list", "get", "watch", "update", "patch"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["list", "get", "watch", "update", "create"]
- apiGroups: ["discovery.k8s.io"]
  resources: ["endpointslices"]
  verbs: ["list", "get", "watch", "update"]
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: system:kube-vip-binding
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:kube-vip-role
subjects:
- kind: ServiceAccount
  name: kube-vip
  namespace: kube-system
`
