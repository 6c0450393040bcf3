package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

func TestSecretsPrintAsRedactedHoweverPrinted(t *testing.T) {
	dir := write(t, map[string]string{"c.yaml": `#cloud-config
p2p:
  network_token: b3RwS3cret
  auto: {ha: {external_db: "postgres://u:S3cret@h/db"}}
k3s:
  args: ["--kube-apiserver-arg=encryption-key=S3cret", --etcd-s3-secret-key, S3cret, "--x https://u:S3cret@h", --disable=traefik]
  env: {HTTPS_PROXY: "http://u:S3cret@proxy", AWS_SECRET_ACCESS_KEY: S3cret, NO_PROXY: 10.0.0.0/8}
  url: https://u:S3cret@h/k3s?token=S3cret
  sha256: "` + strings.Repeat("ab", 32) + `"
kcrypt: {passphrase: S3cret}
`})
	c, _ := load(t, Sources{Dirs: []string{dir}})
	require.Equal(t, "b3RwS3cret", c.P2P.NetworkToken.Reveal())
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("all", "config", c, "token", c.P2P.NetworkToken, "env", c.K3s.Env, "args", c.K3s.Args, "p2p", c.P2P, "k3s", c.K3s)
	asJSON, err := json.Marshal(c)
	require.NoError(t, err)
	tokenJSON, err := json.Marshal(c.P2P)
	require.NoError(t, err)
	tokenYAML, err := yaml.Marshal(c.P2P)
	require.NoError(t, err)
	for _, said := range []string{
		log.String(), string(asJSON), string(tokenJSON), string(tokenYAML), string(c.Redacted()), c.String(), fmt.Sprint(c),
		fmt.Sprintf("%v %+v %#v", c.P2P, c.P2P, c.P2P), fmt.Sprintf("%v %+v %#v", c.K3s.Env, c.K3s.Env, c.K3s.Env),
		fmt.Sprintf("%v %+v %#v", c.K3s.Args, c.K3s.Args, c.K3s.Args), fmt.Sprintf("%+v", c.Settings()),
	} {
		require.NotContains(t, said, "S3cret")
	}
	require.Contains(t, string(c.Redacted()), "NO_PROXY: 10.0.0.0/8")
	require.Contains(t, string(c.Redacted()), "# kcrypt: kept, not shown; ")
}

func TestArgumentsAreShownUpToTheFirstSecret(t *testing.T) {
	for given, want := range map[string]string{
		"--disable=traefik|--v 2":           "--disable=traefik|--v 2",
		"--token abc def":                   "--token=redacted",
		"--token 'a b' --v":                 "--token=redacted",
		"--agent-token|abc|--v":             "--agent-token|redacted|--v",
		"--etcd-s3-access-key=abc":          "--etcd-s3-access-key=redacted",
		"-t|abc":                            "-t|redacted",
		"--registry https://u:p@h/x --v":    "--registry =redacted",
		"--label=a=b|--password":            "--label=a=b|--password",
		"--datastore-cafile=/x|--v=1":       "--datastore-cafile=redacted|--v=1",
		"--kube-apiserver-arg=token=abc|-v": "--kube-apiserver-arg=token=redacted|-v",
	} {
		require.Equal(t, want, strings.Join(Args(strings.Split(given, "|")).Redacted(), "|"))
	}
}

func TestKeysAreShownOnlyAsFarAsTheyCanBeKeys(t *testing.T) {
	for given, want := range map[string]string{
		"network_token": "network_token", "network_token:abc": "network_token…", "a b": "a…", "": "", "é": "…",
		strings.Repeat("a", 33): "(a key of 33 characters)", strings.Repeat("a", 33) + "=": "(a key of 33 characters)",
	} {
		require.Equal(t, want, showKey(given))
	}
}
