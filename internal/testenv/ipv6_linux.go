package testenv

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// waitLocal waits until fd09::1 is a local address. The kernel adds its route in the
// background, and until then looks for the address beyond test0.
func waitLocal() error {
	const routes, local = "/proc/thread-self/net/ipv6_route", "fd090000000000000000000000000001 80"
	for deadline := time.Now().Add(Timeout); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(routes)
		if err != nil || bytes.Contains(text, []byte(local)) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no route to fd09::1 after %v", routes, Timeout)
		}
	}
}
