package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The transcript holds every refusal and warning: input between === and ---, what Validate says after it.
func TestEveryMistakeIsNamedWithItsPlace(t *testing.T) {
	const path = "testdata/validate.txt"
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	sections := strings.Split(string(data), "\n=== ")
	out := []string{sections[0]}
	for _, section := range sections[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		input, _, found := strings.Cut(rest, "\n---\n")
		require.True(t, found, name)
		said := transcript(input + "\n")
		if strings.HasPrefix(name, "refused") {
			require.Contains(t, said, "error: ", name)
		}
		out = append(out, name+"\n"+input+"\n---\n"+said)
	}
	golden(t, path, strings.Join(out, "\n=== "))
}

func transcript(input string) string {
	warnings, err := Validate("c.yaml", []byte(input), Options{CheckToken: badToken})
	var said strings.Builder
	for _, w := range warnings {
		fmt.Fprintf(&said, "warning: %s\n", w)
	}
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(&said, "error: %s\n", line)
		}
	}
	return said.String()
}

func TestAFileThatIsNoConfigurationIsRefusedAsAWhole(t *testing.T) {
	deep := "#cloud-config\na: " + strings.Repeat("[", MaxDepth+2) + strings.Repeat("]", MaxDepth+2)
	bomb := "#cloud-config\na0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
	for i := 1; i < 9; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	for name, c := range map[string]struct{ input, want string }{
		"nothing":           {"", "c: the file is empty; the first line must be #cloud-config"},
		"white space":       {" \n\t\n", "c: the file is empty; the first line must be #cloud-config"},
		"mark alone":        {"\xef\xbb\xbf", "c: the file is empty; the first line must be #cloud-config"},
		"header alone":      {"#cloud-config", "c: the file has a header and nothing else"},
		"header and null":   {"#cloud-config\n~\n", "c: the file has a header and nothing else"},
		"no header":         {"p2p:\n  dns: true\n", "c:1:1: the first line must be #cloud-config"},
		"header too late":   {"p2p:\n#cloud-config\n", "c:1:1: the first line must be #cloud-config"},
		"header far below":  {strings.Repeat("#\n", 10) + "#cloud-config\np2p:\n", "c:1:1: the first line must be #cloud-config"},
		"header with space": {"# cloud-config\np2p:\n", "c:1:1: the first line must be #cloud-config; line 1 is near it: write #cloud-config exactly"},
		"header misspelt":   {"#cloud_confg\np2p:\n", "c:1:1: the first line must be #cloud-config; line 1 is near it: write #cloud-config exactly"},
		"a list":            {"#cloud-config\n- p2p\n", "c:2:1: the file must be a map of blocks such as \"p2p:\", and is a list"},
		"a word":            {"#cloud-config\nnetwork_token=SECRET\n", "c:2:1: the file must be a map of blocks such as \"p2p:\", and is text"},
		"UTF-16":            {"\xff\xfe#\x00c\x00", "c: the file is not UTF-8 text"},
		"too large":         {"#cloud-config\n" + strings.Repeat("#", MaxSize), "c: the file is larger than the limit of 1048576 bytes"},
		"two documents":     {"#cloud-config\np2p:\n---\np2p:\n", "c:3: a second YAML document starts; a configuration is one"},
		"too deep":          {deep, "c:2:68: nested deeper than 64 levels"},
		"alias bomb":        {bomb, "c:6:38: more than 100000 values once aliases are expanded"},
		"alias of itself":   {"#cloud-config\na: &a [*a, *a]\n", "c:2:8: nested deeper than 64 levels"},
	} {
		t.Run(name, func(t *testing.T) {
			warnings, err := Validate("c", []byte(c.input), Options{})
			require.EqualError(t, err, c.want)
			require.Empty(t, warnings)
		})
	}
}

func TestAHeaderMayFollowCommentsAndAMark(t *testing.T) {
	for _, start := range []string{
		"#cloud-config\n", "#kairos-config \r\n", "#node-config\n", "\xef\xbb\xbf#cloud-config\n", "## template: jinja\n#cloud-config\n", "\n\n#cloud-config\n",
	} {
		_, err := Validate("c", []byte(start+"hostname: n1\n"), Options{})
		require.NoError(t, err, "%q", start)
	}
}

func TestConfigurationsOfKairosAreAccepted(t *testing.T) {
	files, err := filepath.Glob("testdata/accepted/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var out strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		warnings, err := Validate(filepath.Base(file), data, Options{CheckToken: badToken})
		require.NoError(t, err, file)
		for _, w := range warnings {
			fmt.Fprintln(&out, w)
		}
	}
	golden(t, "testdata/accepted/warnings.txt", out.String())
}

func TestAtMostFourLinesAreSaid(t *testing.T) {
	for n := 1; n <= 300; n++ {
		input := "#cloud-config\np2p:\n" + strings.Repeat("  dns: 7\n", 1)
		for i := 1; i < n; i++ {
			input += fmt.Sprintf("  unknown_%d_x: 1\n", i)
		}
		_, err := Validate("c", []byte(input), Options{})
		require.LessOrEqual(t, strings.Count(err.Error(), "\n"), MaxLines-1)
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid)
		require.Len(t, invalid.Problems, min(n, maxProblems))
		if n > MaxLines {
			require.Contains(t, err.Error(), fmt.Sprintf("\nand %d more problems", n-MaxLines+1))
		}
	}
}

// Wherever a secret stands by mistake or on purpose, no message holds it.
func TestNoMessageHoldsASecret(t *testing.T) {
	shapes := []string{
		"p2p:\n  network_token: %s\n",
		"p2p:\n  network_token: *%s\n",
		"p2p:\n  network_token: !%s x\n",
		"p2p:\n  network_token: [%s]\n",
		"p2p:\n  network_token:\n    %s: x\n",
		"p2p:\n  network_token: \"%s\n",
		"p2p:\n  network_token: {%s\n",
		"p2p:\n  network_token:%s\n",
		"p2p:\n  network_token:%s: x\n",
		"p2p:\n  network_token=%s: x\n",
		"p2p:\n  network_token:%s\n  dns: true\n",
		"p2p:\n  networktoken: %s\n",
		"p2p: %s\n",
		"p2p:\n  %s\n",
		"p2p:\n  role: %s\n  minimum_nodes: %s\n  replace_after: %s\n  dns: %s\n  network_id: '%s!'\n",
		"p2p:\n  bootstrap: [%s]\n  auto: %s\n",
		"p2p:\n  auto:\n    ha:\n      external_db: %s\n",
		"p2p:\n  auto:\n    ha:\n      external_db: foo://u:%s@h\n",
		"p2p:\n  vpn:\n    env:\n      EDGEVPNTOKEN: %s\n      X: [%s]\n",
		"k3s:\n  args: [\"--token=%s\", \"--token %s\", \"--agent-token '%s'\", \"-t=%s\"]\n",
		"k3s:\n  args: [{a: %s}]\n",
		"k3s:\n  args: %s\n",
		"k3s:\n  args: [--cluster-cidr=%s]\n",
		"k3s:\n  env:\n    K3S_TOKEN: %s\n    K3S_AGENT_TOKEN: [%s]\n",
		"k3s:\n  url: https://u:%s@h x\n  sha256: %s\n  binary: %s\n",
		"config_url: ftp://u:%s@h/\n",
		"hostname: %s!\n",
		"kubevip:\n  eip: %s\n  interface: %s:\n  version: %s %s\n",
		"stages:\n  boot:\n  - commands: %s\n",
		"stages: %s\n",
		"a: &%s b\na: 1\nc: *%s\n",
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringMatching(`[A-Za-z0-9+/]{24,80}={0,2}`).Draw(t, "secret")
		shape := rapid.SampledFrom(shapes).Draw(t, "shape")
		input := "#cloud-config\n" + strings.ReplaceAll(shape, "%s", secret)
		warnings, err := Validate("c.yaml", []byte(input), Options{CheckToken: func(token string) error {
			return errors.New("bad token " + token)
		}})
		said := fmt.Sprint(warnings, err)
		if shares(said, secret) {
			t.Fatalf("%s\nsays %s", input, said)
		}
	})
}

func TestEveryReservedFlagAndVariableIsRefusedByName(t *testing.T) {
	for _, block := range []string{"k3s", "k3s-agent"} {
		for name, why := range reservedFlags {
			for _, form := range []string{"--%s=x", "-%s", "--v=1 --%s x", "'--%s' x"} {
				input := fmt.Sprintf("#cloud-config\n%s:\n  args: [\"%s\"]\n", block, fmt.Sprintf(form, name))
				_, err := Validate("c", []byte(input), Options{})
				require.EqualError(t, err, fmt.Sprintf("c:3:10: %s.args[0]: %s is reserved: %s", block, dashes(name), why), input)
			}
		}
		for name, why := range reservedEnv {
			_, err := Validate("c", fmt.Appendf(nil, "#cloud-config\n%s:\n  env: {%s: x}\n", block, name), Options{})
			require.EqualError(t, err, fmt.Sprintf("c:3:9: %s.env.%s: is reserved: %s", block, name, why))
		}
	}
}

func TestEveryKeyOfTheTableDecodes(t *testing.T) {
	for _, f := range table {
		value := "x"
		switch f.Type() {
		case "true or false":
			value = "true"
		case "whole number":
			value = "3"
		case "duration":
			value = "20s"
		case "list of text":
			value = "[]"
		case "map of text":
			value = "{X: y}"
		}
		switch {
		case f.Key == "kubevip.manifest_url":
			value = "https://example.com/x#sha256=" + strings.Repeat("a", 64)
		case f.check != nil && strings.HasSuffix(f.Key, "url"):
			value = "https://example.com/x"
		case f.Key == "p2p.auto.ha.master_nodes":
			value = "4"
		case f.Key == "p2p.auto.ha.external_db":
			value = "postgres://u:p@h/db"
		case f.Key == "k3s.binary":
			value = "/k3s"
		case f.Key == "k3s.sha256":
			value = strings.Repeat("a", 64)
		case f.Key == "kubevip.eip":
			value = "10.0.0.1"
		case strings.HasSuffix(f.Key, "cidr"):
			value = "10.0.0.0/8"
		case len(f.Choices) > 0:
			value = f.Choices[0]
		}
		input := fmt.Sprintf("#cloud-config\n%s: %s\nkubevip.eip: 10.0.0.1\nk3s.sha256: %s\n", f.Key, value, strings.Repeat("a", 64))
		if strings.Count(input, f.Key+": ") > 1 {
			input = fmt.Sprintf("#cloud-config\n%s: %s\n", f.Key, value)
		}
		warnings, err := Validate("c", []byte(input), Options{})
		require.NoError(t, err, input)
		if f.NoEffect != "" {
			require.Contains(t, fmt.Sprint(warnings), f.Key+": has no effect: "+f.NoEffect)
		}
		if f.NotYet != "" {
			require.Contains(t, fmt.Sprint(warnings), f.Key+": has no effect yet: "+f.NotYet)
		}
	}
}

func TestNearestIsWhatAPersonMeant(t *testing.T) {
	for word, want := range map[string]string{
		"network_tokn": "network_token", "networkToken": "network_token", "network-id": "network_id", "minimun_nodes": "minimum_nodes",
		"nds": "dns", "vnp": "vpn", "Auto": "auto", "xyzzy": "", "": "", strings.Repeat("a", 100): "",
	} {
		got, found := nearest(word, known.children["p2p"].names())
		require.Equal(t, want, got, word)
		require.Equal(t, want != "", found, word)
	}
}

func FuzzValidate(f *testing.F) {
	files, _ := filepath.Glob("testdata/accepted/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("#cloud-config\np2p:\n  network_token: *x\n"))
	f.Add([]byte("#cloud-config\na: &a [*a]\n? [b]\n: c\n<<: 3\n"))
	f.Add([]byte("#cloud-config\np2p.auto.ha.0: 1\nk3s.args.0: x\nstages: {boot: [{name: 3}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		warnings, err := Validate("c", data, Options{CheckToken: badToken})
		for _, w := range warnings {
			require.NotContains(t, w.String(), "\n")
		}
		var invalid *InvalidError
		if err != nil {
			require.ErrorAs(t, err, &invalid)
			require.LessOrEqual(t, bytes.Count([]byte(err.Error()), []byte("\n")), MaxLines-1)
			for _, p := range invalid.Problems {
				require.NotContains(t, p.String(), "\n")
			}
		}
	})
}
