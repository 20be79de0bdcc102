package vdestack

import (
	"expvar"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestRedacted has a network of which the locator has a secret, and which is lost, opened again
// and gone for good. Nothing that others may read has the secret.
func TestRedacted(t *testing.T) {
	const secret = "s3cr3t"
	reports := make(map[string]string)
	var logs, capture testenv.Buffer
	for _, lasting := range []bool{false, true} {
		vnl := fmt.Sprintf("vlan://5{cmd://sh -c 'sleep 0.1; : %s'}", secret)
		s := made(t, Config{
			Logger:     slog.New(slog.NewTextHandler(&logs, nil)),
			Interfaces: []Interface{{VNL: vnl, Name: "x0", NoReconnect: lasting, Capture: &capture}},
		})
		testenv.Eventually(t, "the end of the network", func() bool {
			st := s.Stats().Interfaces[0]
			if st.Err != nil {
				reports["error"] = fmt.Sprint(st.Err)
				reports["expvar"] = expvar.Func(Vars).String()
			}
			return st.Err != nil && (lasting || st.Reconnects > 0)
		})
		reports["stack"] = s.String()
		reports["stats"] = fmt.Sprintf("%+v", s.Stats())
		s.Close()
	}
	reports["logs"], reports["capture"] = logs.String(), capture.String()
	for name, text := range reports {
		if strings.Contains(text, secret) || !strings.Contains(text, "vlan://5{cmd://sh …}") {
			t.Errorf("%s: %s", name, text)
		}
	}
}
