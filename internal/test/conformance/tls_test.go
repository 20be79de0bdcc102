package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// serverName is in the certificate of newIdentity.
const serverName = "server.example"

// newIdentity returns a configuration with its own certificate, which it also trusts, for
// servers and clients.
func newIdentity(t testing.TB) *tls.Config {
	t.Helper()
	key := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{serverName},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der := testenv.Must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	leaf := testenv.Must(x509.ParseCertificate(der))(t)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}},
		RootCAs:      pool, ClientCAs: pool,
		ServerName: serverName,
	}
}

// TestTLS dials with a tls.Dialer that reaches the stack through its net.Dialer. Both ends
// show certificates; the second session resumes the first.
func TestTLS(t *testing.T) {
	testenv.Long(t)
	server := newIdentity(t)
	server.ClientAuth = tls.RequireAndVerifyClientCert
	over(t, routes, func(t *testing.T, r route) {
		ln := tls.NewListener(r.listen(t), server)
		client := server.Clone()
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		d := tls.Dialer{NetDialer: &net.Dialer{ControlContext: r.from.ControlContext}, Config: client}
		for _, resumed := range []bool{false, true} {
			question, answer := payload{1, 2 << 20}, payload{2, 1 << 20}
			served := make(chan error, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					served <- err
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(testenv.Timeout))
				served <- errors.Join(question.check(c), answer.send(c.(*tls.Conn)))
			}()
			conn := testenv.Must(d.DialContext(testenv.Context(t), "tcp", ln.Addr().String()))(t)
			defer conn.Close()
			c := conn.(*tls.Conn)
			c.SetDeadline(time.Now().Add(testenv.Timeout))
			if err := question.send(c); err != nil {
				t.Error(err)
			}
			if err := answer.check(c); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Errorf("server: %v", err)
			}
			if got := c.ConnectionState().DidResume; got != resumed {
				t.Errorf("resumed: %t, want %t", got, resumed)
			}
		}
	})
}
