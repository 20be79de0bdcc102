// Package layers checks what packages import against docs/ARCHITECTURE.md.
package layers

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

const (
	root   = "../../.."
	module = "github.com/vdestack/vdestack"
)

// layers reads the table of packages.
func layers(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/ARCHITECTURE.md"))
	testenv.Check(t, err)
	all := make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| (\\d) \\| `([^`]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		all[row[2]], _ = strconv.Atoi(row[1])
	}
	if len(all) < 20 {
		t.Fatalf("the table has %d packages", len(all))
	}
	return all
}

// imports returns the imports within the root module by package, without tests.
func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := make(map[string]map[string]bool)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir, _ := filepath.Rel(root, filepath.Dir(name))
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != root || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		if all[dir] == nil {
			all[dir] = make(map[string]bool)
		}
		for _, i := range f.Imports {
			to, _ := strconv.Unquote(i.Path.Value)
			if to == module {
				all[dir]["."] = true
			} else if rest, ok := strings.CutPrefix(to, module+"/"); ok {
				all[dir][rest] = true
			}
		}
		return nil
	})
	testenv.Check(t, err)
	return all
}

// TestLayers checks that imports go downwards only, and that the table has every package.
func TestLayers(t *testing.T) {
	layer, all := layers(t), imports(t)
	for dir, to := range all {
		if program(dir) || helper(dir) {
			continue
		}
		at, ok := layer[dir]
		if !ok {
			t.Errorf("%s is not in the table of docs/ARCHITECTURE.md", dir)
			continue
		}
		for other := range to {
			if below, ok := layer[other]; !ok || below >= at {
				t.Errorf("%s, in layer %d, imports %s, which is in no layer below", dir, at, other)
			}
		}
	}
	for dir := range layer {
		if all[dir] == nil {
			t.Errorf("the table has %s, which is no package", dir)
		}
	}
}

// program reports whether a package is a program, or only has tests.
func program(dir string) bool {
	first, _, _ := strings.Cut(dir, "/")
	return first == "bench" || first == "echo_example" || first == "http_example" || strings.HasPrefix(dir, "internal/test/")
}

// helper reports whether only tests import a package.
func helper(dir string) bool {
	return strings.HasSuffix(path.Base(dir), "test") && dir != "vdestacktest" || strings.HasPrefix(dir, "internal/testenv")
}
