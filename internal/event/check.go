package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits on one event. Check cuts texts to size and refuses what can't be an event at all.
const (
	MaxIDBytes      = 256
	MaxNameBytes    = 256
	MaxAncestors    = 16       // agents above another
	MaxValueBytes   = 8 << 10  // one argument value
	MaxContentBytes = 32 << 10 // one text
	MaxArgs         = 128
	MaxContents     = 64
	MaxDestinations = 32
	MaxAttrs        = 128
	MaxAttrBytes    = 2 << 10
)

// Check makes an event fit to be logged: it normalises the tool, cuts texts to their limits (their state says so) and to valid
// UTF-8, because one bad byte would make the log's whole batch unreadable, and returns an error that names the field for an event
// that can't be kept: without an id, a time, a kind or an agent. It never fails for the size of a text, or for what an id holds.
func (e *Event) Check() error {
	if e.Schema == 0 {
		e.Schema = Schema
	}
	switch {
	case e.Schema != Schema:
		return fmt.Errorf("schema: version %d is not known, want %d", e.Schema, Schema)
	case e.ID == "":
		return errors.New("id: is empty")
	case e.Kind == "":
		return errors.New("kind: is empty")
	case !slices.Contains(Kinds(), e.Kind):
		return fmt.Errorf("kind: %q is not known, want one of %s", clip(string(e.Kind), 40), kindList())
	case e.Time.IsZero():
		return errors.New("time: is empty, want RFC 3339")
	}
	if e.Time = e.Time.UTC(); e.Time.Year() < 2000 || e.Time.Year() > 2200 {
		return fmt.Errorf("time: %s is out of range", e.Time.Format(time.RFC3339))
	}
	if err := e.Agent.check(); err != nil {
		return err
	}
	for _, id := range []*string{&e.ID, &e.Trace.TraceID, &e.Trace.SpanID, &e.Trace.ParentID} {
		*id = plainID(*id)
	}
	e.clipStrings()
	e.clipLists()
	if e.Tool != nil {
		e.Tool.normalise()
		if len(e.Destinations) == 0 {
			e.Destinations = e.Tool.destinations()
		}
	}
	e.clipTokens()
	return nil
}

// MaxEventTokens bounds the token hashes of one event, over all its texts, so that an event fits into one message of the log.
const MaxEventTokens = 1 << 16

// plainID returns an id that can be shown, logged and put into a path wherever ids are, as people trust them to be harmless. One that
// holds anything else, or is too long, becomes its hash: the same id is still the same, and the event is kept.
func plainID(id string) string {
	if len(id) > MaxIDBytes {
		return NewID("", "", "id", id)
	}
	for i := range len(id) {
		if !idByte(id[i]) {
			return NewID("", "", "id", id)
		}
	}
	return id
}

func idByte(c byte) bool {
	switch c {
	case '.', '_', ':', '/', '@', '+', '=', '-':
		return true
	}
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
}

// clipTokens keeps hashes within the bound of the event: the arguments' first, because they are what is looked for.
func (e *Event) clipTokens() {
	room := MaxEventTokens
	take := func(t *Hashes) {
		if *t = (*t)[:min(len(*t), room)]; len(*t) == 0 {
			*t = nil // as it will come back from the log
		}
		room -= len(*t)
	}
	if e.Tool != nil {
		for i := range e.Tool.Args {
			take(&e.Tool.Args[i].Tokens)
		}
		take(&e.Tool.Result.Tokens)
	}
	for i := range e.Content {
		take(&e.Content[i].Tokens)
	}
}

func (a *Agent) check() error {
	a.ID, a.Name, a.Service, a.Class = clip(a.ID, MaxIDBytes), clip(a.Name, MaxNameBytes), clip(a.Service, MaxNameBytes), clip(a.Class, MaxNameBytes)
	if a.ID == "" {
		a.ID = AgentID(a.Service, a.Name)
	}
	if a.ID == "" {
		return errors.New("agent.id: is empty, and there is no agent.name or agent.service to make it from")
	}
	a.ID = clip(a.ID, MaxIDBytes)
	peers := a.Service // those of one service
	if peers == "" {
		prefix, _, ok := strings.Cut(a.ID, "/")
		if a.Service, peers = prefix, Unclassed; ok {
			peers = prefix
		}
	}
	if a.Class == "" {
		a.Class = clip(peers, MaxNameBytes)
	}
	return nil
}

func kindList() string {
	names := make([]string, 0, len(Kinds()))
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

func (e *Event) clipStrings() {
	for _, s := range []*string{
		&e.Tenant, &e.Source.Dialect, &e.Source.Scope, &e.Source.Product, &e.Source.ProductVersion,
		&e.Source.Instance, &e.Source.Authn, &e.Agent.Version, &e.Agent.Framework, &e.Agent.Parent, &e.Agent.Basis,
		&e.Session.ID, &e.Session.Turn, &e.Session.Basis, &e.Principal.ID, &e.Principal.Email, &e.Principal.Org, &e.Trace.TraceID,
		&e.Trace.SpanID, &e.Trace.ParentID, &e.Trace.Name,
	} {
		*s = clip(*s, MaxNameBytes)
	}
	e.Outcome, e.Error = clip(e.Outcome, MaxNameBytes), clip(e.Error, MaxValueBytes)
	if d := e.Decision; d != nil {
		d.Effect, d.By, d.Mode = clip(d.Effect, MaxNameBytes), clip(d.By, MaxNameBytes), clip(d.Mode, MaxNameBytes)
		d.Reason = clip(d.Reason, MaxValueBytes)
	}
	if m := e.Model; m != nil {
		m.Provider, m.Name = clip(m.Provider, MaxNameBytes), clip(m.Name, MaxNameBytes)
	}
}

func (e *Event) clipLists() {
	e.Content = e.Content[:min(len(e.Content), MaxContents)]
	for i := range e.Content {
		e.Content[i].clip()
	}
	e.Destinations = e.Destinations[:min(len(e.Destinations), MaxDestinations)]
	for i := range e.Destinations {
		d := &e.Destinations[i]
		d.Kind, d.Value, d.Arg = clip(d.Kind, MaxNameBytes), clip(d.Value, MaxNameBytes), clip(d.Arg, MaxNameBytes)
	}
	e.Agent.Ancestors = e.Agent.Ancestors[:min(len(e.Agent.Ancestors), MaxAncestors)]
	for i := range e.Agent.Ancestors {
		e.Agent.Ancestors[i] = clip(e.Agent.Ancestors[i], MaxNameBytes)
	}
	e.Labels, e.Attrs = clipMap(e.Labels), clipMap(e.Attrs)
}

// clipMap keeps the first MaxAttrs keys in sorted order, so that what is kept does not depend on chance. A map that is within the limits
// is returned as it is.
func clipMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	if fits(m) {
		return m
	}
	out := make(map[string]string, min(len(m), MaxAttrs))
	for _, k := range sortedKeys(m) {
		if len(out) == MaxAttrs {
			break
		}
		out[clip(k, MaxNameBytes)] = clip(m[k], MaxAttrBytes)
	}
	return out
}

func fits(m map[string]string) bool {
	if len(m) > MaxAttrs {
		return false
	}
	for k, v := range m {
		if len(k) > MaxNameBytes || len(v) > MaxAttrBytes || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return false
		}
	}
	return true
}

func (c *Content) clip() {
	c.Size = max(c.Size, len(c.Text))
	if len(c.Text) > MaxContentBytes {
		c.State = StateTruncated
	}
	c.Role, c.State, c.Text = clip(c.Role, MaxNameBytes), clip(c.State, MaxNameBytes), clip(c.Text, MaxContentBytes)
	if c.State == "" && c.Text != "" {
		c.State = StateFull
	}
	c.Tokens = c.Tokens[:min(len(c.Tokens), MaxTokens)]
}

// ClipName cuts an id or a name as Check does, for whoever compares one with what events say.
func ClipName(s string) string { return clip(s, MaxNameBytes) }

// clip cuts s to at most n bytes at a rune boundary and makes it valid UTF-8.
func clip[S ~string](s S, n int) S {
	if len(s) > n {
		s = s[:n]
	}
	if utf8.ValidString(string(s)) { // much faster than what follows
		return s
	}
	return S(strings.ToValidUTF8(string(s), ""))
}
