package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/gate"
)

// GateQuery is the body of POST /v1/gate/check.
type GateQuery struct {
	gate.Query
	// Class is the agent's class, by which the declared behaviour without a gate is looked up; optional.
	Class string `json:"class,omitempty"`
}

// GateAnswer is the gate's answer. OnError tells whoever asks what to do when the gate can't answer: open or closed.
type GateAnswer struct {
	gate.Answer
	OnError string `json:"on_error"`
}

// GateOptions are what the gate's handler needs.
type GateOptions struct {
	Gate *gate.Gate
	// OnError returns the declared choice for a class of agents.
	OnError func(class string) string
	// Authenticate checks a bearer token; nil lets everybody ask.
	Authenticate func(token string) (name string, ok bool)
	Observe      func(verdict string, took time.Duration)
}

// GateRoutes adds the gate's path to a mux.
func GateRoutes(mux *http.ServeMux, o GateOptions) {
	mux.HandleFunc("POST /v1/gate/check", func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		if o.Authenticate != nil {
			if _, ok := o.Authenticate(bearer(r)); !ok {
				reply(w, http.StatusUnauthorized, Failure{Error: "the gate needs a bearer token of the configuration's tokens"})
				return
			}
		}
		var q GateQuery
		if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &q); err != nil {
			reply(w, http.StatusBadRequest, Failure{Error: err.Error()})
			return
		}
		if q.Agent == "" {
			reply(w, http.StatusBadRequest, Failure{Error: "agent: is empty; name the agent by its id, service/name"})
			return
		}
		answer := GateAnswer{Answer: o.Gate.Check(q.Query), OnError: o.OnError(q.Class)}
		o.Observe(answer.Word().String(), time.Since(start))
		reply(w, http.StatusOK, answer)
	})
}

func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}
