package pki

import "fmt"

// Kubeconfig returns a kubeconfig whose credentials are files.
func Kubeconfig(server, caFile, certFile, keyFile string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: default
  cluster: {server: %q, certificate-authority: %q}
users:
- name: default
  user: {client-certificate: %q, client-key: %q}
contexts:
- name: default
  context: {cluster: default, user: default}
current-context: default
`, server, caFile, certFile, keyFile)
}
