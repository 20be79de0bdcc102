// Package private runs programs in a network namespace of their own, so that none of
// their packets reaches the machine's network, and finds the programs that they need.
package private

import (
	"fmt"
	"os/exec"
)

// Find returns the path of a program; pkg is the Debian package that has it.
func Find(program, pkg string) (path string, err error) {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("program %s is missing (apt-get install %s)", program, pkg)
}
