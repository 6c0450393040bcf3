package node

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// reconciler owns one thing of the node and makes it what facts and decisions
// say it should be. run is called after every change and at least once per
// every; it must be idempotent, and says in sentences what it waits for.
type reconciler struct {
	name  string
	every time.Duration
	run   func(context.Context) (waiting []string, err error)
}

const (
	// settle lets changes that come together be handled together.
	settle = 50 * time.Millisecond
	// retryFirst and retryMax bound the pause after an error.
	retryFirst = time.Second
	retryMax   = 30 * time.Second
)

// loop runs reconcilers and remembers what each of them waits for.
type loop struct {
	changed *p2p.Notifier
	log     *slog.Logger

	mu      sync.Mutex
	order   []string
	waiting map[string][]string
	errors  map[string]error
	notes   []string
}

func newLoop(changed *p2p.Notifier, log *slog.Logger) *loop {
	return &loop{changed: changed, log: log, waiting: map[string][]string{}, errors: map[string]error{}}
}

// start runs r until ctx ends; group waits for it.
func (l *loop) start(ctx context.Context, group *sync.WaitGroup, r reconciler) {
	l.mu.Lock()
	l.order = append(l.order, r.name)
	l.mu.Unlock()
	group.Go(func() {
		defer l.forget(r.name)
		retry := retryFirst
		logged := "" // the error that goes on
		for {
			changed := l.changed.Changed()
			waiting, err := r.run(ctx)
			if ctx.Err() != nil {
				return
			}
			l.record(r.name, waiting, err)
			pause := r.every
			if err != nil {
				level := slog.LevelDebug
				if text := err.Error(); text != logged {
					level, logged = slog.LevelWarn, text
				}
				l.log.Log(ctx, level, "reconcile failed", "reconciler", r.name, "error", err, "retry", retry)
				pause, retry = min(retry, r.every), min(2*retry, retryMax)
			} else {
				retry, logged = retryFirst, ""
			}
			if !sleep(ctx, settle, nil) || !sleep(ctx, pause, changed) {
				return
			}
		}
	})
}

func (l *loop) record(name string, waiting []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[name], l.errors[name] = waiting, err
}

// forget drops what a reconciler that has ended waited for.
func (l *loop) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = slices.DeleteFunc(l.order, func(n string) bool { return n == name })
	delete(l.waiting, name)
	delete(l.errors, name)
}

// note adds a sentence that holds until the agent ends.
func (l *loop) note(sentence string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.notes, sentence) {
		l.notes = append(l.notes, sentence)
	}
}

// sentences returns what all reconcilers wait for, in the order in which they
// were started.
func (l *loop) sentences() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.notes)
	for _, name := range l.order {
		all = append(all, l.waiting[name]...)
		if err := l.errors[name]; err != nil {
			all = append(all, name+": "+err.Error())
		}
	}
	return all
}

// sleep waits for d or until wake closes, whichever is first, and returns false
// when ctx ended.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
		return true
	case <-timer.C:
		return true
	}
}
