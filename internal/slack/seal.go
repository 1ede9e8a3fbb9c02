package slack

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// sealer signs what goes to Slack and comes back, so that nobody can make up a button or a window.
type sealer struct{ key []byte }

// mac is the code of a text for one purpose; no code fits another purpose.
func (s sealer) mac(purpose, text string) string {
	h := hmac.New(sha256.New, s.key)
	fmt.Fprintf(h, "tocsin slack %s v1\n%s", purpose, text)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

var errForged = errors.New("it was not made by Tocsin")

// button is a button's value: v1.<request>.<revision>.<mac>.
func (s sealer) button(request string, revision int) string {
	text := fmt.Sprintf("v1.%s.%d", request, revision)
	return text + "." + s.mac("button", text)
}

func (s sealer) openButton(value string) (request string, revision int, err error) {
	at := strings.LastIndexByte(value, '.')
	if at < 0 || !hmac.Equal([]byte(value[at+1:]), []byte(s.mac("button", value[:at]))) {
		return "", 0, errForged
	}
	parts := strings.Split(value[:at], ".")
	if len(parts) != 3 || parts[0] != "v1" {
		return "", 0, errForged
	}
	revision, err = strconv.Atoi(parts[2])
	return parts[1], revision, err
}

// window is what a modal carries: for which request, of which plan, on which card, and for whom it was opened.
type window struct {
	Request  string    `json:"r"`
	Revision int       `json:"v"`
	Digest   string    `json:"d"`
	Channel  string    `json:"c"`
	TS       string    `json:"t"`
	User     string    `json:"u"`
	Opened   time.Time `json:"o"`
}

// private is a window's private metadata.
func (s sealer) private(w window) (string, error) {
	text, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("seal window: %w", err)
	}
	body := base64.RawURLEncoding.EncodeToString(text)
	return body + "." + s.mac("window", body), nil
}

func (s sealer) openPrivate(text string) (w window, err error) {
	body, mac, _ := strings.Cut(text, ".")
	if !hmac.Equal([]byte(mac), []byte(s.mac("window", body))) {
		return w, errForged
	}
	doc, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return w, errForged
	}
	if err := json.Unmarshal(doc, &w); err != nil {
		return w, errForged
	}
	return w, nil
}
