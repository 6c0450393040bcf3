package p2p

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// HardwareIDEnv names the environment variable that stands in for the machine's
// own identifiers: the lab's nodes share one mainboard.
const HardwareIDEnv = "MUSTER_HARDWARE_ID"

// ErrNoHardware means that the machine has nothing to be told apart by.
var ErrNoHardware = errors.New("no DMI UUID, no serial number and no network card to bind the identity to; set " + HardwareIDEnv)

// Hardware is what tells one machine from another.
type Hardware struct {
	// ID is the firmware's: "dmi:" and the DMI UUID, "dt:" and the device
	// tree's serial number on boards without DMI, or "env:" and the override.
	ID string `json:"id,omitempty"`
	// MACs are the permanent addresses of the network cards, sorted.
	MACs []string `json:"macs,omitempty"`
}

// ReadHardware reads what this machine has. It needs root where DMI is to be
// read. It returns ErrNoHardware when there is nothing.
func ReadHardware() (Hardware, error) {
	if id := strings.TrimSpace(os.Getenv(HardwareIDEnv)); id != "" {
		return Hardware{ID: "env:" + id}, nil
	}
	return readHardware("/")
}

// Same reports whether both describe one machine. Firmware identifiers of one
// kind decide when both have one. Otherwise one card in common is enough: cards
// are added, changed and removed, but a card is in one machine at a time. With
// nothing to compare the answer is yes, because no wipes a node.
func (h Hardware) Same(other Hardware) bool {
	if kind, _, ok := strings.Cut(h.ID, ":"); ok && strings.HasPrefix(other.ID, kind+":") {
		return h.ID == other.ID
	}
	// The override is a deliberate name for another machine than any real one.
	if strings.HasPrefix(h.ID, "env:") || strings.HasPrefix(other.ID, "env:") {
		return false
	}
	if len(h.MACs) == 0 || len(other.MACs) == 0 {
		return true
	}
	return slices.ContainsFunc(h.MACs, func(mac string) bool { return slices.Contains(other.MACs, mac) })
}

func (h Hardware) empty() bool { return h.ID == "" && len(h.MACs) == 0 }

func (h Hardware) equal(other Hardware) bool {
	return h.ID == other.ID && slices.Equal(h.MACs, other.MACs)
}

// readHardware reads below root, which is "/" but in tests.
func readHardware(root string) (Hardware, error) {
	var hw Hardware
	if uuid := firmwareString(filepath.Join(root, "sys/class/dmi/id/product_uuid")); !placeholderUUID(uuid) {
		hw.ID = "dmi:" + uuid
	} else if serial := firmwareString(filepath.Join(root, "sys/firmware/devicetree/base/serial-number")); strings.Trim(serial, "0") != "" {
		hw.ID = "dt:" + serial
	}
	hw.MACs = permanentMACs(filepath.Join(root, "sys/class/net"))
	if hw.empty() {
		return Hardware{}, ErrNoHardware
	}
	return hw, nil
}

func firmwareString(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 256 {
		return "" // absent, or not for us to read: as good as not there
	}
	return strings.ToLower(strings.TrimSpace(strings.Trim(string(b), "\x00")))
}

// placeholderUUID knows the UUIDs that vendors leave in whole product lines.
func placeholderUUID(uuid string) bool {
	digits := strings.ReplaceAll(uuid, "-", "")
	if len(digits) != 32 {
		return true
	}
	switch {
	case strings.Trim(digits, digits[:1]) == "": // all zeros, all f
		return true
	case uuid == "03000200-0400-0500-0006-000700080009": // AMI's default
		return true
	case uuid == "fefefefe-fefe-fefe-fefe-fefefefefefe",
		uuid == "12345678-1234-5678-90ab-cddeefaabbcc",
		uuid == "00020003-0004-0005-0006-000700080009":
		return true
	}
	return false
}

// permanentMACs lists the addresses that belong to a device (bridges, bonds,
// VLANs, veth and tunnels have none) and that the device itself came with, not
// ones that somebody assigned or that the kernel drew at random.
func permanentMACs(classNet string) []string {
	entries, err := os.ReadDir(classNet)
	if err != nil {
		return nil
	}
	var macs []string
	for _, e := range entries {
		dir := filepath.Join(classNet, e.Name())
		if !exists(filepath.Join(dir, "device")) || firmwareString(filepath.Join(dir, "addr_assign_type")) != "0" {
			continue
		}
		mac, err := net.ParseMAC(firmwareString(filepath.Join(dir, "address")))
		if err != nil || len(mac) != 6 || slices.Max(mac) == 0 || mac[0]&1 != 0 {
			continue
		}
		macs = append(macs, mac.String())
	}
	slices.Sort(macs)
	return slices.Compact(macs)
}
