package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade/image"
)

// referenceForms is what REF may be, for help texts.
const referenceForms = `  oci:NAME[:TAG][@DIGEST]   in a registry
  ocifile:PATH              an OCI layout (folder or tar), or what docker save writes
  dir:PATH                  a root tree
  file:PATH                 a tar of a root tree, plain or compressed`

// sourceFlags adds what opening an image may need and returns how to read it.
func sourceFlags(c *cobra.Command) func() (image.Options, error) {
	var o image.Options
	var key string
	f := c.Flags()
	f.BoolVar(&o.Insecure, "insecure", false, "speak plain HTTP to registries that have no TLS")
	f.StringArrayVar(&o.Mirrors, "mirror", nil, "registry (HOST[:PORT][/PREFIX]) that is asked first; may be repeated")
	f.StringVar(&key, "key", "", "file with a cosign public key (cosign.pub): demand a valid signature")
	f.StringVar(&o.Cache, "cache", "", "folder that keeps what was pulled, and continues what was cut")
	return func() (image.Options, error) {
		if platform := f.Lookup("platform"); platform != nil {
			o.Platform = platform.Value.String()
		}
		if key == "" {
			return o, nil
		}
		var err error
		if o.Key, err = readKey(key); err != nil {
			return o, usage(fmt.Errorf("--key: %w", err))
		}
		return o, nil
	}
}

// platformFlag adds --platform, for commands that work on images of other machines.
func platformFlag(c *cobra.Command) {
	c.Flags().String("platform", image.DefaultPlatform(), "platform that the image is for")
	complete(c, "platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64"}, cobra.ShellCompDirectiveNoFileComp))
}

func readKey(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signature key: %w", err)
	}
	return data, checkKey(path, data)
}

// checkKey finds the usual mistakes before a registry is asked: the private half, or another file.
func checkKey(name string, data []byte) error {
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return fmt.Errorf("%s holds no PEM block \"PUBLIC KEY\"; `cosign generate-key-pair` writes one to cosign.pub", name)
	case block.Type != "PUBLIC KEY":
		return fmt.Errorf("%s holds a %q; the public half is needed (cosign.pub)", name, block.Type)
	}
	return nil
}

func openImage(c *cobra.Command, ref string, o image.Options) (*image.Image, error) {
	source, err := image.Parse(ref)
	if err != nil {
		return nil, usage(err)
	}
	return source.Open(c.Context(), o)
}

// imagePolicy is what the cloud-config says of images, in Kairos's words.
type imagePolicy struct {
	source, recovery string // upgrade.system.source, upgrade.recovery-system.source
	key              []byte // cosign-key; nil: no signature is demanded
	insecure         bool   // upgrade.allow-insecure-registries
	reboot           bool   // upgrade.reboot
}

// policyOf reads what a configuration says of images; withKey says that it is to be read who must have signed them.
func policyOf(cfg *config.Config, withKey bool) (p imagePolicy, err error) {
	var block struct {
		System   struct{ Source, URI string }
		Recovery struct{ Source, URI string } `yaml:"recovery-system"`
		Insecure bool                         `yaml:"allow-insecure-registries"`
		Reboot   bool
	}
	if _, err := cfg.Block("upgrade", &block); err != nil {
		return p, usage(err)
	}
	p = imagePolicy{source: block.System.Source, recovery: block.Recovery.Source, insecure: block.Insecure, reboot: block.Reboot}
	if p.source == "" {
		p.source = block.System.URI // older Kairos
	}
	if p.recovery == "" {
		p.recovery = block.Recovery.URI
	}
	if withKey {
		p.key, err = cosignKey(cfg)
	}
	return p, err
}

// cosignKey returns the key that Kairos's cosign and cosign-key name. Whoever names a key wants it used: cosign: true is not
// needed, cosign: false switches it off.
func cosignKey(cfg *config.Config) ([]byte, error) {
	var demanded bool
	said, err := cfg.Block("cosign", &demanded)
	if err != nil {
		return nil, usage(err)
	}
	var at string
	if _, err := cfg.Block("cosign-key", &at); err != nil {
		return nil, usage(err)
	}
	switch {
	case said && !demanded, at == "" && !demanded:
		return nil, nil
	case at == "":
		return nil, usage(errors.New("the configuration demands signatures (cosign: true) and names no cosign-key; signatures without a key cannot be checked, for that takes a transparency log"))
	case strings.Contains(at, "-----BEGIN"):
		if err := checkKey("cosign-key", []byte(at)); err != nil {
			return nil, usage(err)
		}
		return []byte(at), nil
	case strings.Contains(at, "://"):
		return nil, usage(fmt.Errorf("cosign-key %q: Muster reads a file on this machine, or the key itself", at))
	}
	key, err := readKey(at)
	if err != nil {
		return nil, usage(fmt.Errorf("cosign-key of the configuration: %w; --key FILE names another", err))
	}
	return key, nil
}

// policyOfText is policyOf for a configuration that is no file of this machine.
func policyOfText(c *cobra.Command, text []byte, withKey bool) (imagePolicy, error) {
	f, err := os.CreateTemp("", "muster-config-*.yaml")
	if err != nil {
		return imagePolicy{}, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return imagePolicy{}, err
	}
	cfg, _, err := config.Load(c.Context(), config.Sources{Files: []string{f.Name()}, CheckToken: checkToken})
	if err != nil {
		return imagePolicy{}, invalid(err)
	}
	return policyOf(cfg, withKey)
}

var schemes = []string{
	"oci:\tan image in a registry", "ocifile:\tan OCI layout or archive", "dir:\ta root tree", "file:\ta tar of a root tree",
}

// completeReference completes REF: the form first, then the path.
func completeReference(_ *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
	quiet := cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	scheme, path, ok := strings.Cut(text, ":")
	if !ok {
		var found []string
		for _, s := range schemes {
			if strings.HasPrefix(s, text) {
				found = append(found, s)
			}
		}
		return found, quiet
	}
	if scheme == "oci" {
		return nil, quiet
	}
	matches, err := filepath.Glob(path + "*")
	if err != nil {
		return nil, quiet // a path with unbalanced brackets
	}
	var found []string
	for _, m := range matches {
		info, err := os.Stat(m)
		switch {
		case err != nil:
		case info.IsDir():
			found = append(found, scheme+":"+m+"/")
		case scheme != "dir":
			found = append(found, scheme+":"+m)
		}
	}
	return found, quiet
}

// completeOneReference is completeReference for a command with one argument.
func completeOneReference(c *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeReference(c, args, text)
}

// complete says how a flag is completed.
func complete(c *cobra.Command, flag string, how cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, how); err != nil {
		panic(err) // there is no such flag
	}
}

func onlyFolders(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
