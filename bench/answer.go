package main

import (
	"fmt"
	"strconv"
	"strings"
)

// parseAnswer returns the values of a worker's answer, which are want.
func parseAnswer(request, line string, want int) ([]int64, error) {
	f := strings.Split(line, "\t")
	if f[0] != "ok" {
		return nil, fmt.Errorf("%s: %s", request, strings.TrimPrefix(line, "error\t"))
	}
	if len(f)-1 != want {
		return nil, fmt.Errorf("%s: the answer has %d values, not %d", request, len(f)-1, want)
	}
	values := make([]int64, want)
	for i, text := range f[1:] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s: the answer has %q for a number", request, text)
		}
		values[i] = n
	}
	return values, nil
}
