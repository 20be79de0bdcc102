package vdeplug

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// maxDescription is how long a description may be: a switch has room for 127
// bytes, and wholeMark comes after it.
const maxDescription = 127 - len(wholeMark)

// describe returns the text that a switch shows for the port: what o says, the
// user and the process, and where an SSH session comes from.
func describe(ctx context.Context, o *Options) string {
	d := o.Description
	if d == "" {
		d = "vdestack"
	}
	d += fmt.Sprintf(" user=%s pid=%d", userName(ctx), os.Getpid())
	if ssh := strings.Fields(os.Getenv("SSH_CLIENT")); len(ssh) > 0 {
		d += " SSH=" + ssh[0]
	}
	// The list of ports has one line for each.
	d = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, d)
	if len(d) > maxDescription {
		d = strings.ToValidUTF8(d[:maxDescription], "")
	}
	return d
}

// userName returns the name of the effective user, or its number where the
// name is not found at once: it is an ornament.
func userName(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	uid := strconv.Itoa(os.Geteuid())
	u, err := lookup(ctx, func() (*user.User, error) { return user.LookupId(uid) })
	if err != nil || u.Username == "" {
		return uid
	}
	return u.Username
}

// groupID returns the number of a group of users, given as a decimal number or
// a name.
func groupID(ctx context.Context, name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := lookup(ctx, func() (*user.Group, error) { return user.LookupGroup(name) })
	if err != nil {
		return 0, fmt.Errorf("must be a gid or a group of users: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// lookup runs f and waits for it until ctx ends: the databases of users may be
// on a network.
func lookup[T any](ctx context.Context, f func() (T, error)) (v T, err error) {
	done := make(chan struct{})
	var found T
	var failure error
	go func() {
		defer close(done)
		found, failure = f()
	}()
	select {
	case <-done:
		return found, failure
	case <-ctx.Done():
		return v, ctx.Err()
	}
}
