package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/internal/api"
	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// address is how commands reach a running Tocsin.
type address struct {
	Server string `help:"Address of the console and API." default:"http://127.0.0.1:8700" env:"TOCSIN_SERVER"`
	Token  string `help:"Session token; tocsin sign-in keeps one." env:"TOCSIN_TOKEN"`
}

// server is for commands that do nothing else than ask a running Tocsin.
type server struct {
	address
	JSON bool `help:"Print JSON."`
}

const (
	clientTimeout = 30 * time.Second
	maxFailure    = 1 << 20
)

// call sends a request as the signed-in person and decodes the answer into v. An answer that is not 2xx is an error with the
// server's own words.
func (s *address) call(ctx context.Context, method, path string, body, v any) error {
	request, err := s.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	return send(request, personDoor(), v)
}

// personDoor is the door of people.
func personDoor() door { return door{"set --server or TOCSIN_SERVER", "sign in with tocsin sign-in"} }

// request makes a request of the signed-in person.
func (s *address) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(s.Server, "/")+path, payload)
	if err != nil {
		return nil, err
	}
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

// receive sends a person's request whose answer takes as long as it is long. Whoever calls it closes the body.
func receive(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reach Tocsin: %w (is it running? %s)", err, personDoor().address)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxFailure))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return nil, refused(response, text, personDoor())
}

// events hands over the events of the running Tocsin's log. It takes as long as the log is long.
func (s *address) events(ctx context.Context, fn func(*event.Event) error) error {
	request, err := s.request(ctx, http.MethodGet, "/api/v1/events", nil)
	if err != nil {
		return err
	}
	response, err := receive(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for lines, n := json.NewDecoder(response.Body), 0; ; n++ {
		var line api.EventLine
		if err := lines.Decode(&line); err != nil {
			return fmt.Errorf("read the event log: cut off after %d events: %w", n, err)
		}
		switch {
		case line.Error != "":
			return fmt.Errorf("read the event log: after %d events: %s", n, line.Error)
		case line.End != nil && *line.End == n:
			return nil
		case line.Event == nil:
			return fmt.Errorf("read the event log: after %d events: a line without one", n)
		}
		if err := fn(line.Event); err != nil {
			return err
		}
	}
}

// rulesInForce reads the rules of the running Tocsin, as they were when it read them last, and says which they are.
func (s *address) rulesInForce(ctx context.Context) (set *detect.Set, from string, err error) {
	var in api.RulesInForce
	if err := s.call(ctx, http.MethodGet, "/api/v1/rules/files", nil, &in); err != nil {
		return nil, "", fmt.Errorf("ask for the rules in force: %w", err)
	}
	read, err := app.UnpackRules(in.Archive)
	if err == nil {
		set, err = detect.Compile(read.Rules)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the rules in force at %s: %w (a Tocsin of another release may have rules that this one can't read)", s.Server, err)
	}
	if set.Digest() != in.Digest {
		return nil, "", fmt.Errorf("read the rules in force at %s: they make the set %.12s and not %.12s", s.Server, set.Digest(), in.Digest)
	}
	return set, fmt.Sprintf("the rules in force at %s since %s", s.Server, in.Loaded.Format(time.RFC3339)), nil
}

// door is what to do about a request that does not come through: nobody answers, or the sender is not known.
type door struct{ address, credential string }

// forbidden is what the person's role does not allow.
type forbidden struct{ text string }

func (f *forbidden) Error() string { return f.text }

func send(request *http.Request, d door, v any) error {
	client := &http.Client{Timeout: clientTimeout}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("reach Tocsin: %w (is it running? %s)", err, d.address)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return refused(response, text, d)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// refused is the error of an answer that is not 2xx.
func refused(response *http.Response, text []byte, d door) error {
	var failure api.Failure
	if json.Unmarshal(text, &failure) != nil || failure.Error == "" {
		failure.Error = response.Status
	}
	if response.StatusCode == http.StatusUnauthorized && d.credential != "" {
		return errors.New(failure.Error + ": " + d.credential)
	}
	if response.StatusCode == http.StatusForbidden {
		return &forbidden{failure.Error}
	}
	return errors.New(failure.Error)
}

func (s *address) token() (string, error) {
	if s.Token != "" {
		return s.Token, nil
	}
	file, err := tokenFile(s.Server)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", errors.New("nobody is signed in: run tocsin sign-in, or set TOCSIN_TOKEN")
	}
	return strings.TrimSpace(string(text)), nil
}

// tokenFile is where the session with a server is kept, readable by its owner alone.
func tokenFile(server string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find configuration directory: %w", err)
	}
	return filepath.Join(dir, "tocsin", url.PathEscape(server)+".token"), nil
}

type signInCmd struct {
	server
	User     string `required:"" help:"Who you are."`
	Password string `env:"TOCSIN_PASSWORD" help:"Your password; better left out: it is then read from standard input."`
}

// Run implements the command.
func (c *signInCmd) Run(ctx context.Context, std *stdio) error {
	password := c.Password
	if password == "" {
		fmt.Fprint(std.err, "Password: ")
		line, err := readLine(std.in)
		if err != nil {
			return err
		}
		password = line
	}
	token, expires, err := signIn(ctx, c.Server, c.User, password)
	if err != nil {
		return err
	}
	file, err := tokenFile(c.Server)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	fmt.Fprintf(std.out, "Signed in to %s as %s until %s.\n", c.Server, c.User, expires.Local().Format(time.RFC1123))
	return nil
}

// signIn exchanges a password for a session token.
func signIn(ctx context.Context, server, user, password string) (token string, expires time.Time, err error) {
	body, err := json.Marshal(map[string]string{"user": user, "password": password})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("encode request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(server, "/")+"/api/v1/sign-in", bytes.NewReader(body))
	if err != nil {
		return "", time.Time{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	var answer struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires"`
	}
	err = send(request, door{address: "set --server or TOCSIN_SERVER"}, &answer) // the answer says that the password is wrong
	return answer.Token, answer.Expires, err
}

// readLine reads one line of at most 1 KiB.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < 1<<10; {
		n, err := r.Read(one)
		if n == 1 && one[0] == '\n' || err != nil && len(line) > 0 {
			return strings.TrimRight(string(line), "\r"), nil
		}
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		line = append(line, one[:n]...)
	}
	return "", errors.New("read password: the line is too long")
}

type passwdCmd struct{}

// Run implements the command.
func (passwdCmd) Run(std *stdio) error {
	password, err := readLine(std.in)
	if err != nil {
		return err
	}
	hash, err := auth.HashPassword(password)
	if err != nil {
		return err
	}
	fmt.Fprintln(std.out, hash)
	return nil
}
