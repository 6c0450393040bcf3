package config

import (
	"fmt"
	"strings"
)

// Why a flag or variable of K3s is Muster's to set. The clause follows "is reserved: ".
const (
	whyServer    = "the site decides whom a node joins"
	whyToken     = "tokens are made by the site and stay in its ledger"
	whyAddress   = "addresses are the site's decision"
	whyInterface = "whether Kubernetes runs over the mesh is p2p.vpn.use"
	whyName      = "the node's name is its hostname, unique in the site"
	whyOnce      = "a cluster is initialised once, by the node that the site chose"
	whyFiles     = "Muster reads and writes K3s's files where they are"
	whyDatastore = "the datastore is p2p.auto.ha.external_db"
	whyAPI       = "the nodes of a site find one another's API server where Muster puts it"
	whyNode      = "a node that does not register cannot become ready"
)

// reservedFlags are K3s's flags (k3s server and k3s agent, long and short) that Muster sets or depends on.
var reservedFlags = map[string]string{
	"server": whyServer, "s": whyServer,
	"token": whyToken, "t": whyToken, "token-file": whyToken, "agent-token": whyToken, "agent-token-file": whyToken,
	"cluster-secret": whyToken,
	"node-ip":        whyAddress, "i": whyAddress, "node-external-ip": whyAddress, "advertise-address": whyAddress,
	"flannel-iface": whyInterface,
	"node-name":     whyName, "with-node-id": whyName,
	"cluster-init": whyOnce, "cluster-reset": whyOnce, "cluster-reset-restore-path": whyOnce,
	"config": whyFiles, "c": whyFiles, "data-dir": whyFiles, "d": whyFiles, "write-kubeconfig": whyFiles, "o": whyFiles,
	"write-kubeconfig-mode": whyFiles, "write-kubeconfig-group": whyFiles, "rootless": whyFiles,
	"datastore-endpoint": whyDatastore,
	"bind-address":       whyAPI, "https-listen-port": whyAPI, "advertise-port": whyAPI,
	"disable-agent": whyNode, "disable-apiserver": whyAPI, "disable-etcd": whyOnce, "disable-controller-manager": whyNode,
	"disable-scheduler": whyNode,
}

// reservedEnv are the variables by which K3s takes the same settings.
var reservedEnv = map[string]string{
	"K3S_URL": whyServer, "K3S_CLUSTER_SECRET": whyToken,
	"K3S_TOKEN": whyToken, "K3S_TOKEN_FILE": whyToken, "K3S_AGENT_TOKEN": whyToken, "K3S_AGENT_TOKEN_FILE": whyToken,
	"K3S_NODE_NAME": whyName, "K3S_CLUSTER_INIT": whyOnce, "K3S_CLUSTER_RESET": whyOnce,
	"K3S_CONFIG_FILE": whyFiles, "K3S_DATA_DIR": whyFiles, "K3S_KUBECONFIG_OUTPUT": whyFiles, "K3S_KUBECONFIG_MODE": whyFiles,
	"K3S_KUBECONFIG_GROUP": whyFiles, "K3S_ROOTLESS": whyFiles,
	"K3S_DATASTORE_ENDPOINT": whyDatastore,
}

// networkFlags are K3s's flags whose value is a network.
var networkFlags = map[string]bool{"cluster-cidr": true, "service-cidr": true}

// checkArg looks at every word of an argument, because one argument may hold several flags: Kairos joins them for a shell.
// It shows the name of a flag of K3s and nothing else.
func checkArg(arg string) string {
	if strings.ContainsAny(arg, "\n\r\x00") {
		return "an argument must be one line"
	}
	words := strings.Fields(arg)
	for i, word := range words {
		name, value, assigned := cutFlag(word)
		if name == "" {
			continue
		}
		if why, reserved := reservedFlags[name]; reserved {
			return fmt.Sprintf("%s is reserved: %s", dashes(name), why)
		}
		if !assigned && i+1 < len(words) {
			value = words[i+1]
		}
		if networkFlags[name] && value != "" {
			if mistake := checkCIDR(strings.Trim(value, `"'`)); mistake != "" {
				return dashes(name) + " " + mistake
			}
		}
	}
	return ""
}

// cutFlag splits --name=value and is empty for a word that is no flag. K3s takes one dash for two.
func cutFlag(word string) (name, value string, assigned bool) {
	word = strings.TrimLeft(word, `"'`)
	if !strings.HasPrefix(word, "-") {
		return "", "", false
	}
	name, value, assigned = strings.Cut(strings.TrimLeft(word, "-"), "=")
	return strings.TrimRight(name, `"'`), value, assigned
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func checkEnvName(name string) string {
	if !envName.MatchString(name) {
		return "is not the name of an environment variable"
	}
	if why, reserved := reservedEnv[name]; reserved {
		return "is reserved: " + why
	}
	return ""
}

// edgeVPNEnv says what stands in for EdgeVPN's variables here. Variables that are not listed have nothing to stand in.
var edgeVPNEnv = map[string]string{
	"EDGEVPNTOKEN":          "set p2p.network_token",
	"EDGEVPNDHT":            "set p2p.disable_dht",
	"EDGEVPNBOOTSTRAPPEERS": "set p2p.bootstrap",
	"DHCP":                  "addresses are always the site's decision",
	"DHCPLEASEDIR":          "addresses are always the site's decision",
	"ADDRESS":               "addresses are always the site's decision",
	"ROUTER":                "addresses are always the site's decision",
	"DNSADDRESS":            "set p2p.dns",
	"DNSFORWARD":            "set p2p.dns",
	"API":                   "the status API is a unix socket for root",
	"APILISTEN":             "the status API is a unix socket for root",
	"APILISTENUNIXMODE":     "the status API is a unix socket for root",
	"EDGEVPNMTU":            "the MTU is found",
	"EDGEVPNPRIVKEYCACHE":   "a node always keeps its identity",
	"EDGEVPNLOGLEVEL":       "set p2p.loglevel",
}
