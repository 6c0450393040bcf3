package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/deploy"
	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

// thisMachine and restart are another machine's in tests.
var (
	thisMachine = upgrade.This
	restart     = restartMachine
)

// slots returns this machine and how it was started. Commands that change slots ask for it before anything that takes long.
func slots() (*upgrade.Machine, upgrade.Boot, error) {
	m := thisMachine()
	boot, err := m.Booted()
	return m, boot, osError(err)
}

// mistakes, denials and advice are what errors about images and disks mean for whoever typed the command.
var (
	mistakes = []error{image.ErrReference, deploy.ErrFirmware, deploy.ErrNotADisk, deploy.ErrTooSmall}
	denials  = []error{upgrade.ErrRefused, upgrade.ErrBusy, image.ErrUnsigned, image.ErrSignature, deploy.ErrInUse, deploy.ErrDeclined, errDeclined}
	advice   = []struct {
		is   error
		text string
	}{
		{upgrade.ErrNotBooted, "slots are on machines that Muster's boot loader started; `muster install --help` says how to make one"},
		{upgrade.ErrBusy, "wait until it is done"},
		{upgrade.ErrContract, "`muster image check REF` looks at an image before it is installed"},
		{upgrade.ErrNoSpace, "use a smaller image, or install anew on a larger disk (`muster install`)"},
		{upgrade.ErrDamaged, "`muster state --verify` looks at every slot"},
		{image.ErrUnsigned, "sign it (`cosign sign --key`), or take the key out of the command or the configuration"},
		{image.ErrSignature, "the image was signed by somebody else, or is not the one that was signed"},
		{image.ErrPlatform, "the image must be built for this processor"},
		{image.ErrUnreachable, "run the same command again when it answers: what was pulled so far is kept"},
		{image.ErrDenied, "is it the right name, and does it need a login (~/.docker/config.json) or --insecure (no TLS)?"},
		{image.ErrTruncated, "fetch or push the image again"},
		{image.ErrDigest, "the source or the way here is damaged: push the image again, or use another mirror"},
		{image.ErrUnsafe, "do not use this image"},
		{fs.ErrPermission, "run it as root"},
	}
)

var errDeclined = errors.New("not confirmed; nothing was changed")

// osError gives an error about images, slots or disks its exit code, and says what can be done about it.
func osError(err error) error {
	var decided *node.ExitError
	if err == nil || errors.As(err, &decided) {
		return err
	}
	code := node.ExitFailed
	for _, denied := range denials {
		if errors.Is(err, denied) {
			code = node.ExitRefused
		}
	}
	for _, mistake := range mistakes {
		if errors.Is(err, mistake) {
			code = node.ExitUsage
		}
	}
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w; free some space there and try again", err)
	} else {
		for _, a := range advice {
			if errors.Is(err, a.is) && (a.is != fs.ErrPermission || os.Geteuid() != 0) {
				err = fmt.Errorf("%w; %s", err, a.text)
				break
			}
		}
	}
	return &node.ExitError{Code: code, Err: err}
}

// interrupted says in a person's words what ctrl-C left behind; an error that tells more than the interrupt is kept.
func interrupted(err error, left string) error {
	if !errors.Is(err, context.Canceled) || tellsMore(err) {
		return err
	}
	return &node.ExitError{Code: node.ExitFailed, Err: interruptedError{err, left}}
}

func tellsMore(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if !errors.Is(one, context.Canceled) || tellsMore(one) {
				return true
			}
		}
	case interface{ Unwrap() error }:
		return tellsMore(e.Unwrap())
	}
	return false
}

type interruptedError struct {
	err  error
	left string
}

func (e interruptedError) Error() string { return "interrupted; " + e.left }
func (e interruptedError) Unwrap() error { return e.err }

func restartMachine(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "systemctl", "reboot").CombinedOutput(); err != nil {
		return fmt.Errorf("restart the machine: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// isTerminal says whether somebody is there to answer.
var isTerminal = func(in any) bool { return columns(in) > 0 }

// confirm asks for a word on a terminal. Elsewhere nobody is asked: what loses data (always) needs --yes there.
func confirm(c *cobra.Command, question, word string, always bool) error {
	if !isTerminal(c.InOrStdin()) {
		if always {
			return usage(errors.New("nobody is there to confirm it (no terminal); say --yes"))
		}
		return nil
	}
	if question != "" {
		fmt.Fprintln(c.ErrOrStderr(), question)
	}
	ok, err := typed(c.Context(), c.InOrStdin(), c.ErrOrStderr(), word)
	if err == nil && !ok {
		err = errDeclined
	}
	return osError(err)
}

// typed asks for a word.
func typed(ctx context.Context, in io.Reader, out io.Writer, word string) (bool, error) {
	fmt.Fprintf(out, "Type %s to go on: ", word)
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	// The only goroutine here that nobody waits for: a read from a terminal cannot be interrupted, and the program ends.
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(out)
		return false, ctx.Err()
	case a := <-answered:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return false, fmt.Errorf("read answer: %w", a.err)
		}
		return strings.TrimSpace(a.line) == word, nil
	}
}
