package sockio

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"
)

// UserName returns the name of the effective user, or the number if it finds no name
// within half a second.
func UserName(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	uid := strconv.Itoa(os.Geteuid())
	u, err := lookup(ctx, func() (*user.User, error) { return user.LookupId(uid) })
	if err != nil || u.Username == "" {
		return uid
	}
	return u.Username
}

// GroupID returns the number of a group of users, given as a decimal number or
// a name.
func GroupID(ctx context.Context, name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := lookup(ctx, func() (*user.Group, error) { return user.LookupGroup(name) })
	if err != nil {
		return 0, fmt.Errorf("must be a gid or a group of users: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// lookup waits for f until ctx ends: the databases of users may be on a network.
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
