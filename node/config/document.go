package config

import (
	"fmt"
	"io"
	"strings"
)

const preamble = `<!-- Written by node/config from its table of fields; do not edit. Renew: go test ./node/config -run Document -update -->
# Configuration

A node reads one cloud-config, merged from these places; a later one wins:

1. ` + "`/oem`, `/usr/local/cloud-config`, `/etc/muster`" + `: every ` + "`*.yaml` and `*.yml`" + ` below, in alphabetical order of path;
2. the kernel command line: dotted keys (` + "`p2p.network_token=…`" + `), ` + "`kairos.config=KEY=VALUE`, `config_url=URL`" + `;
3. the URL that ` + "`config_url`" + ` names, if any.

Maps merge deeply, lists of maps concatenate, other lists take in what they lack, anything else is replaced.

The first line of a file is ` + "`#cloud-config`" + ` (or Kairos's ` + "`#kairos-config`, `#node-config`" + `; comments may stand before it). A file holds
at most %d bytes. Dotted keys are nested ones: ` + "`p2p.dns: true`" + ` at the top is ` + "`dns: true`" + ` under ` + "`p2p`" + `.

Blocks that are not listed here (` + "`stages`, `users`, `install`" + ` …) are kept as written. In the blocks below, an unknown key is an
error. A list or map marked *secret* is shown with its secrets left out.

` + "```sh" + `
muster config validate FILE   # at most four lines of what is wrong, exit code 2; writes nothing
muster config show            # the effective configuration, and which file and line each value comes from
muster config schema          # the same as JSON schema, for editors
` + "```" + `
`

// Document writes docs/CONFIG.md.
func Document(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, preamble, MaxSize)
	for _, b := range blocks {
		title := "`" + b.Name + "`"
		if b.Name == "" {
			title = "Top level"
		}
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n| key | type | default | unit | meaning | Kairos |\n|---|---|---|---|---|---|\n", title, b.Meaning)
		for _, f := range ours {
			if block, _, nested := strings.Cut(f.Key, "."); nested && block == b.Name || !nested && b.Name == "" {
				writeRow(&out, f)
			}
		}
		writeRest(&out, b.Name)
	}
	out.WriteString(reservedIntro)
	writeReserved(&out, "flag", reservedFlags, dashes)
	out.WriteString("\n")
	writeReserved(&out, "variable", reservedEnv, func(name string) string { return name })
	_, err := io.WriteString(w, out.String())
	return err
}

const reservedIntro = `
## Reserved flags and variables of K3s

Refused in ` + "`k3s.args`, `k3s-agent.args`, `k3s.env` and `k3s-agent.env`" + `, because the site sets them or depends on them.

`

func writeRow(out *strings.Builder, f Field) {
	kind := f.Type()
	if f.Secret {
		kind += ", *secret*"
	}
	if len(f.Choices) > 0 {
		kind = oneOf(f.Choices)
	}
	meaning := f.Meaning
	if f.NoEffect != "" {
		meaning += " **No effect:** " + f.NoEffect + "."
	}
	if f.NotYet != "" {
		meaning += " **Not yet:** " + f.NotYet + "."
	}
	fmt.Fprintf(out, "| `%s` | %s | %s | %s | %s | %s |\n", f.Key, kind, orDash(f.Default), orDash(f.Unit), meaning, orSame(f.Kairos))
}

func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

func orSame(text string) string {
	if text == "" {
		return "the same"
	}
	return text
}

// writeRest names the keys that decode beside those with a row.
func writeRest(out *strings.Builder, block string) {
	switch block {
	case "kubevip":
		fmt.Fprintf(out, "\nkube-vip's own keys, which Kairos inlines here, decode and give a warning: `%s`.\n", strings.Join(kubeVIPConfig, "`, `"))
	case "upgrade":
		fmt.Fprintf(out, "\nKairos's keys, as there: `%s`.\n", strings.Join(kairosUpgrade, "`, `"))
	}
}

func writeReserved(out *strings.Builder, what string, reserved map[string]string, show func(string) string) {
	fmt.Fprintf(out, "| %s | why |\n|---|---|\n", what)
	for _, name := range sortedKeys(reserved) {
		fmt.Fprintf(out, "| `%s` | %s |\n", show(name), reserved[name])
	}
}
