package vdeproto

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/vdestack/vdestack/internal/sockio"
)

// maxDescription bounds a description: a switch has room for 127 bytes, and gsoMark
// follows it.
const maxDescription = 127 - len(gsoMark)

// describe returns the text that a switch shows for the port: d, by default
// vdestack, the user and the process, and where an SSH session comes from.
func describe(ctx context.Context, d string) string {
	d = cmp.Or(d, "vdestack")
	d += fmt.Sprintf(" user=%s pid=%d", sockio.UserName(ctx), os.Getpid())
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
