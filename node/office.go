package node

import (
	"context"
	"fmt"
	"time"
)

// officeTransfer bounds one try to hand the office over.
const officeTransfer = 10 * time.Second

// leaveOffice hands the office of coordinator over while this node cannot write: Raft's log has room that was set aside, so
// a leader with a full disk goes on leading, and could not carry out what it decides (history S9).
func (m *member) leaveOffice(ctx context.Context) ([]string, error) {
	status := m.ledger.Status()
	problem := status.Problem
	if problem == nil || !m.ledger.Leads() || len(status.Voters) < 2 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, officeTransfer)
	defer cancel()
	if err := m.ledger.TransferLeadership(ctx); err != nil {
		return nil, fmt.Errorf("this node cannot write (%w) and nobody takes its office over: %w", problem, err)
	}
	m.agent.events.add("coordinator", "this node handed its office over", problem.Error())
	return nil, nil
}
