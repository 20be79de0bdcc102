//go:build amd64 || arm64

package stack

import (
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// made returns a stack that ends with the test.
func made(t *testing.T, cfg Config) *Stack {
	t.Helper()
	return testenv.Opened(New(t.Context(), cfg))(t)
}
