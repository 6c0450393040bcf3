package k3s

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"gopkg.in/yaml.v3"
)

// settings is K3s's configuration file: the names of its flags and their
// values (docs.k3s.io/installation/configuration#configuration-file).
type settings map[string]any

// render returns the file that makes K3s run as s says. Tokens are in here and
// not on the command line, which every process of the machine may read.
func (s Spec) render() ([]byte, error) {
	c := settings{"node-name": s.NodeName}
	if s.NodeIP.IsValid() {
		c["node-ip"] = s.NodeIP.String()
	}
	if s.Join != "" {
		c["server"] = s.Join
	}
	if s.Role == Agent {
		c["token"] = pinned(s.CAHash, "node", s.AgentToken)
		if s.FlannelInterface != "" {
			c["flannel-iface"] = s.FlannelInterface
		}
		return c.encode()
	}
	c["token"] = s.ServerToken
	if s.Join != "" {
		c["token"] = pinned(s.CAHash, "server", s.ServerToken)
	}
	c["agent-token"] = s.AgentToken
	if s.ClusterInit {
		c["cluster-init"] = true
	}
	if s.DatastoreEndpoint != "" {
		c["datastore-endpoint"] = s.DatastoreEndpoint
	}
	if s.NodeIP.IsValid() {
		c["advertise-address"] = s.NodeIP.String()
	}
	if s.EmbeddedRegistry {
		c["embedded-registry"] = true
	}
	if s.FlannelInterface != "" {
		c["flannel-iface"] = s.FlannelInterface
	}
	if !s.ReplaceArgs && len(s.TLSSANs) > 0 {
		// A user's --tls-san would replace this list, see argv.
		c["tls-san"] = slices.Compact(slices.Sorted(slices.Values(s.TLSSANs)))
	}
	return c.encode()
}

func (c settings) encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by muster at every start; changes here are lost. User arguments belong under k3s.args.\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	// A map's order is random, and an unchanged file must stay unchanged.
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, key := range slices.Sorted(maps.Keys(c)) {
		var k, v yaml.Node
		k.SetString(key)
		if err := v.Encode(c[key]); err != nil {
			return nil, fmt.Errorf("write K3s configuration: %s: %w", key, err)
		}
		node.Content = append(node.Content, &k, &v)
	}
	if err := e.Encode(node); err != nil {
		return nil, fmt.Errorf("write K3s configuration: %w", err)
	}
	return b.Bytes(), nil
}

// pinned makes K3s's secure token format, with which a node that joins checks
// the cluster CA before it says its password
// (docs.k3s.io/cli/token#secure).
func pinned(caHash, user, password string) string {
	if caHash == "" || password == "" {
		return password
	}
	return "K10" + caHash + "::" + user + ":" + password
}
