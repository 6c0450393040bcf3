package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/deploy"
	"github.com/muster-edge/muster/upgrade/image"
)

const (
	// A person watches a terminal; a log keeps every line.
	redrawEvery = 200 * time.Millisecond
	lineEvery   = 5 * time.Second
	// rateAfter is how long a step must go on before its rate says anything.
	rateAfter = time.Second
)

// meter shows how far long work is: one line that is rewritten on a terminal, else a line when a step begins and every few
// seconds. It moves while nothing is reported, too, so that slow and dead can be told apart.
type meter struct {
	w     io.Writer
	width func() int // columns of the terminal; 0: it is none
	now   func() time.Time

	mu       sync.Mutex
	started  time.Time
	step     string
	entered  time.Time // when the step began
	from     int64     // bytes that the step had when it began: an earlier run's
	done     int64
	total    int64
	shown    time.Time
	drawn    int64 // done, when it was last shown
	onScreen bool  // a line without its end

	closing sync.Once
	stop    chan struct{}
	gone    chan struct{}
}

// startMeter shows progress on w until close. When ctx ends it says that what was begun is taken back.
func startMeter(ctx context.Context, w io.Writer) *meter {
	m := newMeter(w, func() int { return columns(w) }, time.Now)
	m.stop, m.gone = make(chan struct{}), make(chan struct{})
	go m.run(ctx)
	return m
}

func newMeter(w io.Writer, width func() int, now func() time.Time) *meter {
	return &meter{w: w, width: width, now: now, started: now()}
}

func (m *meter) run(ctx context.Context) {
	defer close(m.gone)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	interrupted := ctx.Done()
	for {
		select {
		case <-m.stop:
			return
		case <-interrupted:
			interrupted = nil
			if m.at() != "" {
				m.say("interrupted; taking back what was begun…")
			}
		case <-tick.C:
			m.tick()
		}
	}
}

// image takes the progress of package image and of package upgrade.
func (m *meter) image(p image.Progress) { m.report(p.Step, p.Done, p.Total) }

// deploySteps are the steps of package deploy for people.
var deploySteps = map[string]string{
	"oem": "make COS_OEM", "slots": "make COS_STATE", "passive": "copy active to passive", "recovery": "copy active to recovery",
	"persistent": "make COS_PERSISTENT", "esp": "make COS_GRUB", "table": "write the partition table", "boot sector": "write the boot sector",
}

// deploy takes the progress of package deploy.
func (m *meter) deploy(p deploy.Progress) {
	m.report(cmp.Or(deploySteps[p.Step], p.Step), p.Done, p.Total)
}

func (m *meter) report(step string, done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if step != m.step {
		if m.step != "" {
			m.end()
		}
		m.step, m.entered, m.from, m.shown = step, now, done, time.Time{}
		m.done, m.drawn = 0, 0
	}
	m.done, m.total = done, total
	every := lineEvery
	if m.width() > 0 {
		every = redrawEvery
	}
	if now.Sub(m.shown) >= every {
		m.draw(now)
	}
}

// tick shows that time goes by.
func (m *meter) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if m.step != "" && (m.width() > 0 || now.Sub(m.shown) >= lineEvery) {
		m.draw(now)
	}
}

// at is the step that goes on; empty: none.
func (m *meter) at() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.step
}

// say prints a line of its own.
func (m *meter) say(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
	fmt.Fprintln(m.w, text)
}

// pause leaves the screen to others until the next report.
func (m *meter) pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
	m.step, m.done, m.drawn = "", 0, 0
}

// close leaves the last step on the screen as it ended. Closing twice does nothing.
func (m *meter) close() {
	m.closing.Do(func() {
		if m.stop != nil {
			close(m.stop)
			<-m.gone
		}
	})
	m.pause()
}

// end shows how the step ended.
func (m *meter) end() {
	if m.onScreen || m.done > m.drawn {
		m.draw(m.now())
	}
	if m.onScreen {
		fmt.Fprintln(m.w)
		m.onScreen = false
	}
}

func (m *meter) draw(now time.Time) {
	m.shown, m.drawn = now, m.done
	text := m.line(now)
	width := m.width()
	if width == 0 {
		fmt.Fprintln(m.w, text)
		return
	}
	// A line that wraps cannot be rewritten.
	if cut := []rune(text); len(cut) >= width {
		text = string(cut[:width-1])
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s", text)
	m.onScreen = true
}

// line is "  12s  unpack  120 of 480 MiB, 25%, 40.0 MiB/s, 9s left".
func (m *meter) line(now time.Time) string {
	text := fmt.Sprintf("%6s  %s", span(now.Sub(m.started)), m.step)
	if m.done <= 0 { // some steps have no end that is known before it is there
		return text
	}
	if m.total <= 0 {
		return text + "  " + bytesText(m.done)
	}
	text += fmt.Sprintf("  %s of %s, %d%%", bytesText(m.done), bytesText(m.total), min(100, m.done*100/m.total))
	took, brought := now.Sub(m.entered), m.done-m.from
	if took < rateAfter || brought <= 0 {
		return text
	}
	rate := float64(brought) / took.Seconds()
	text += fmt.Sprintf(", %s/s", bytesText(int64(rate)))
	if left := m.total - m.done; left > 0 {
		text += fmt.Sprintf(", %s left", span(time.Duration(float64(left)/rate*float64(time.Second))))
	}
	return text
}

// span is a duration as people read it while they wait.
func span(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// columns is how wide the terminal behind w is; 0: there is none.
func columns(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	switch {
	case err != nil:
		return 0
	case size.Col == 0: // a serial console does not know
		return 80
	}
	return int(size.Col)
}

// bytesText is a number of bytes as people read it.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20 || n == 0:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
