package conformance

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A mailbox is a server of SMTP (RFC 5321) for one session, with STARTTLS and
// AUTH PLAIN.
type mailbox struct {
	tls      *tls.Config
	from, to string
	auth     string
	message  []byte
}

// serve serves a session to its end.
func (m *mailbox) serve(c net.Conn) error {
	text := textproto.NewConn(c)
	defer func() { text.Close() }()
	secure := false
	if err := text.PrintfLine("220 %s ready", serverName); err != nil {
		return err
	}
	for {
		line, err := text.ReadLine()
		if err != nil {
			return err
		}
		command, rest, _ := strings.Cut(line, " ")
		reply := "250 ok"
		switch command {
		case "EHLO":
			reply = "250-" + serverName + "\r\n250-8BITMIME\r\n250 STARTTLS"
			if secure {
				reply = "250-" + serverName + "\r\n250-8BITMIME\r\n250 AUTH PLAIN"
			}
		case "STARTTLS":
			if err := text.PrintfLine("220 go on"); err != nil {
				return err
			}
			secure = true
			text = textproto.NewConn(tls.Server(c, m.tls))
			continue
		case "AUTH":
			m.auth, reply = strings.TrimPrefix(rest, "PLAIN "), "235 welcome"
		case "MAIL":
			m.from = rest
		case "RCPT":
			m.to = rest
		case "DATA":
			if err := text.PrintfLine("354 end with a dot"); err != nil {
				return err
			}
			if m.message, err = text.ReadDotBytes(); err != nil {
				return err
			}
		case "QUIT":
			return text.PrintfLine("221 bye")
		default:
			reply = "502 unknown command"
		}
		if err := text.PrintfLine("%s", reply); err != nil {
			return err
		}
	}
}

// TestSMTP mails a large message.
func TestSMTP(t *testing.T) {
	id := newIdentity(t)
	over(t, routes, func(t *testing.T, r route) {
		near, far := r.connect(t)
		m := &mailbox{tls: id}
		served := make(chan error, 1)
		go func() { served <- m.serve(far) }()
		c := testenv.Must(smtp.NewClient(near, serverName))(t)
		defer c.Close()
		testenv.Check(t, c.StartTLS(id))
		testenv.Check(t, c.Auth(smtp.PlainAuth("", "user", "password", serverName)))
		testenv.Check(t, c.Mail("a@client.example"))
		testenv.Check(t, c.Rcpt("b@"+serverName))
		w := testenv.Must(c.Data())(t)
		message := mail(payload{1, 300000})
		if _, err := w.Write(message); err != nil {
			t.Fatal(err)
		}
		testenv.Check(t, w.Close())
		testenv.Check(t, c.Quit())
		if err := <-served; err != nil && err != io.EOF {
			t.Errorf("server: %v", err)
		}
		if want := base64.StdEncoding.EncodeToString([]byte("\x00user\x00password")); m.auth != want {
			t.Errorf("AUTH: got %q, want %q", m.auth, want)
		}
		if want := "FROM:<a@client.example> BODY=8BITMIME"; m.from != want {
			t.Errorf("MAIL: got %q, want %q", m.from, want)
		}
		if want := "TO:<b@" + serverName + ">"; m.to != want {
			t.Errorf("RCPT: got %q, want %q", m.to, want)
		}
		if !bytes.Equal(m.message, message) {
			t.Errorf("got a message of %d bytes, want %d", len(m.message), len(message))
		}
	})
}

// mail returns a message in lines, some of which begin with a dot.
func mail(p payload) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Subject: %d bytes\n\n", p.size)
	for line := range slices.Chunk(p.bytes(), 50) {
		fmt.Fprintf(&b, ".%x\n", line)
	}
	return b.Bytes()
}
