package roles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// policyWith returns the default policy with one thing changed.
func policyWith(change func(*Policy)) Policy {
	p := DefaultPolicy()
	change(&p)
	return p
}

func TestImpossiblePoliciesAreRefusedInASentence(t *testing.T) {
	require.NoError(t, DefaultPolicy().Validate())
	masters := func(additional int) func(*Policy) {
		return func(p *Policy) { p.HA, p.AdditionalMasters = true, additional }
	}
	addresses := func(prefix string) func(*Policy) {
		return func(p *Policy) { p.Range = netip.MustParsePrefix(prefix) }
	}
	for name, test := range map[string]struct {
		change func(*Policy)
		says   string // "" for a policy that is possible
	}{
		"one master in HA":       {masters(0), ""},
		"three masters":          {masters(2), ""},
		"five masters":           {masters(4), ""},
		"two masters":            {masters(1), "there would be 2, and an even number survives no more failures than 1 do; use 0, 2 or 4"},
		"four masters":           {masters(3), "there would be 4"},
		"seven masters":          {masters(6), "at most 4, which makes 5 masters in total"},
		"negative masters":       {masters(-1), "cannot be negative"},
		"masters without HA":     {func(p *Policy) { p.AdditionalMasters = 2 }, "ha.enable is false"},
		"no nodes":               {func(p *Policy) { p.MinimumNodes = 0 }, "minimum_nodes is 0: at least 1"},
		"too many nodes":         {func(p *Policy) { p.MinimumNodes = MaxFounders + 1 }, "at most 64 nodes found a site"},
		"no replace_after":       {func(p *Policy) { p.ReplaceAfter = 0 }, "replace_after is 0s"},
		"a range":                {addresses("10.9.0.0/24"), ""},
		"a range in IPv6":        {addresses("fd00::/64"), "is not IPv4"},
		"a range with host bits": {addresses("10.9.0.1/24"), "did you mean 10.9.0.0/24?"},
		"a tiny range":           {addresses("10.9.0.0/30"), "too small"},
		"a huge range":           {addresses("0.0.0.0/0"), "too big"},
		"a range of pods":        {addresses("10.42.7.0/24"), "overlaps 10.42.0.0/16"},
		"a range of services":    {addresses("10.0.0.0/8"), "overlaps 10.42.0.0/16"},
		"a range for too few": {func(p *Policy) {
			p.MinimumNodes, p.Range = 7, netip.MustParsePrefix("10.9.0.0/29")
		}, "has 6 addresses, fewer than the 7 nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := policyWith(test.change).Validate()
			if test.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.says)
			}
		})
	}
}

func TestFoundingSizeIsNeverBelowTheMasters(t *testing.T) {
	for _, test := range []struct{ minimum, additional, masters, size int }{
		{1, 0, 1, 1}, {2, 0, 1, 2}, {2, 2, 3, 3}, {6, 2, 3, 6}, {2, 4, 5, 5},
	} {
		p := policyWith(func(p *Policy) { p.HA, p.MinimumNodes, p.AdditionalMasters = true, test.minimum, test.additional })
		require.Equal(t, test.masters, p.Masters())
		require.Equal(t, test.size, p.FoundingSize())
	}
	withoutHA := policyWith(func(p *Policy) { p.AdditionalMasters = 2 })
	require.Equal(t, 1, withoutHA.Masters())
}

func TestPolicyRecordKeepsEveryField(t *testing.T) {
	full := Policy{
		HA: true, AdditionalMasters: 2, MinimumNodes: 4, DynamicRoles: true, ReplaceAfter: 20 * time.Minute,
		ExternalDB: "mysql://tcp(db:3306)/k3s", Range: netip.MustParsePrefix("10.9.0.0/16"),
	}
	for _, policy := range []Policy{DefaultPolicy(), full} {
		record, err := json.Marshal(policy)
		require.NoError(t, err)
		parsed, err := ParsePolicy(record)
		require.NoError(t, err)
		require.Equal(t, policy, parsed)
	}
	record, err := json.Marshal(full)
	require.NoError(t, err)
	require.JSONEq(t, `{"auto":false,"ha":true,"master_nodes":2,"minimum_nodes":4,"dynamic_roles":true,"replace_after":"20m0s",
		"external_db":"mysql://tcp(db:3306)/k3s","range":"10.9.0.0/16","kubernetes":false}`, string(record))
}

func TestPolicyRecordOfAnotherVersionIsRead(t *testing.T) {
	parsed, err := ParsePolicy([]byte(`{"minimum_nodes":3,"added_in_version_9":{"x":1}}`))
	require.NoError(t, err)
	require.Equal(t, policyWith(func(p *Policy) { p.MinimumNodes = 3 }), parsed)
}

func TestMalformedPolicyRecordsAreRefused(t *testing.T) {
	for record, says := range map[string]string{
		``:                              "not a JSON object",
		`null`:                          "not a JSON object",
		`[]`:                            "not a JSON object",
		`{`:                             "unexpected end",
		`{} {}`:                         "after top-level value",
		`{"master_nodes":"2"}`:          "master_nodes",
		`{"replace_after":"soon"}`:      "replace_after",
		`{"range":"10.1.0.0"}`:          "10.1.0.0",
		`{"ha":true,"master_nodes":1}`:  "even number",
		strings.Repeat(" ", 4096) + `{`: "4097 bytes, at most 4096",
	} {
		_, err := ParsePolicy([]byte(record))
		require.ErrorIs(t, err, ErrBadPolicy, record)
		require.ErrorContains(t, err, says, record)
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`{"auto":true,"ha":true,"master_nodes":2,"minimum_nodes":4,"replace_after":"15m0s","range":"10.1.0.0/16"}`))
	f.Add([]byte(`{"external_db":"mysql://u:p@tcp(h)/d?x=y","replace_after":"1ns"}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		policy, err := ParsePolicy(record)
		if err != nil {
			require.ErrorIs(t, err, ErrBadPolicy)
			return
		}
		require.NoError(t, policy.Validate())
		again, err := json.Marshal(policy)
		require.NoError(t, err)
		if len(again) <= MaxPolicySize {
			parsed, err := ParsePolicy(again)
			require.NoError(t, err)
			require.Empty(t, parsed.differences(policy))
		}
	})
}

func TestDatastoreCredentialsNeverLeaveAPolicy(t *testing.T) {
	const secret = "s3cr3t"
	for _, endpoint := range []string{
		"mysql://root:s3cr3t@tcp(db:3306)/k3s",
		"postgres://root:s3cr3t@db:5432/k3s",
		"postgres://db:5432/k3s?user=root&password=s3cr3t",
		"root:s3cr3t@db",
		"mysql://root:a@s3cr3t@tcp(db:3306)/k3s",
	} {
		policy := policyWith(func(p *Policy) { p.ExternalDB = endpoint })
		record, err := json.Marshal(policy)
		require.NoError(t, err)
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("policy", "policy", policy)
		founding, why := PlanFounding("a", []Candidate{{ID: "a", Policy: policy}, {ID: "b", Policy: policy}})
		require.Empty(t, why)
		_, quarrel := PlanFounding("a", []Candidate{{ID: "a", Policy: policy}, {ID: "b", Policy: DefaultPolicy()}})
		require.NotEmpty(t, quarrel)

		for _, text := range []string{string(record), log.String(), fmt.Sprintf("%v %+v", policy, policy), founding.Policy.ExternalDB, quarrel[0]} {
			require.NotContains(t, text, secret)
			require.Contains(t, text, "db")
		}
		require.Empty(t, policy.Drift(founding.Policy), "leaving credentials out is no drift")
	}
}

func TestDriftNamesTheKeys(t *testing.T) {
	site := Policy{HA: true, AdditionalMasters: 2, MinimumNodes: 3, ReplaceAfter: time.Hour, ExternalDB: "db", Range: netip.MustParsePrefix("10.1.0.0/16")}
	require.Equal(t, []string{
		"auto.enable is true instead of false",
		"ha.enable is false instead of true",
		"ha.master_nodes is 0 instead of 2",
		"minimum_nodes is 2 instead of 3",
		"dynamic_roles is true instead of false",
		"replace_after is 15m0s instead of 1h0m0s",
		"ha.external_db is unset instead of db",
		"k3s.enabled is true instead of false",
	}, DefaultPolicy().Drift(site))

	other := policyWith(func(p *Policy) { p.Range = netip.MustParsePrefix("10.9.0.0/16") })
	require.Equal(t, []string{"range is 10.9.0.0/16 instead of unset"}, other.Drift(DefaultPolicy()))
	require.Empty(t, DefaultPolicy().Drift(other), "a range left open is no drift")
}

func TestWhatASiteIsBuiltOnCannotChange(t *testing.T) {
	site := policyWith(func(p *Policy) { p.HA, p.AdditionalMasters, p.Range = true, 2, netip.MustParsePrefix("10.1.0.0/16") })
	change := func(f func(*Policy)) error {
		next := site
		f(&next)
		return site.CheckChange(next)
	}
	require.NoError(t, change(func(p *Policy) {
		p.ReplaceAfter, p.MinimumNodes, p.Auto, p.Kubernetes, p.DynamicRoles = time.Hour, 1, false, false, true
	}))
	require.ErrorContains(t, change(func(p *Policy) { p.HA, p.AdditionalMasters = false, 0 }), "ha.enable cannot change")
	require.ErrorContains(t, change(func(p *Policy) { p.AdditionalMasters = 4 }), "ha.master_nodes cannot change")
	require.ErrorContains(t, change(func(p *Policy) { p.AdditionalMasters = 1 }), "even number")
	require.ErrorContains(t, change(func(p *Policy) { p.ExternalDB = "db" }), "ha.external_db cannot change")
	require.ErrorContains(t, change(func(p *Policy) { p.Range = netip.MustParsePrefix("10.9.0.0/16") }), "range cannot change")
}

func TestAChangedPolicyKeepsWhatThisVersionDoesNotKnow(t *testing.T) {
	record := []byte(`{"minimum_nodes":3,"range":"10.1.0.0/16","added_in_version_9":{"x":1}}`)
	changed, err := ChangePolicy(record, []byte(`{"replace_after":"20m"}`))
	require.NoError(t, err)
	require.JSONEq(t, `{"minimum_nodes":3,"range":"10.1.0.0/16","added_in_version_9":{"x":1},"replace_after":"20m"}`, string(changed))
	policy, err := ParsePolicy(changed)
	require.NoError(t, err)
	require.Equal(t, 20*time.Minute, policy.ReplaceAfter)

	for changes, want := range map[string]error{
		`{"replace_afterr":"20m"}`:           ErrBadPolicy,
		`{"replace_after":"soon"}`:           ErrBadPolicy,
		`{"minimum_nodes":0}`:                ErrBadPolicy,
		`{"minimum_nodes":1} trailing`:       ErrBadPolicy,
		`null`:                               ErrBadPolicy,
		``:                                   ErrBadPolicy,
		strings.Repeat(" ", MaxPolicySize+1): ErrBadPolicy,
		`{"ha":true,"master_nodes":2}`:       ErrFixedPolicy,
		`{"range":"10.9.0.0/16"}`:            ErrFixedPolicy,
	} {
		_, err := ChangePolicy(record, []byte(changes))
		require.ErrorIs(t, err, want, changes)
	}
	_, err = ChangePolicy([]byte(`{`), []byte(`{}`))
	require.ErrorIs(t, err, ErrBadPolicy)
}

func TestPolicyReadsAsOneLine(t *testing.T) {
	p := policyWith(func(p *Policy) {
		p.HA, p.AdditionalMasters, p.Auto, p.DynamicRoles, p.Kubernetes = true, 2, false, true, false
		p.ExternalDB, p.Range = "db", netip.MustParsePrefix("10.9.0.0/16")
	})
	require.Equal(t, "3 masters, minimum_nodes 2, ha, static roles only, external datastore db, range 10.9.0.0/16, no Kubernetes, replace_after 15m0s", p.String())
}
