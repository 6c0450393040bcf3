package config

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// write makes files below a new directory and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return dir
}

func load(t *testing.T, src Sources) (*Config, []Warning) {
	t.Helper()
	src.CheckToken = badToken
	c, warnings, err := Load(t.Context(), src)
	require.NoError(t, err)
	return c, warnings
}

func TestNothingAtAllIsTheDefaults(t *testing.T) {
	c, warnings := load(t, Sources{Dirs: []string{"/nonexistent"}})
	require.Empty(t, warnings)
	require.Equal(t, 2, c.P2P.MinimumNodes)
	require.Equal(t, "kairos", c.P2P.NetworkID)
	require.Equal(t, 15*time.Minute, c.P2P.ReplaceAfter)
	require.Equal(t, 10*time.Minute, c.Upgrade.HealthDeadline)
	require.Equal(t, 2, c.Upgrade.Tries)
	require.Equal(t, 1, c.P2P.Masters())
	require.True(t, c.P2P.VPN.Create && c.P2P.VPN.Use && c.P2P.Auto.Enable)
	require.False(t, c.K3s.Enabled || c.KubeVIP.Enable || c.P2P.Auto.HA.Enable)
}

// What the documentation calls the default is what Load applies.
func TestDocumentedDefaultsAreTheRealOnes(t *testing.T) {
	c, _ := load(t, Sources{})
	for _, f := range ours {
		switch at := f.into(c).(type) {
		case *bool:
			if f.Default == "true" || f.Default == "false" {
				require.Equal(t, f.Default, fmt.Sprint(*at), f.Key)
			}
		case *int:
			require.Equal(t, f.Default, fmt.Sprint(*at), f.Key)
		case *time.Duration:
			require.Equal(t, f.Default, short(*at), f.Key)
		case *string:
			if f.Key != "p2p.role" && *at != "" {
				require.Equal(t, f.Default, *at, f.Key)
			}
		}
		require.NotEmpty(t, f.Meaning, f.Key)
	}
}

func TestATokenAloneIsAWholeConfiguration(t *testing.T) {
	dir := write(t, map[string]string{"90_custom.yaml": "#cloud-config\np2p:\n  network_token: b3RwOg\n"})
	c, warnings := load(t, Sources{Dirs: []string{dir}})
	require.Empty(t, warnings)
	require.True(t, c.K3s.Enabled)
	require.Equal(t, "b3RwOg", c.P2P.NetworkToken.Reveal())
}

func TestImpliedValues(t *testing.T) {
	for name, c := range map[string]struct {
		input string
		check func(*Config) bool
	}{
		"master_nodes implies HA":          {"p2p.auto.ha.master_nodes: 4", func(c *Config) bool { return c.P2P.Auto.HA.Enable && c.P2P.Masters() == 5 }},
		"HA means two more":                {"p2p.auto.ha.enable: true", func(c *Config) bool { return c.P2P.Masters() == 3 }},
		"HA off is one master":             {"p2p.auto.ha: {enable: false, master_nodes: 2}", func(c *Config) bool { return c.P2P.Masters() == 1 }},
		"HA with none more":                {"p2p.auto.ha.master_nodes: 0", func(c *Config) bool { return c.P2P.Auto.HA.Enable && c.P2P.Masters() == 1 }},
		"no VPN, none used":                {"p2p.vpn.create: false", func(c *Config) bool { return !c.P2P.VPN.Use }},
		"VPN beside the LAN":               {"p2p.vpn.use: false", func(c *Config) bool { return c.P2P.VPN.Create && !c.P2P.VPN.Use }},
		"an address switches kube-vip on":  {"kubevip.eip: 10.0.0.9", func(c *Config) bool { return c.KubeVIP.Enable }},
		"kube-vip off keeps its address":   {"kubevip: {eip: 10.0.0.9, enable: false}", func(c *Config) bool { return !c.KubeVIP.Enable }},
		"which the masters then hold":      {"kubevip: {eip: 10.0.0.9, enable: false}", func(c *Config) bool { return c.KubeVIP.Own().String() == "10.0.0.9" }},
		"and not while kube-vip does":      {"kubevip.eip: 10.0.0.9", func(c *Config) bool { return !c.KubeVIP.Own().IsValid() }},
		"no K3s though there is a token":   {"p2p.network_token: b3RwOg\nk3s.enabled: false", func(c *Config) bool { return !c.K3s.Enabled }},
		"auto is no static role":           {"p2p.role: auto", func(c *Config) bool { return c.P2P.Role == "" }},
		"none is no static role":           {"p2p.role: none", func(c *Config) bool { return c.P2P.Role == "" }},
		"nothing is no static role":        {"p2p.role:", func(c *Config) bool { return c.P2P.Role == "" }},
		"go-log's levels above error":      {"p2p.loglevel: fatal", func(c *Config) bool { return c.P2P.LogLevel == "error" }},
		"a static role":                    {"p2p.role: worker", func(c *Config) bool { return c.P2P.Role == "worker" }},
		"white space around a token":       {"p2p.network_token: |\n  b3RwOg", func(c *Config) bool { return c.P2P.NetworkToken == "b3RwOg" }},
		"checksums compare in lower case":  {"k3s.url: http://h/k3s\nk3s.sha256: " + strings.Repeat("AB", 32), func(c *Config) bool { return c.K3s.SHA256 == strings.Repeat("ab", 32) }},
		"numbers and switches as argument": {"k3s.args: [--v, 2, true]", func(c *Config) bool { return strings.Join(c.K3s.Args, " ") == "--v 2 true" }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"c.yaml": "#cloud-config\n" + c.input + "\n"})
			got, _ := load(t, Sources{Dirs: []string{dir}})
			require.True(t, c.check(got))
		})
	}
}

func TestLaterSourcesWinAndEveryValueKnowsItsOrigin(t *testing.T) {
	weak := write(t, map[string]string{
		"10_a.yaml":            "#cloud-config\np2p:\n  network_token: b3RwOg\n  minimum_nodes: 3\nk3s:\n  args: [--disable=traefik]\n  env: {A: 1, B: 1}\n",
		"95_userdata/user.yml": "#node-config\np2p: {minimum_nodes: 4, dns: true}\nk3s: {args: [--disable=traefik, --v=2], env: {B: 2}}\n",
	})
	strong := write(t, map[string]string{"a.yaml": "#kairos-config\np2p.dns: false\nstages:\n  boot:\n  - name: two\nusers: [{name: b}]\n"})
	more := write(t, map[string]string{
		"b.yaml":  "#cloud-config\nstages:\n  boot:\n  - name: three\n",
		"cmdline": "console=ttyS0 rd.neednet=1 p2p.network_id=\"edge\" p2p.vpn.use=false k3s.env.C=3 kairos.config=hostname=box\n",
	})
	c, warnings := load(t, Sources{Dirs: []string{weak, strong}, Files: []string{more + "/b.yaml"}, Cmdline: more + "/cmdline"})
	require.Empty(t, warnings)
	require.Equal(t, 4, c.P2P.MinimumNodes)
	require.False(t, c.P2P.DNS)
	require.Equal(t, "edge", c.P2P.NetworkID)
	require.Equal(t, "box", c.Hostname)
	require.Equal(t, Args{"--disable=traefik", "--v=2"}, c.K3s.Args)
	require.Equal(t, Env{"A": "1", "B": "2", "C": "3"}, c.K3s.Env)
	var steps map[string][]struct{ Name string }
	found, err := c.Block("stages", &steps)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "[{two} {three}]", fmt.Sprint(steps["boot"]))
	found, err = c.Block("install", &steps)
	require.NoError(t, err)
	require.False(t, found)
	require.Equal(t, []string{"stages", "users"}, c.Foreign())

	require.Equal(t, weak+"/10_a.yaml:3:18", c.Origin("p2p.network_token").String())
	require.Equal(t, weak+"/95_userdata/user.yml:2:22", c.Origin("p2p.minimum_nodes").String())
	require.Equal(t, strong+"/a.yaml:2:10", c.Origin("p2p.dns").String())
	require.Equal(t, more+"/cmdline:1:28", c.Origin("p2p.network_id").String())
	require.Equal(t, weak+"/10_a.yaml:7:12", c.Origin("k3s.env.A").String())
	require.Equal(t, "default", c.Origin("p2p.replace_after").String())

	shown := string(c.Redacted())
	for file, name := range map[string]string{weak: "/weak", strong: "/strong", more: "/more"} {
		shown = strings.ReplaceAll(shown, file, name)
	}
	golden(t, "testdata/show.yaml", shown)
}

func TestWhatIsShownIsAConfigurationAgain(t *testing.T) {
	files, err := filepath.Glob("testdata/accepted/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		c, _ := load(t, Sources{Files: []string{file}})
		require.NotContains(t, string(c.Redacted()), "b3Rw")
		_, err := Validate("shown", c.Redacted(), Options{})
		require.NoError(t, err, string(c.Redacted()))
		asJSON, err := json.Marshal(c)
		require.NoError(t, err)
		require.NotContains(t, string(asJSON), "b3Rw")
		require.Contains(t, string(asJSON), `"settings":[{"key":"hostname"`)
	}
}

func TestOnlyConfigurationsAreTakenFromADirectory(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml":       "p2p:\n  dns: true\n",
		"b.conf":       "#cloud-config\np2p.dns: true\n",
		"grubenv":      "# GRUB Environment Block\n",
		".hidden.yaml": "#cloud-config\nunknown: [\n",
		".git/c.yaml":  "#cloud-config\nunknown: [\n",
		"d/e/f.yaml":   "#cloud-config\nhostname: deep\n",
	})
	require.NoError(t, os.Mkdir(filepath.Join(dir, "z_folder.yaml"), 0o755))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "g.yaml")))
	c, warnings := load(t, Sources{Dirs: []string{dir}})
	require.False(t, c.P2P.DNS)
	require.Equal(t, "deep", c.Hostname)
	require.Equal(t, []string{
		dir + "/a.yaml: is not read: the first line must be #cloud-config",
		dir + "/b.conf: is not read: its name does not end in .yaml or .yml",
	}, []string{warnings[0].String(), warnings[1].String()})
	require.Len(t, warnings, 2)
}

func TestAMistakeIsReportedInItsFileThoughALaterOneHidesIt(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "#cloud-config\np2p:\n  minimum_nodes: many\nstages:\n  boot: 3\n",
		"b.yaml": "#cloud-config\np2p:\n  minimum_nodes: 3\nstages: {}\n",
	})
	_, _, err := Load(t.Context(), Sources{Dirs: []string{dir}})
	require.EqualError(t, err, dir+"/a.yaml:3:18: p2p.minimum_nodes: must be a whole number, and is text\n"+
		dir+"/a.yaml:5: stages: not what yip's steps can hold: a whole number in the wrong place")
}

func TestRulesBetweenKeysHoldAcrossFiles(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "#cloud-config\nk3s:\n  url: https://example.com/k3s\n",
		"b.yaml": "#cloud-config\nk3s:\n  sha256: " + strings.Repeat("a", 64) + "\n",
		"c.yaml": "#cloud-config\np2p:\n  join_only: true\n",
		"d.yaml": "#cloud-config\np2p:\n  minimum_nodes: 1\n",
	})
	_, _, err := Load(t.Context(), Sources{Files: []string{dir + "/a.yaml", dir + "/b.yaml"}})
	require.NoError(t, err)
	_, _, err = Load(t.Context(), Sources{Dirs: []string{dir}})
	require.ErrorContains(t, err, dir+"/c.yaml:3:14: p2p.join_only: contradicts")
}

func TestANamedFileMustBeThere(t *testing.T) {
	_, _, err := Load(t.Context(), Sources{Files: []string{"/nonexistent.yaml"}})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTheKernelCommandLine(t *testing.T) {
	for line, want := range map[string]string{
		"quiet p2p.dns=true ro":                             "p2p.dns=true",
		"p2p.minimum_nodes=3":                               "p2p.minimum_nodes=3",
		`k3s.args[0]=--disable=traefik k3s.args[1]="--v 2"`: "k3s.args=[--disable=traefik --v 2]",
		"kairos.config=p2p.auto.ha.master_nodes=2":          "p2p.auto.ha.master_nodes=2",
		"kairos.config_url=http://h/x":                      "config_url=http://h/x",
		"cos.setup=http://h/x":                              "config_url=http://h/x",
		"config_url=http://u:p@h/x?t=1":                     "config_url=http://h/x",
		"p2p.network_id=:{":                                 "c:1:1: p2p.network_id: must be 1 to 63 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends, not \":{\"",
		"ro p2p.dsn=true":                                   "c:1:4: p2p.dsn: unknown key; did you mean dns?",
		"p2p.dns":                                           "c:1:1: p2p.dns: needs a value: KEY=VALUE",
		"p2p.dns=true p2p.dns=false":                        "c:1:14: p2p.dns: does not fit what stands in column 1",
		"p2p.dns=true p2p.dns.x=false":                      "c:1:14: p2p.dns.x: does not fit what stands in column 1",
		"k3s.args[0]=a k3s.args[7]=b":                       "c:1:15: k3s.args…: does not fit what stands in column 1",
		"p2p.replace_after=1m p2p.network_token=x":          "c:1:22: p2p.network_token: the checksum is wrong",
	} {
		dir := write(t, map[string]string{"cmdline": line + "\n"})
		c, _, err := Load(t.Context(), Sources{Cmdline: dir + "/cmdline", CheckToken: badToken})
		if err != nil {
			require.Equal(t, want, strings.ReplaceAll(err.Error(), dir+"/cmdline", "c"), line)
			continue
		}
		var got []string
		for _, s := range c.Settings() {
			if !s.Origin.IsDefault() {
				got = append(got, fmt.Sprintf("%s=%v", s.Key, s.Value))
			}
		}
		require.Equal(t, want, strings.Join(got, " "), line)
	}
}

func TestStagesOfTheCommandLineAreKept(t *testing.T) {
	dir := write(t, map[string]string{"cmdline": "stages.boot[0].authorized_keys.root[0]=github:user stages.boot[0].name=keys"})
	c, _ := load(t, Sources{Cmdline: dir + "/cmdline"})
	var got any
	_, err := c.Block("stages", &got)
	require.NoError(t, err)
	require.Equal(t, "map[boot:[map[authorized_keys:map[root:[github:user]] name:keys]]]", fmt.Sprint(got))
}

// A later map of scalars wins key by key, whatever the files.
func TestMergeIsTheLastWriteOfEachKey(t *testing.T) {
	keys := []string{"p2p.dns", "p2p.disable_dht", "p2p.vpn.create", "k3s.embedded_registry", "upgrade.reboot", "foreign.a.b"}
	rapid.Check(t, func(t *rapid.T) {
		want := make(map[string]bool)
		var merged *node
		for range rapid.IntRange(1, 6).Draw(t, "files") {
			input := "#cloud-config\n"
			for _, key := range rapid.SliceOfDistinct(rapid.SampledFrom(keys), rapid.ID[string]).Draw(t, "keys") {
				want[key] = rapid.Bool().Draw(t, "value")
				if key == "foreign.a.b" {
					input += fmt.Sprintf("foreign: {a: {b: %v}}\n", want[key])
				} else {
					input += fmt.Sprintf("%s: %v\n", key, want[key])
				}
			}
			if !strings.Contains(input, ":") {
				continue
			}
			var r report
			merged = merge(merged, parse("c", []byte(input), &r))
			if err := r.err(); err != nil {
				t.Fatal(err)
			}
		}
		for key, value := range want {
			at := merged
			for name := range strings.SplitSeq(key, ".") {
				at = at.get(name)
			}
			if at == nil || at.text != fmt.Sprint(value) {
				t.Fatalf("%s: got %+v, want %v", key, at, value)
			}
		}
	})
}

// remote is a Fetcher of a map.
type remote map[string]string

func (r remote) Fetch(_ context.Context, url string) ([]byte, error) {
	if data, ok := r[url]; ok {
		return []byte(data), nil
	}
	return nil, errors.New("fetch: no route to host")
}

func TestARemoteConfigurationIsRememberedAndRecalled(t *testing.T) {
	dir := write(t, map[string]string{"c.yaml": "#cloud-config\nhostname: local\nconfig_url: http://user:pw@h/c?key=s3cret\n"})
	const address = "http://user:pw@h/c?key=s3cret"
	memory := DirMemory(filepath.Join(t.TempDir(), "remote"))
	src := Sources{Dirs: []string{dir}, Memory: memory}

	c, warnings := load(t, src)
	require.Equal(t, "local", c.Hostname)
	require.Equal(t, []Warning{{Origin{dir + "/c.yaml", 3, 13}, "config_url", "nothing was added and there is no earlier copy: nothing is fetched in this run"}}, warnings)

	src.Fetcher = remote{address: "#cloud-config\nhostname: remote\n"}
	c, warnings = load(t, src)
	require.Equal(t, "remote", c.Hostname)
	require.Equal(t, "http://h/c:2:11", c.Origin("hostname").String())
	require.Empty(t, warnings)

	for _, broken := range []remote{nil, {address: "#cloud-config\np2p.network_id: [x]\n"}, {address: "<html>"}, {address: ""}} {
		src.Fetcher = broken
		c, warnings = load(t, src)
		require.Equal(t, "remote", c.Hostname)
		require.Len(t, warnings, 1)
		require.Contains(t, warnings[0].Text, "the last good copy is used: ")
		require.NotContains(t, warnings[0].Text, "s3cret")
	}

	files, err := os.ReadDir(string(memory))
	require.NoError(t, err)
	require.Len(t, files, 1)
	info, err := files[0].Info()
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
}

func TestARemoteConfigurationThatSpoilsTheWholeIsNotRemembered(t *testing.T) {
	dir := write(t, map[string]string{"c.yaml": "#cloud-config\np2p.join_only: true\nconfig_url: http://h/c\n"})
	memory := DirMemory(t.TempDir())
	_, _, err := Load(t.Context(), Sources{Dirs: []string{dir}, Memory: memory, Fetcher: remote{"http://h/c": "#cloud-config\np2p.minimum_nodes: 1\n"}})
	require.ErrorContains(t, err, "p2p.join_only: contradicts")
	_, err = memory.Recall("http://h/c")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAChainOfRemoteConfigurationsEnds(t *testing.T) {
	dir := write(t, map[string]string{"c.yaml": "#cloud-config\nconfig_url: http://h/1\n"})
	chain := remote{}
	for i := 1; i <= 9; i++ {
		chain[fmt.Sprintf("http://h/%d", i)] = fmt.Sprintf("#cloud-config\nhostname: n%d\nconfig_url: http://h/%d\n", i, i+1)
	}
	c, warnings := load(t, Sources{Dirs: []string{dir}, Fetcher: chain})
	require.Equal(t, "n5", c.Hostname)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0].Text, "is not followed: more than 5")

	chain["http://h/2"] = "#cloud-config\nhostname: two\nconfig_url: http://h/1\n"
	c, warnings = load(t, Sources{Dirs: []string{dir}, Fetcher: chain})
	require.Equal(t, "two", c.Hostname)
	require.Empty(t, warnings)
}

// served answers requests in memory, so that time in the test is virtual.
type served struct {
	handler  http.Handler
	requests int
}

func (s *served) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests++
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func TestFetchTriesThreeTimesWithinItsLimits(t *testing.T) {
	for name, c := range map[string]struct {
		handler  http.HandlerFunc
		want     string
		requests int
		took     time.Duration
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "fetch: the server answers 403 (3 attempts)", 3, 3 * time.Second},
		"silent":  {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "fetch: context deadline exceeded (3 attempts)", 3, 33 * time.Second},
		"endless": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, MaxSize+1)) }, "fetch: larger than the limit of 1048576 bytes (3 attempts)", 3, 3 * time.Second},
		"well":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("#cloud-config\n")) }, "", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &served{handler: c.handler}
				start := time.Now()
				data, err := HTTPFetcher{&http.Client{Transport: server}}.Fetch(t.Context(), "http://u:secret@h/x?k=secret")
				require.Equal(t, c.requests, server.requests)
				require.Equal(t, c.took, time.Since(start))
				if c.want == "" {
					require.NoError(t, err)
					require.Equal(t, "#cloud-config\n", string(data))
				} else {
					require.EqualError(t, err, c.want)
				}
			})
		})
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		server := &served{handler: http.NotFoundHandler()}
		_, err := HTTPFetcher{&http.Client{Transport: server}}.Fetch(ctx, "http://h/x")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2, server.requests)
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add("quiet p2p.dns=true k3s.args[0]=\"--v 2\" kairos.config=a.b=c stages.boot[0].name=x")
	f.Add("p2p.=x p2p..x=y kairos.config= kairos.config=.=x k3s.args[-1]=z stages.0=1 stages[0]=2 stages.a=b")
	f.Fuzz(func(t *testing.T, line string) {
		var r report
		root := parseCmdline("c", line, &r)
		d := decoder{config: defaults(), checkToken: badToken}
		d.decode(root)
		d.implied()
		if err := d.err(); err != nil {
			require.LessOrEqual(t, strings.Count(err.Error(), "\n"), MaxLines-1)
		}
	})
}
