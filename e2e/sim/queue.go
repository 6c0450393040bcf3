package sim

import (
	"container/heap"
	"time"
)

// event is something that will happen. Events of the same instant happen in the order in which they were made.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// queue orders events; it is the only clock.
type queue struct {
	events []event
	seq    uint64
	now    time.Duration
}

func (q *queue) Len() int { return len(q.events) }
func (q *queue) Less(i, j int) bool {
	a, b := &q.events[i], &q.events[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (q *queue) Swap(i, j int) { q.events[i], q.events[j] = q.events[j], q.events[i] }
func (q *queue) Push(x any)    { q.events = append(q.events, x.(event)) }
func (q *queue) Pop() any {
	last := len(q.events) - 1
	e := q.events[last]
	q.events[last] = event{}
	q.events = q.events[:last]
	return e
}

func (q *queue) after(d time.Duration, do func()) {
	q.seq++
	heap.Push(q, event{q.now + max(d, 0), q.seq, do})
}

// run lets everything happen until the given time, or until done says so; done is asked after every event.
func (q *queue) run(until time.Duration, done func() bool) {
	for len(q.events) > 0 && q.events[0].at <= until {
		e := heap.Pop(q).(event)
		q.now = e.at
		e.do()
		if done() {
			return
		}
	}
	q.now = max(q.now, until)
}
