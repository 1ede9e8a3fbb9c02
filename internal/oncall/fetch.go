package oncall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/dial"
)

const (
	fetchTime = 10 * time.Second
	maxSecret = 4 << 10 // bytes of a file that holds a URL or a credential
)

// newClient returns a client that reaches no network inside but those that are named, follows no redirect, because the credential is for
// one address, and takes no proxy from the environment.
func newClient(networks []netip.Prefix) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: dial.Guard(networks, "oncall.networks")}
	return &http.Client{
		Timeout:       fetchTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: d.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: fetchTime, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true},
	}
}

// feedURL refuses what is no https URL of a host that is named. Its errors don't hold the URL, which may be a secret.
func feedURL(text string, hosts []string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("it is no URL of the form https://host/path without user and fragment")
	}
	if u.Scheme != "https" {
		return nil, fmt.Errorf("want https in the place of %s", clean(u.Scheme))
	}
	if !slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, u.Hostname()) }) {
		return nil, fmt.Errorf("its host %s is none of oncall.hosts", clean(u.Hostname()))
	}
	return u, nil
}

// fetch reads a feed whole. No error holds its URL or its credential.
func (r *Roster) fetch(ctx context.Context, s Source) ([]byte, error) {
	if s.File != "" {
		return readFile(s.File, maxFeed)
	}
	at := s.URL
	if s.URLFile != "" {
		text, err := readFile(s.URLFile, maxSecret)
		if err != nil {
			return nil, err
		}
		at = strings.TrimSpace(string(text))
	}
	u, err := feedURL(at, r.hosts)
	if err != nil {
		return nil, fmt.Errorf("the feed's URL: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the feed's URL can't be asked")
	}
	request.Header.Set("Accept", "text/calendar")
	if s.AuthorizationFile != "" {
		text, err := readFile(s.AuthorizationFile, maxSecret)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", strings.TrimSpace(string(text)))
	}
	answer, err := r.client.Do(request)
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.Host, err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode/100 == 3:
		return nil, fmt.Errorf("%s answered %d: redirects are not followed, so name the last address", u.Host, answer.StatusCode)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %d", u.Host, answer.StatusCode)
	}
	return upTo(answer.Body, maxFeed, u.Host)
}

func readFile(name string, most int) ([]byte, error) {
	info, err := os.Stat(name) // before it is opened: a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return upTo(f, most, name)
}

func upTo(r io.Reader, most int, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return text, nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
