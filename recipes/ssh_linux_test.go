package recipes

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/crypto/ssh"
)

// dialSSH is ssh.Dial in the network of the stack, with a context for all that it waits for.
func dialSSH(ctx context.Context, st *vdestack.Stack, addr string, conf *ssh.ClientConfig) (*ssh.Client, error) {
	c, err := st.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(c, addr, conf)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// serveSSH lets a client in, and runs its commands in the stack.
func serveSSH(st *vdestack.Stack, c net.Conn, conf *ssh.ServerConfig) error {
	_, channels, requests, err := ssh.NewServerConn(c, conf)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		if ch.ChannelType() != "session" {
			ch.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		session, requests, err := ch.Accept()
		if err != nil {
			return err
		}
		go serveSession(st, session, requests)
	}
	return nil
}

// serveSession runs the command that the client of a session asks for.
func serveSession(st *vdestack.Stack, session ssh.Channel, requests <-chan *ssh.Request) {
	defer session.Close()
	for r := range requests {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		cmd := st.Command(context.Background(), "sh", "-c", exec.Command)
		cmd.Stdout, cmd.Stderr = session, session.Stderr()
		if stdin, err := cmd.StdinPipe(); err == nil { // whose end the command need not wait for
			go func() { io.Copy(stdin, session); stdin.Close() }()
		}
		status := struct{ Code uint32 }{255}
		if cmd.Run(); cmd.ProcessState != nil {
			status.Code = uint32(cmd.ProcessState.ExitCode())
		}
		session.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

func TestSSH(t *testing.T) {
	server, client := lab(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	testenv.Check(t, err)
	host := testenv.Must(ssh.NewSignerFromKey(key))(t)
	serverConf := &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		if string(password) != "secret" {
			return nil, errors.New("another password")
		}
		return nil, nil
	}}
	serverConf.AddHostKey(host)
	ln, served := testenv.Listen(t, server, "tcp", ":22"), make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = serveSSH(server, c, serverConf)
		}
		served <- err
	}()
	c := testenv.Must(dialSSH(testenv.Context(t), client, "server.lab.example:22", &ssh.ClientConfig{
		User:            "user",
		Auth:            []ssh.AuthMethod{ssh.Password("secret")},
		HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
	}))(t)
	session := testenv.Must(c.NewSession())(t)
	stdin := testenv.Must(session.StdinPipe())(t) // does not end
	defer stdin.Close()
	out, err := session.Output("ip -br -4 addr show vde0; exit 7")
	var exit *ssh.ExitError
	if !strings.Contains(string(out), " 10.0.0.1/24") || !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("got %q, %v, want the address of the server and status 7", out, err)
	}
	testenv.Check(t, c.Close())
	testenv.Check(t, <-served)
}
