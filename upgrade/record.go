package upgrade

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Quarantined is an image that fell back on a model of hardware.
type Quarantined struct {
	ID     string    `json:"id"`
	Model  string    `json:"model"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Story is the last upgrade of active, as far as it is known. Recovery is not tried, so there is none to tell of it.
type Story struct {
	Source  string    `json:"source"`
	Slot    string    `json:"slot"` // active
	From    string    `json:"from"` // id
	To      string    `json:"to"`   // id
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Outcome is started, good, fell back or rolled back.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// Outcomes of an upgrade.
const (
	OutcomeStarted    = "started"
	OutcomeGood       = "good"
	OutcomeFellBack   = "fell back"
	OutcomeRolledBack = "rolled back"
)

// verdict is what the agent found wrong with the image that it ran from.
type verdict struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// record is /oem/muster/upgrade.json. What this version does not know stays.
type record struct {
	Quarantined    []Quarantined
	LastUpgrade    *Story
	FallbackReason string
	Bad            *verdict
	RolledBack     string        // id
	Released       []Quarantined // by hand; Reason is why

	other map[string]json.RawMessage
}

func (r *record) fields() map[string]any {
	return map[string]any{
		"quarantined": &r.Quarantined, "last_upgrade": &r.LastUpgrade, "fallback_reason": &r.FallbackReason, "bad": &r.Bad, "rolled_back": &r.RolledBack, "released": &r.Released,
	}
}

func decodeRecord(data []byte) (r record, err error) {
	if err := json.Unmarshal(data, &r.other); err != nil {
		return record{}, err
	}
	for name, into := range r.fields() {
		if raw, ok := r.other[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return record{}, fmt.Errorf("%s: %w", name, err)
			}
			delete(r.other, name)
		}
	}
	return r, nil
}

func (r *record) encode() ([]byte, error) {
	all := map[string]any{}
	for name, raw := range r.other {
		all[name] = raw
	}
	for name, value := range r.fields() {
		all[name] = value
	}
	data, err := json.MarshalIndent(all, "", "  ")
	return append(data, '\n'), err
}

func (r *record) quarantined(id, model string) *Quarantined {
	i := slices.IndexFunc(r.Quarantined, func(q Quarantined) bool { return q.ID == id && q.Model == model })
	if i < 0 {
		return nil
	}
	return &r.Quarantined[i]
}

func (m *Machine) recordPath() string { return filepath.Join(m.OEM, "muster", "upgrade.json") }

// readRecord returns what is known. A file that is not JSON counts as none: it must not stop a machine from being repaired.
func (m *Machine) readRecord() (record, error) {
	data, err := os.ReadFile(m.recordPath())
	if errors.Is(err, os.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read the story of upgrades: %w", err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return record{}, nil //nolint:nilerr // see above
	}
	return r, nil
}

func (m *Machine) writeRecord(r record, step func(string)) error {
	data, err := r.encode()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(m.recordPath()), 0o755)
	}
	if err == nil {
		err = writeAside(m.recordPath(), data)
	}
	if err != nil {
		return fmt.Errorf("write the story of upgrades: %w", err)
	}
	step("write story")
	return nil
}

// writeAside replaces a file so that a cut leaves the old content or the new.
func writeAside(path string, data []byte) (err error) {
	aside := path + ".new"
	defer func() {
		if err != nil {
			_ = os.Remove(aside) // the first error is what matters
		}
	}()
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

func trim(data []byte) []byte { return bytes.TrimSpace(data) }
