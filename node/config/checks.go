package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/multiformats/go-multiaddr"

	"github.com/muster-edge/muster/p2p"
)

// A check says what is wrong with a text in a clause that follows the key, or nothing. It shows none of the text.

var (
	// hostLabel is RFC 1123's: letters, digits and hyphens, no hyphen at an end, at most 63.
	hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	networkID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	sha256Hex = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// maxHostname is Linux's HOST_NAME_MAX less one, which is also what a Kubernetes node name's label can hold.
const maxHostname = 63

func checkHostname(text string) string {
	if len(text) > maxHostname {
		return fmt.Sprintf("must be at most %d characters", maxHostname)
	}
	for label := range strings.SplitSeq(text, ".") {
		if !hostLabel.MatchString(label) {
			return "must be lower-case letters, digits and hyphens, with a letter or digit at both ends"
		}
	}
	return ""
}

func checkNetworkID(text string) string {
	if !networkID.MatchString(text) {
		return "must be 1 to 63 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends"
	}
	return ""
}

func checkURL(text string) string {
	const want = "must be an http or https URL with a host"
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(text, " \t\n") {
		return want // err would quote the URL, which may carry a password
	}
	return ""
}

// checkPinnedURL wants the content's checksum behind the URL, where it is not sent to the server.
func checkPinnedURL(text string) string {
	if mistake := checkURL(text); mistake != "" {
		return mistake
	}
	_, sum, _ := strings.Cut(text, "#")
	if hex, pinned := strings.CutPrefix(sum, "sha256="); !pinned || !sha256Hex.MatchString(hex) {
		return "must end in #sha256= and the content's checksum, 64 hexadecimal digits: what is downloaded is checked before it is applied"
	}
	return ""
}

// showURL leaves out what may be secret: user, query and fragment.
func showURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return redacted
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// datastoreSchemes are those of kine, K3s's adapter, and etcd's own.
var datastoreSchemes = []string{"postgres", "postgresql", "mysql", "sqlite", "nats", "http", "https"}

func checkDatastore(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if found && rest != "" {
		for _, known := range datastoreSchemes {
			if scheme == known {
				return ""
			}
		}
	}
	return "must be a datastore endpoint that starts with postgres://, mysql://, nats://, sqlite://, http:// or https://"
}

func checkMultiaddr(text string) string {
	if _, err := multiaddr.NewMultiaddr(text); err != nil {
		return "must be a multiaddr such as /ip4/192.0.2.1/udp/4001/quic-v1"
	}
	return ""
}

func checkDHTServer(text string) string {
	if _, err := p2p.ParseDHTServer(text); err != nil {
		return "must be a multiaddr with a peer ID, such as /dnsaddr/dht.example.org/p2p/12D3…"
	}
	return ""
}

func checkPath(text string) string {
	if !filepath.IsAbs(text) || strings.ContainsRune(text, 0) {
		return "must be an absolute path"
	}
	return ""
}

func checkSHA256(text string) string {
	if !sha256Hex.MatchString(text) {
		return "must be 64 hexadecimal digits"
	}
	return ""
}

// checkInterface is the kernel's dev_valid_name: at most 15 bytes, no slash, colon or space.
func checkInterface(text string) string {
	if text == "" || len(text) > 15 || text == "." || text == ".." || strings.ContainsAny(text, "/: \t\n") {
		return "must be the name of a network interface, at most 15 characters"
	}
	return ""
}

func checkOneWord(text string) string {
	if text == "" || strings.ContainsAny(text, " \t\n") {
		return "must be one word"
	}
	return ""
}

func checkCIDR(text string) string {
	for part := range strings.SplitSeq(text, ",") { // a dual-stack cluster has two
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return "must be a network such as 10.42.0.0/16"
		}
		if prefix != prefix.Masked() {
			return "must be the first address of a network, without host bits"
		}
	}
	return ""
}
