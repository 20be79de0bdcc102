package vdeplug

import "testing"

func TestTAPName(t *testing.T) {
	for name, text := range map[string]string{
		"": "", "t0": "", "eth0.1": "", "fifteen-bytes-x": "",
		"sixteen-bytes-xx": "at most 15 bytes",
		"..":               "not a name",
		"a/b":              `byte '/' has no place`,
		"a b":              "no place",
		"tap%d":            "no place",
		"a:1":              "no place",
		"a\x7f":            "no place",
	} {
		err := checkInterfaceName(name)
		switch {
		case text == "" && err != nil:
			t.Errorf("%q: %v", name, err)
		case text != "":
			wantError(t, err, text)
		}
	}
}
