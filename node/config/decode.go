package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mudler/yip/pkg/schema"
	"gopkg.in/yaml.v3"
)

// decoder fills a Config from a tree, by the table.
type decoder struct {
	report
	config     *Config
	checkToken TokenChecker
}

// decode walks the whole tree and goes on after a mistake, so that an operator sees them together.
func (d *decoder) decode(root *node) {
	d.config.root = root
	for _, e := range root.entries {
		b := known.children[e.key]
		switch {
		case b == nil:
			d.foreign(e)
		case b.field != nil:
			d.leaf(e.key, b.field, e.value)
		default:
			d.branch(e.key, b, e.value)
		}
	}
}

// branch decodes a map whose keys are ours.
func (d *decoder) branch(path string, b *branch, n *node) {
	switch n.kind {
	case kindNull: // all its keys are commented out
		return
	case kindMap:
	default:
		d.refuse(n.origin, path, "must be a map, and is %s", n.what())
		return
	}
	for _, e := range n.entries {
		child := b.children[e.key]
		if child == nil {
			d.unknown(path, b, e)
			continue
		}
		below := path + "." + e.key
		if child.field != nil {
			d.leaf(below, child.field, e.value)
		} else {
			d.branch(below, child, e.value)
		}
	}
}

func (d *decoder) unknown(path string, b *branch, e entry) {
	first, _, _ := strings.Cut(e.key, ":") // a forgotten space joins key and value
	if meant, ok := nearest(first, b.names()); ok {
		d.refuse(e.origin, path+"."+showKey(e.key), "unknown key; did you mean %s?", meant)
		return
	}
	if elsewhere := d.elsewhere(e.key); elsewhere != "" {
		d.refuse(e.origin, path+"."+showKey(e.key), "unknown key; did you mean %s?", elsewhere)
		return
	}
	d.refuse(e.origin, path+"."+showKey(e.key), "unknown key")
}

// elsewhere finds the one place where a key is known: create belongs under p2p.vpn.
func (d *decoder) elsewhere(key string) string {
	found := ""
	for _, f := range ours {
		if f.Key == key || strings.HasSuffix(f.Key, "."+key) {
			if found != "" {
				return ""
			}
			found = f.Key
		}
	}
	return found
}

// leaf decodes one value of ours.
func (d *decoder) leaf(key string, f *Field, n *node) {
	if n.kind == kindNull {
		if f.into != nil && !f.collection() && !slices.Contains(f.Choices, "") {
			d.refuse(n.origin, key, "has no value; give one or remove the key")
		}
		return
	}
	before := len(d.problems)
	if f.into == nil {
		if f.check != nil && n.kind == kindScalar {
			d.checked(key, f, n)
		}
	} else {
		d.value(key, f, n)
	}
	if len(d.problems) > before {
		return
	}
	d.config.origins[key] = n.origin
	if f.NoEffect != "" {
		d.warn(n.origin, key, "has no effect: %s", f.NoEffect)
	}
	if f.NotYet != "" {
		d.warn(n.origin, key, "has no effect yet: %s", f.NotYet)
	}
}

// collection reports whether the field holds several values.
func (f Field) collection() bool {
	switch f.into(new(Config)).(type) {
	case *[]string, *Args, *Env:
		return true
	}
	return false
}

func (d *decoder) value(key string, f *Field, n *node) {
	switch into := f.into(d.config).(type) {
	case *bool:
		if d.is(key, n, "!!bool", "true or false") {
			*into = strings.EqualFold(n.text, "true")
		}
	case *int:
		if d.is(key, n, "!!int", "a whole number") {
			d.number(key, f, n, into)
		}
	case *time.Duration:
		d.duration(key, f, n, into)
	case *netip.Addr:
		if d.isText(key, n) {
			addr, err := netip.ParseAddr(n.text)
			if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
				d.refuse(n.origin, key, "must be an IP address of one machine%s", showValue(n.text))
				return
			}
			*into = addr
		}
	case *Secret:
		if d.isText(key, n) && d.checked(key, f, n) && d.token(key, n) {
			*into = Secret(n.text)
		}
	case *string:
		if d.isText(key, n) && d.checked(key, f, n) {
			*into = n.text
		}
	case *[]string:
		*into = d.list(key, f, n)
	case *Args:
		*into = d.list(key, f, n)
	case *Env:
		*into = d.env(key, f, n)
	}
}

func (d *decoder) is(key string, n *node, tag, want string) bool {
	if n.kind == kindScalar && n.tag == tag {
		return true
	}
	if n.what() == "text" && n.style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		d.refuse(n.origin, key, "must be %s, and is text; remove the quotes", want)
	} else {
		d.refuse(n.origin, key, "must be %s, and is %s", want, n.what())
	}
	return false
}

func (d *decoder) isText(key string, n *node) bool {
	switch {
	case n.kind != kindScalar:
		d.refuse(n.origin, key, "must be text, and is %s", n.what())
	case n.tag != "!!str":
		d.refuse(n.origin, key, "must be text, and YAML reads it as another type; put it in quotes")
	default:
		return true
	}
	return false
}

func (d *decoder) number(key string, f *Field, n *node, into *int) {
	var number int
	if err := n.yaml().Decode(&number); err != nil || number < f.Min || number > f.Max {
		d.refuse(n.origin, key, "must be a whole number from %d to %d%s", f.Min, f.Max, showValue(n.text))
		return
	}
	*into = number
}

func (d *decoder) duration(key string, f *Field, n *node, into *time.Duration) {
	if n.kind != kindScalar {
		d.refuse(n.origin, key, "must be a duration such as 15m, and is %s", n.what())
		return
	}
	if _, err := strconv.ParseFloat(n.text, 64); err == nil {
		d.refuse(n.origin, key, "must be a duration with a unit such as 15m%s", showValue(n.text))
		return
	}
	value, err := time.ParseDuration(n.text)
	switch {
	case err != nil:
		d.refuse(n.origin, key, "must be a duration such as 90s, 15m or 2h%s", showValue(n.text))
	case value < f.least || value > f.most:
		d.refuse(n.origin, key, "must be a duration from %s to %s%s", short(f.least), short(f.most), showValue(n.text))
	default:
		*into = value
	}
}

// checked applies the field's choices and check to a text.
func (d *decoder) checked(key string, f *Field, n *node) bool {
	if len(f.Choices) > 0 && !slices.Contains(f.Choices, n.text) {
		d.refuse(n.origin, key, "must be %s%s", oneOf(f.Choices), showValue(n.text))
		return false
	}
	if f.check == nil {
		return true
	}
	if key == "hostname" && strings.Contains(n.text, "{{") {
		return true // implied warns and drops it
	}
	mistake := f.check(n.text)
	if mistake == "" {
		return true
	}
	if f.Secret || f.show != nil {
		d.refuse(n.origin, key, "%s", mistake)
	} else {
		d.refuse(n.origin, key, "%s%s", mistake, showValue(n.text))
	}
	return false
}

func oneOf(choices []string) string {
	var named []string
	for _, c := range choices {
		if c != "" {
			named = append(named, c)
		}
	}
	last := len(named) - 1
	return strings.Join(named[:last], ", ") + " or " + named[last]
}

// token asks the checker about the network token. What the checker says is shown, unless it shows the token.
func (d *decoder) token(key string, n *node) bool {
	if key != "p2p.network_token" {
		return true
	}
	text := strings.TrimSpace(n.text)
	if text == "" {
		d.refuse(n.origin, key, "is empty; make one with: muster token generate")
		return false
	}
	if d.checkToken == nil {
		return true
	}
	err := d.checkToken(text)
	if err == nil {
		return true
	}
	reason, _, _ := strings.Cut(err.Error(), "\n")
	if shares(reason, text) {
		reason = "is malformed"
	}
	d.refuse(n.origin, key, "%s", reason)
	return false
}

// shares reports whether two texts have a run of eight characters in common: enough of a token to be worth hiding, more
// than words have in common by chance.
func shares(message, secret string) bool {
	const run = 8
	if len(secret) < run {
		return strings.Contains(message, secret)
	}
	for i := 0; i+run <= len(message); i++ {
		if strings.Contains(secret, message[i:i+run]) {
			return true
		}
	}
	return false
}

// list decodes a list whose items are scalars of any type: "- --v=2" and "- 2" are both what the author wants to pass.
func (d *decoder) list(key string, f *Field, n *node) []string {
	if n.kind != kindList {
		d.refuse(n.origin, key, "must be a list of text, and is %s", n.what())
		return nil
	}
	items := make([]string, 0, len(n.items))
	for i, item := range n.items {
		if item.kind != kindScalar {
			d.refuse(item.origin, fmt.Sprintf("%s[%d]", key, i), "must be text, and is %s", item.what())
			continue
		}
		if f.each != nil {
			if mistake := f.each(item.text); mistake != "" {
				d.refuse(item.origin, fmt.Sprintf("%s[%d]", key, i), "%s", mistake)
				continue
			}
		}
		items = append(items, item.text)
	}
	return items
}

// env decodes a map of environment variables; values are scalars of any type, taken as written.
func (d *decoder) env(key string, f *Field, n *node) Env {
	if n.kind != kindMap {
		d.refuse(n.origin, key, "must be a map of names to text, and is %s", n.what())
		return nil
	}
	env := make(Env, len(n.entries))
	for _, e := range n.entries {
		below := key + "." + showKey(e.key)
		if e.value.kind != kindScalar {
			d.refuse(e.value.origin, below, "must be text, and is %s", e.value.what())
			continue
		}
		if f.each != nil {
			if mistake := f.each(e.key); mistake != "" {
				d.refuse(e.origin, below, "%s", mistake)
				continue
			}
		}
		env[e.key] = e.value.text
		d.config.origins[key+"."+e.key] = e.value.origin
		if key == "p2p.vpn.env" {
			instead, listed := edgeVPNEnv[e.key]
			if !listed {
				instead = "it is EdgeVPN's"
			}
			d.warn(e.origin, below, "has no effect: %s", instead)
		}
	}
	return env
}

// foreign keeps a block that is not ours and speaks up where one may have been meant.
func (d *decoder) foreign(e entry) {
	switch {
	case e.key == "stages":
		d.stages(e)
	case e.key == "k0s" || e.key == "k0s-worker":
		d.warn(e.origin, e.key, "has no effect: Muster runs K3s")
	case slices.Contains(foreignBlocks, e.key):
	default:
		if meant, ok := nearest(e.key, known.names()); ok {
			d.warn(e.origin, showKey(e.key), "is kept as a foreign block; did you mean %s?", meant)
		}
	}
}

// foreignBlocks are top-level keys of Kairos and cloud-init, none of which is a slip of the keyboard.
var foreignBlocks = []string{
	"install", "reset", "kcrypt", "bundles", "users", "grub_options", "env", "options", "debug", "strict", "name",
	"fail_on_bundles_errors", "cloud-init-paths", "eject-cd", "cosign", "verify", "cosign-key", "arch", "platform", "squash-compression",
	"squash-no-compression", "uki-max-entries", "bind-pcrs", "bind-public-pcrs", "logs", "phonehome", "providers", "write_files",
	"runcmd", "growpart", "ssh_authorized_keys", "cluster", "partitions",
}

// stages checks that yip will be able to read the steps, so that a mistake shows here and not at the next boot.
func (d *decoder) stages(e entry) {
	var stages map[string][]schema.Stage
	err := e.value.yaml().Decode(&stages)
	if err == nil {
		return
	}
	line, text := 0, ""
	if typed, ok := err.(*yaml.TypeError); ok && len(typed.Errors) > 0 {
		line, text = explainStage(typed.Errors[0])
	}
	place := e.origin
	if line > 0 {
		place.Line, place.Column = line, 0
	}
	d.refuse(place, e.key, "not what yip's steps can hold%s", text)
}

// explainStage takes line and tag out of yaml.v3's "line 3: cannot unmarshal !!str `abc` into []string"; the value stays out.
func explainStage(message string) (line int, text string) {
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	from := map[string]string{"!!str": "text", "!!int": "a whole number", "!!seq": "a list", "!!map": "a map", "!!bool": "true or false"}
	for tag, what := range from {
		if strings.Contains(message, "cannot unmarshal "+tag+" ") {
			return line, ": " + what + " in the wrong place"
		}
	}
	return line, ""
}

// short prints a duration without its zero tail: 15m, not 15m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
