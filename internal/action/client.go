package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Bounds of what actions read and wait for.
const (
	maxAnswer   = 64 << 10 // bytes of an answer; more is an error
	maxSecret   = 64 << 10 // bytes of a file that holds a secret
	requestTime = 10 * time.Second
)

// BadOption is an option that can't be right, by its key within the action's section of the configuration.
type BadOption struct{ Field, Why string }

func (b *BadOption) Error() string { return b.Field + ": " + b.Why }

func badOption(field, format string, args ...any) error {
	return &BadOption{field, fmt.Sprintf(format, args...)}
}

// checkURL refuses what is no absolute URL, and plain HTTP to another machine, which would show credentials to the network.
func checkURL(field, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return badOption(field, "%q is no URL of the form https://host/path without user and fragment", text)
	case u.Scheme == "http" && loopback(u.Hostname()):
	case u.Scheme != "https":
		return badOption(field, "%q: want https, because credentials travel on it", text)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newClient returns an HTTP client of an action's own.
func newClient(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return clientOf(newTransport(dial))
}

// clientOf returns a client that follows no redirect, because credentials are for one address.
func clientOf(transport *http.Transport) *http.Client {
	return &http.Client{
		Timeout:       requestTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     transport,
	}
}

// newTransport returns a transport that takes no proxy from the environment.
func newTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{DialContext: dial, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: requestTime}
}

// call sends a request and returns status and body. Any error means that the effect is unknown.
func call(client *http.Client, r *http.Request) (status int, body []byte, err error) {
	return callUpTo(client, r, maxAnswer)
}

// callUpTo is call for answers of up to most bytes.
func callUpTo(client *http.Client, r *http.Request, most int) (status int, body []byte, err error) {
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil, fmt.Errorf("call %s: %w", r.URL.Host, err)
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, int64(most)+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("read answer of %s: %w", r.URL.Host, err)
	case len(body) > most:
		return 0, nil, fmt.Errorf("read answer of %s: more than %d bytes", r.URL.Host, most)
	}
	return answer.StatusCode, body, nil
}

// decode reads the JSON of an answer that must have a status.
func decode(status, want int, body []byte, into any) error {
	if status != want {
		return fmt.Errorf("want status %d, got %d", want, status)
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(into); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// readSecret reads a file that holds a secret, without the white space around it. It is read at each use, so that it can be rotated.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || len(text) > maxSecret {
		return "", fmt.Errorf("read secret: %s is empty or has more than %d bytes", file, maxSecret)
	}
	return secret, nil
}

// checkSecret refuses a file that can't be read now: an incident is no time to find out.
func checkSecret(field, file string) error {
	if file == "" {
		return badOption(field, "is missing")
	}
	if _, err := readSecret(file); err != nil {
		return badOption(field, "%v", err)
	}
	return nil
}

// irreversible is the undo of what can't be undone.
type irreversible struct{}

var errIrreversible = errors.New("it can't be undone")

// Undo implements Action.
func (irreversible) Undo(context.Context, Lease) error { return errIrreversible }

// noLag is the lag of what is instant, or of which nothing is known.
type noLag struct{}

// Lag implements Action.
func (noLag) Lag(Lease) (time.Time, string) { return time.Time{}, "" }

// noSnapshot is for actions whose undo needs nothing.
type noSnapshot struct{}

// Snapshot implements Action.
func (noSnapshot) Snapshot(context.Context, Input) (json.RawMessage, error) { return nil, nil }
