//go:build amd64 || arm64

package stack

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func member(t *testing.T, vnl string, number int) *Stack {
	t.Helper()
	s, err := New(t.Context(), config(vnl, number))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func config(vnl string, number int) Config {
	return Config{Interfaces: []Interface{{VNL: vnl, Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", number))}}}}
}
