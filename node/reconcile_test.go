package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// bench runs one reconciler in virtual time.
type bench struct {
	t       *testing.T
	changed p2p.Notifier
	loop    *loop
	group   sync.WaitGroup
	cancel  context.CancelFunc
}

func startBench(t *testing.T, r reconciler) *bench {
	b := &bench{t: t}
	b.loop = newLoop(&b.changed, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	b.loop.start(ctx, &b.group, r)
	return b
}

func (b *bench) end() {
	b.cancel()
	b.group.Wait()
}

func TestAReconcilerRunsAtOnceAndThenAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs []time.Duration
		begun := time.Now()
		b := startBench(t, reconciler{name: "r", every: 10 * time.Second, run: func(context.Context) ([]string, error) {
			runs = append(runs, time.Since(begun))
			return nil, nil
		}})
		time.Sleep(25 * time.Second)
		b.end()
		require.Equal(t, []time.Duration{0, 10*time.Second + settle, 20*time.Second + 2*settle}, runs)
	})
}

func TestAChangeWakesAReconciler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		b := startBench(t, reconciler{name: "r", every: time.Hour, run: func(context.Context) ([]string, error) {
			runs.Add(1)
			return nil, nil
		}})
		defer b.end()
		time.Sleep(time.Second)
		b.changed.Notify()
		synctest.Wait()
		require.EqualValues(t, 2, runs.Load())
	})
}

func TestAChangeDuringARunIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		ready := make(chan struct{})
		var runs atomic.Int32
		b = startBench(t, reconciler{name: "r", every: time.Hour, run: func(context.Context) ([]string, error) {
			<-ready
			if runs.Add(1) == 1 {
				b.changed.Notify() // after it has looked, before it returns
			}
			return nil, nil
		}})
		close(ready)
		defer b.end()
		time.Sleep(time.Second)
		require.EqualValues(t, 2, runs.Load())
	})
}

func TestChangesThatComeTogetherAreHandledTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		b := startBench(t, reconciler{name: "r", every: time.Hour, run: func(context.Context) ([]string, error) {
			runs.Add(1)
			return nil, nil
		}})
		defer b.end()
		for range 1000 {
			b.changed.Notify()
			time.Sleep(settle / 1000)
		}
		time.Sleep(time.Second)
		require.LessOrEqual(t, runs.Load(), int32(3))
	})
}

func TestAFailureIsTriedAgainEverMoreRarelyUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var runs []time.Time
		broken := true
		seen := func() []time.Time {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(runs)
		}
		set := func(b bool) {
			mu.Lock()
			defer mu.Unlock()
			broken = b
		}
		b := startBench(t, reconciler{name: "r", every: time.Hour, run: func(context.Context) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			runs = append(runs, time.Now())
			if broken {
				return nil, errors.New("no space left on device")
			}
			return nil, nil
		}})
		time.Sleep(3 * time.Minute)
		require.Equal(t, []string{"r: no space left on device"}, b.loop.sentences())
		failed := seen()
		want := retryFirst
		for i := 1; i < len(failed); i++ {
			require.Equal(t, want+settle, failed[i].Sub(failed[i-1]))
			want = min(2*want, retryMax)
		}
		require.Greater(t, len(failed), 6)

		set(false)
		time.Sleep(retryMax + time.Second)
		require.Empty(t, b.loop.sentences())
		set(true)
		n := len(seen())
		b.changed.Notify()
		time.Sleep(retryFirst + time.Second)
		require.Len(t, seen(), n+2, "patience begins anew")
		b.end()
	})
}

func TestAnEndedReconcilerWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t, reconciler{name: "first", every: time.Hour, run: func(context.Context) ([]string, error) {
			return []string{"waiting for n2"}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		b.loop.start(ctx, &group, reconciler{name: "second", every: time.Hour, run: func(context.Context) ([]string, error) {
			return []string{"waiting for n3"}, nil
		}})
		synctest.Wait()
		require.Equal(t, []string{"waiting for n2", "waiting for n3"}, b.loop.sentences(), "in the order of their start")
		b.end()
		require.Equal(t, []string{"waiting for n3"}, b.loop.sentences())
		cancel()
		group.Wait()
		require.Empty(t, b.loop.sentences())
	})
}

func TestTheEndOfTheContextIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBench(t, reconciler{name: "r", every: time.Hour, run: func(ctx context.Context) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		synctest.Wait()
		b.end()
		require.Empty(t, b.loop.sentences())
	})
}

func TestChangesOfEverySourceComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{}
		var one, two p2p.Notifier
		ctx, cancel := context.WithCancel(t.Context())
		a.forward(ctx, one.Changed, two.Changed)
		synctest.Wait()
		for _, source := range []*p2p.Notifier{&one, &two} {
			changed := a.changed.Changed()
			source.Notify()
			<-changed
			// One that comes while a burst is let settle is not lost.
			changed = a.changed.Changed()
			source.Notify()
			<-changed
			time.Sleep(time.Second)
		}
		cancel()
		a.forwarders.Wait()
	})
}

func TestAnErrorThatGoesOnIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		var changed p2p.Notifier
		l := newLoop(&changed, slog.New(slog.NewTextHandler(&said, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		failing := []error{errors.New("one"), errors.New("one"), errors.New("two"), errors.New("two"), nil, errors.New("two")}
		looks := 0
		l.start(ctx, &group, reconciler{name: "r", every: time.Second, run: func(context.Context) ([]string, error) {
			err := failing[min(looks, len(failing)-1)]
			looks++
			return nil, err
		}})
		time.Sleep(time.Minute)
		cancel()
		group.Wait()
		require.Greater(t, looks, len(failing))
		require.Equal(t, 3, strings.Count(said.String(), "reconcile failed"), said.String())
	})
}
