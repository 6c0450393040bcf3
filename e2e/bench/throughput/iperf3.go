package throughput

import (
	"encoding/json"
	"errors"
	"fmt"
)

// parseIperf3 reads the report of `iperf3 --client … --json` and returns what the receiver got, in bits per second: the
// sender's figure counts what still lay in its buffers when the time was up.
func parseIperf3(report []byte) (float64, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received *struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return 0, fmt.Errorf("parse iperf3 report: %w", err)
	}
	if r.Error != "" {
		return 0, fmt.Errorf("iperf3: %s", r.Error)
	}
	if r.End.Received == nil || r.End.Received.BitsPerSecond <= 0 {
		return 0, errors.New("parse iperf3 report: nothing was received")
	}
	return r.End.Received.BitsPerSecond, nil
}
