package slack

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// skew is how old a signed request may be, and how far ahead its clock; see Slack's "Verifying requests".
const skew = 5 * time.Minute

// signed reports whether Slack signed a body: HMAC-SHA256 of "v0:<timestamp>:<body>" with the signing secret. It says no more than yes
// or no, because the reason would tell a forger what to change.
func signed(secret string, h http.Header, body []byte, now time.Time) bool {
	stamp := h.Get("X-Slack-Request-Timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || secret == "" {
		return false
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > skew || age < -skew {
		return false
	}
	given, ok := strings.CutPrefix(h.Get("X-Slack-Signature"), "v0=")
	if !ok {
		return false
	}
	code, err := hex.DecodeString(given)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("v0:" + stamp + ":"))
	mac.Write(body)
	return hmac.Equal(code, mac.Sum(nil))
}

// replayLife is how long a signature is remembered, longer than it is valid; maxReplays bounds how many are.
const (
	replayLife = 2 * skew
	maxReplays = 10_000
)

// replays are the signatures of requests that were taken.
type replays struct {
	mu   sync.Mutex
	seen map[[32]byte]time.Time
}

func (r *replays) known(sum [32]byte, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.seen[sum]
	return ok && now.Sub(at) < replayLife
}

func (r *replays) remember(sum [32]byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) >= maxReplays {
		for k, at := range r.seen {
			if now.Sub(at) >= replayLife {
				delete(r.seen, k)
			}
		}
	}
	if len(r.seen) < maxReplays { // the inbox knows a message again all the same
		r.seen[sum] = now
	}
}

// Handler takes what Slack sends by HTTP. Every request that is not surely Slack's gets the same answer.
func (s *Slack) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		now := s.o.Now()
		if err != nil || !signed(s.o.SigningSecret, r.Header, body, now) {
			s.o.Meter.SlackFailed("signature")
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		s.health.heard(now)
		sum := sha256.Sum256([]byte(r.Header.Get("X-Slack-Request-Timestamp") + "|" + r.Header.Get("X-Slack-Signature")))
		if s.replay.known(sum, now) {
			w.WriteHeader(http.StatusOK)
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		reply, err := s.accept(r.Context(), []byte(form.Get("payload")))
		if err != nil {
			s.o.Logger.Error("a message from Slack can't be kept", "error", err)
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		s.replay.remember(sum, now)
		if reply == nil {
			w.WriteHeader(http.StatusOK)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			s.o.Logger.Warn("Slack went away before it was answered", "error", err)
		}
	})
}
