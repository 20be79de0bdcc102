package sockio

import (
	"bytes"
	"fmt"
	"os"
)

// Process describes a process in an error: its number, and from /proc its name and whether
// a signal or a debugger has stopped it. 0 is a process that this one does not see.
func Process(pid int) (text string, stopped bool) {
	if pid == 0 {
		return "a process of another PID namespace", false
	}
	// proc_pid_stat(5): the number, the name in parentheses, which may contain some, and
	// the state.
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndex(stat, []byte(") "))
	if begin < 0 || end < begin || end+2 == len(stat) {
		return fmt.Sprintf("process %d", pid), false
	}
	state := ""
	switch stat[end+2] {
	case 'T':
		state = ", stopped"
	case 't':
		state = ", in a debugger"
	}
	return fmt.Sprintf("process %d (%q%s)", pid, stat[begin+1:end], state), state != ""
}
