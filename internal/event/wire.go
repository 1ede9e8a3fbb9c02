package event

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendAll appends the events, part after part, as Marshal would one slice of them, byte for byte. The log's batches are most of what is written and read,
// and a walk over known fields takes a fraction of the time of one by reflection.
func (c *Codec) AppendAll(out []byte, parts ...[]Event) []byte {
	size, n := 16, 0
	for _, events := range parts {
		n += len(events)
		for i := range events {
			size += events[i].Size()
		}
	}
	w := wire{data: slices.Grow(out, size)}
	w.head(majorArray, uint64(n))
	for _, events := range parts {
		for i := range events {
			w.event(&events[i])
		}
	}
	return w.data
}

// Size is about what an event takes in memory and in the log, in bytes.
func (e *Event) Size() int {
	n := 768
	if t := e.Tool; t != nil {
		n += len(t.Result.Text) + len(t.Command) + len(t.Path) + len(t.URL) + 9*len(t.Result.Tokens)
		for i := range t.Args {
			n += 32 + len(t.Args[i].Value) + 9*len(t.Args[i].Tokens)
		}
	}
	for i := range e.Content {
		n += 32 + len(e.Content[i].Text) + 9*len(e.Content[i].Tokens)
	}
	for k, v := range e.Attrs {
		n += len(k) + len(v) + 4
	}
	return n
}

// ReadAll reads what AppendAll wrote. It is not ok for anything else, about which Unmarshal decides. Texts are copied out of data, or
// are those that were read before. The events, their tools and the tools' arguments are good until the room is used again, and
// everything else that they point to for as long as it is kept; but who keeps the text of a content or the value of an argument should
// keep a copy, because it shares memory with others.
func (c *Codec) ReadAll(room *Room, data []byte) (events []Event, ok bool) {
	w := wire{data: data, reading: true, room: room}
	n := w.length(majorArray, smallestEvent)
	room.tools, room.args = room.tools[:0], room.args[:0]
	if events = slices.Grow(room.events[:0], n)[:n]; events == nil {
		events = []Event{} // as Unmarshal reads an empty batch
	}
	clear(events)
	for i := range events {
		w.event(&events[i])
	}
	room.events = events
	room.bound()
	return events, !w.bad && w.at == len(data)
}

// maxRoom is for how many events, tools and arguments each a Room keeps memory: what one large batch needed is not kept for small ones.
const maxRoom = 4096

// Room is memory that batches are read into, one after the other. It knows the short texts that were read last, because most come again:
// who keeps many events keeps each name once. Not safe for concurrent use.
type Room struct {
	events []Event
	tools  []Tool
	args   []Arg
	seed   maphash.Seed
	last   [1024]string
	long   strings.Builder // texts of contents and arguments that are not known again, one after the other
}

// NewRoom returns an empty room.
func NewRoom() *Room { return &Room{seed: maphash.MakeSeed()} }

func (r *Room) bound() {
	if cap(r.events) > maxRoom || cap(r.tools) > maxRoom || cap(r.args) > maxRoom {
		r.events, r.tools, r.args = nil, nil, nil
	}
}

// take returns n cleared elements of the memory that is left, or of more where it is too little.
func take[T any](left *[]T, n int) []T {
	if cap(*left)-len(*left) < n {
		*left = make([]T, 0, max(n, min(maxRoom, max(64, 2*cap(*left)))))
	}
	from := len(*left)
	*left = (*left)[:from+n]
	out := (*left)[from : from+n : from+n]
	clear(out)
	return out
}

// maxKnown is the longest text that is known again, in bytes.
const maxKnown = 64

// textsRoom is how many bytes of long texts share one piece of memory: who keeps one of them keeps the others.
const textsRoom = 64 << 10

// body is a text that nobody keeps but in a copy.
func (r *Room) body(raw []byte) string {
	if len(raw) <= maxKnown || len(raw) > textsRoom/4 {
		return r.text(raw)
	}
	if r.long.Cap()-r.long.Len() < len(raw) {
		r.long = strings.Builder{}
		r.long.Grow(textsRoom)
	}
	from := r.long.Len()
	r.long.Write(raw)
	return r.long.String()[from:]
}

func (r *Room) text(raw []byte) string {
	if len(raw) > maxKnown {
		return string(raw)
	}
	known := &r.last[maphash.Bytes(r.seed, raw)%uint64(len(r.last))]
	if *known != string(raw) {
		*known = string(raw)
	}
	return *known
}

// smallestEvent is less than any event takes, in bytes.
const smallestEvent = 16

// Major types and simple values of CBOR (RFC 8949, section 3).
const (
	majorUint  = 0x00
	majorNeg   = 0x20
	majorText  = 0x60
	majorArray = 0x80
	majorMap   = 0xa0
	cborTrue   = 0xf5
	cborNull   = 0xf6
)

// wire writes values to data, or reads them from it: each method does both, so that no field can be written one way and read another.
// The keys of a map come in the order of RFC 8949, section 4.2.1, so a key that is not the next is not there.
type wire struct {
	data    []byte
	reading bool
	bad     bool // what is read is not what is written
	at      int  // how much was read
	fields  int  // of the map at hand: written so far, or left to read
	room    *Room
}

func (w *wire) event(e *Event) {
	f := w.open()
	unique(w, "id", &e.ID, always)
	integer(w, "seq", &e.Seq)
	field(w, "kind", &e.Kind, always)
	w.time("time", &e.Time, always)
	if f := w.some("tool", e.Tool != nil); f.there {
		if w.reading {
			e.Tool = &take(&w.room.tools, 1)[0]
		}
		w.tool(e.Tool)
		w.close(f)
	}
	if f := w.some("agent", true); f.there {
		w.agent(&e.Agent)
		w.close(f)
	}
	w.texts("attrs", &e.Attrs)
	field(w, "error", &e.Error, unlessZero)
	pointer(w, "model", &e.Model, w.model)
	if f := w.some("trace", e.Trace != Trace{}); f.there {
		field(w, "name", &e.Trace.Name, unlessZero)
		unique(w, "span_id", &e.Trace.SpanID, unlessZero)
		field(w, "trace_id", &e.Trace.TraceID, unlessZero)
		unique(w, "parent_id", &e.Trace.ParentID, unlessZero)
		w.close(f)
	}
	w.texts("labels", &e.Labels)
	integer(w, "schema", &e.Schema)
	if f := w.some("source", e.Source != Source{}); f.there {
		field(w, "authn", &e.Source.Authn, unlessZero)
		field(w, "scope", &e.Source.Scope, unlessZero)
		field(w, "dialect", &e.Source.Dialect, unlessZero)
		field(w, "product", &e.Source.Product, unlessZero)
		field(w, "instance", &e.Source.Instance, unlessZero)
		field(w, "product_version", &e.Source.ProductVersion, unlessZero)
		w.close(f)
	}
	field(w, "tenant", &e.Tenant, unlessZero)
	each(w, "content", &e.Content, w.content)
	field(w, "outcome", &e.Outcome, unlessZero)
	if f := w.some("session", e.Session != Session{}); f.there {
		field(w, "id", &e.Session.ID, unlessZero)
		w.flag("root", &e.Session.Root)
		field(w, "turn", &e.Session.Turn, unlessZero)
		field(w, "basis", &e.Session.Basis, unlessZero)
		w.close(f)
	}
	pointer(w, "decision", &e.Decision, w.decision)
	w.time("ingested", &e.Ingested, unlessZero)
	if f := w.some("principal", e.Principal != Principal{}); f.there {
		field(w, "id", &e.Principal.ID, unlessZero)
		field(w, "org", &e.Principal.Org, unlessZero)
		field(w, "email", &e.Principal.Email, unlessZero)
		w.close(f)
	}
	integer(w, "duration_ns", &e.Duration)
	each(w, "destinations", &e.Destinations, w.destination)
	w.close(f)
}

func (w *wire) tool(t *Tool) {
	field(w, "url", &t.URL, unlessZero)
	n := w.array("args", len(t.Args), 1)
	if w.reading && n > 0 {
		t.Args = take(&w.room.args, n)
	}
	for i := range n {
		f := w.open()
		w.arg(&t.Args[i])
		w.close(f)
	}
	field(w, "name", &t.Name, always)
	field(w, "path", &t.Path, unlessZero)
	field(w, "effect", &t.Effect, unlessZero)
	r := &t.Result
	if f := w.some("result", r.Role != "" || r.State != "" || r.Text != "" || r.Size != 0 || r.Tokens != nil || r.Signs != Signs{}); f.there {
		w.content(r)
		w.close(f)
	}
	field(w, "server", &t.Server, unlessZero)
	unique(w, "call_id", &t.CallID, unlessZero)
	field(w, "command", &t.Command, unlessZero)
	w.flag("redacted", &t.Redacted)
	field(w, "args_state", &t.ArgsState, unlessZero)
	w.flag("private_path", &t.PrivatePath)
}

func (w *wire) arg(a *Arg) {
	field(w, "path", &a.Path, always)
	w.body("value", &a.Value)
	field(w, "origin", &a.Origin, unlessZero)
	w.hashes("tokens", &a.Tokens)
	field(w, "provenance", &a.Provenance, unlessZero)
}

func (w *wire) content(c *Content) {
	field(w, "role", &c.Role, unlessZero)
	integer(w, "size", &c.Size)
	w.body("text", &c.Text)
	if f := w.some("signs", c.Signs != Signs{}); f.there {
		w.flag("hidden", &c.Signs.Hidden)
		w.flag("private", &c.Signs.Private)
		w.flag("instructs", &c.Signs.Instructs)
		w.close(f)
	}
	field(w, "state", &c.State, unlessZero)
	w.hashes("tokens", &c.Tokens)
}

func (w *wire) agent(a *Agent) {
	field(w, "id", &a.ID, always)
	field(w, "name", &a.Name, unlessZero)
	field(w, "basis", &a.Basis, unlessZero)
	field(w, "class", &a.Class, unlessZero)
	field(w, "parent", &a.Parent, unlessZero)
	field(w, "service", &a.Service, unlessZero)
	field(w, "version", &a.Version, unlessZero)
	if n := w.array("ancestors", len(a.Ancestors), 1); n > 0 {
		if w.reading {
			a.Ancestors = make([]string, n)
		}
		for i := range a.Ancestors {
			w.text(&a.Ancestors[i])
		}
	}
	field(w, "framework", &a.Framework, unlessZero)
}

func (w *wire) decision(d *Decision) {
	field(w, "by", &d.By, unlessZero)
	field(w, "mode", &d.Mode, unlessZero)
	field(w, "effect", &d.Effect, unlessZero)
	field(w, "reason", &d.Reason, unlessZero)
}

func (w *wire) model(m *Model) {
	field(w, "name", &m.Name, unlessZero)
	field(w, "provider", &m.Provider, unlessZero)
	integer(w, "cost_micros", &m.CostMicros)
	integer(w, "input_tokens", &m.InputTokens)
	integer(w, "cached_tokens", &m.CachedTokens)
	integer(w, "output_tokens", &m.OutputTokens)
}

func (w *wire) destination(d *Destination) {
	field(w, "arg", &d.Arg, unlessZero)
	field(w, "kind", &d.Kind, always)
	field(w, "value", &d.Value, always)
}

// Whether a field is written that is not set.
const (
	unlessZero = false
	always     = true
)

// next is whether the field is there to be written, given whether it is set, or to be read. Its value must follow.
func (w *wire) next(key string, set bool) bool {
	if !w.reading {
		if set {
			w.fields++
			w.data = append(append(w.data, majorText|byte(len(key))), key...)
		}
		return set
	}
	end := w.at + 1 + len(key)
	if w.bad || w.fields == 0 || end > len(w.data) || w.data[w.at] != majorText|byte(len(key)) || string(w.data[w.at+1:end]) != key {
		return false
	}
	w.at = end
	w.fields--
	return true
}

// frame is a map that is being written or read, and what was left of the one around it.
type frame struct {
	there      bool
	at, fields int
}

// some opens a field's map, if it is there.
func (w *wire) some(key string, set bool) frame {
	if !w.next(key, set) {
		return frame{}
	}
	return w.open()
}

func (w *wire) open() frame {
	f := frame{there: true, at: len(w.data), fields: w.fields}
	if w.fields = 0; w.reading {
		w.fields = w.length(majorMap, 2)
	} else {
		w.data = append(w.data, majorMap) // no map here has more fields than the byte can say
	}
	return f
}

func (w *wire) close(f frame) {
	if w.reading {
		w.bad = w.bad || w.fields != 0
	} else {
		w.data[f.at] |= byte(w.fields)
	}
	w.fields = f.fields
}

func pointer[T any](w *wire, key string, v **T, body func(*T)) {
	if f := w.some(key, *v != nil); f.there {
		if w.reading {
			*v = new(T)
		}
		body(*v)
		w.close(f)
	}
}

// array is a field's list, and returns how many elements follow, each of which takes so many bytes at least.
func (w *wire) array(key string, n, least int) int {
	if !w.next(key, n > 0) {
		return 0
	}
	if w.reading {
		n = w.length(majorArray, least)
		w.bad = w.bad || n == 0
	} else {
		w.head(majorArray, uint64(n))
	}
	return n
}

func each[T any](w *wire, key string, list *[]T, body func(*T)) {
	n := w.array(key, len(*list), 1)
	if w.reading && n > 0 {
		*list = make([]T, n)
	}
	for i := range n {
		f := w.open()
		body(&(*list)[i])
		w.close(f)
	}
}

func (w *wire) hashes(key string, v *Hashes) {
	n := w.array(key, len(*v), 1)
	if w.reading && n > 0 {
		*v = make(Hashes, n)
	}
	for i := range n {
		if w.reading {
			(*v)[i] = Hash(w.number(majorUint))
		} else {
			w.head(majorUint, uint64((*v)[i]))
		}
	}
}

func field[S ~string](w *wire, key string, v *S, must bool) {
	if w.next(key, must || *v != "") {
		s := string(*v)
		w.text(&s)
		*v = S(s)
	}
}

// body is a field of a text that may be long, and that nobody keeps but in a copy.
func (w *wire) body(key string, v *string) {
	if w.next(key, *v != "") {
		if !w.reading {
			w.text(v)
		} else if raw := w.raw(); len(raw) > 0 {
			*v = w.room.body(raw)
		}
	}
}

// unique is a field whose text does not come again.
func unique(w *wire, key string, v *string, must bool) {
	if w.next(key, must || *v != "") {
		if w.reading {
			*v = string(w.raw())
		} else {
			w.text(v)
		}
	}
}

func (w *wire) text(v *string) {
	if !w.reading {
		w.head(majorText, uint64(len(*v)))
		w.data = append(w.data, *v...)
	} else if raw := w.raw(); len(raw) > 0 {
		*v = w.room.text(raw)
	}
}

// raw reads a text where it stands.
func (w *wire) raw() []byte {
	n := w.length(majorText, 1)
	raw := w.data[w.at : w.at+n]
	w.at += n
	if w.bad = w.bad || !utf8.Valid(raw); w.bad {
		return nil
	}
	return raw
}

// texts is a field of texts by name, in the order of their encoded names.
func (w *wire) texts(key string, v *map[string]string) {
	if !w.next(key, len(*v) > 0) {
		return
	}
	inOrder := func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) }
	if !w.reading {
		w.head(majorMap, uint64(len(*v)))
		for _, k := range slices.SortedFunc(maps.Keys(*v), inOrder) {
			value := (*v)[k]
			w.text(&k)
			w.text(&value)
		}
		return
	}
	n := w.length(majorMap, 2)
	w.bad = w.bad || n == 0
	*v = make(map[string]string, n)
	for i, last := 0, ""; i < n && !w.bad; i++ {
		var k, value string
		w.text(&k)
		w.text(&value)
		w.bad = w.bad || i > 0 && inOrder(last, k) >= 0
		(*v)[k], last = value, k
	}
}

func integer[N ~int | ~int64](w *wire, key string, v *N) {
	if !w.next(key, *v != 0) {
		return
	}
	switch {
	case w.reading && w.at < len(w.data) && w.data[w.at]&0xe0 == majorNeg:
		*v = N(^w.signed(majorNeg))
	case w.reading:
		*v = N(w.signed(majorUint))
	case *v < 0:
		w.head(majorNeg, uint64(^int64(*v)))
	default:
		w.head(majorUint, uint64(*v))
	}
}

func (w *wire) signed(major byte) int64 {
	n := int64(w.number(major))
	w.bad = w.bad || n < 0 // beyond 63 bits
	return n
}

func (w *wire) flag(key string, v *bool) {
	if !w.next(key, *v) {
		return
	}
	if !w.reading {
		w.data = append(w.data, cborTrue)
		return
	}
	*v = w.at < len(w.data) && w.data[w.at] == cborTrue
	w.bad = w.bad || !*v
	w.at++
}

// time is a field's time as text (RFC 3339, to the nanosecond).
func (w *wire) time(key string, v *time.Time, must bool) {
	if !w.next(key, must || !v.IsZero()) {
		return
	}
	var room [len(time.RFC3339Nano)]byte
	switch {
	case w.reading:
		n := w.length(majorText, 1)
		t, err := time.Parse(time.RFC3339Nano, string(w.data[w.at:w.at+n]))
		w.at += n
		*v = t
		w.bad = w.bad || err != nil || t.Location() != time.UTC
	case v.IsZero():
		w.data = append(w.data, cborNull)
	default:
		said := v.AppendFormat(room[:0], time.RFC3339Nano)
		w.head(majorText, uint64(len(said)))
		w.data = append(w.data, said...)
	}
}

// head appends a major type with its number in the shortest form.
func (w *wire) head(major byte, n uint64) {
	switch {
	case n < 24:
		w.data = append(w.data, major|byte(n))
	case n < 1<<8:
		w.data = append(w.data, major|24, byte(n))
	case n < 1<<16:
		w.data = binary.BigEndian.AppendUint16(append(w.data, major|25), uint16(n))
	case n < 1<<32:
		w.data = binary.BigEndian.AppendUint32(append(w.data, major|26), uint32(n))
	default:
		w.data = binary.BigEndian.AppendUint64(append(w.data, major|27), n)
	}
}

// length reads how many elements of at least so many bytes follow. It is nought where that can't be.
func (w *wire) length(major byte, least int) int {
	n := w.number(major)
	if left := len(w.data) - w.at; w.bad || n > uint64(left/least) {
		w.bad = true
		return 0
	}
	return int(n)
}

// number reads the number of a head.
func (w *wire) number(major byte) uint64 {
	if w.bad || w.at >= len(w.data) || w.data[w.at]&0xe0 != major {
		w.bad = true
		return 0
	}
	low := w.data[w.at] & 0x1f
	if w.at++; low < 24 {
		return uint64(low)
	}
	size := 1 << (low - 24)
	if low > 27 || size > len(w.data)-w.at {
		w.bad = true
		return 0
	}
	var n uint64
	for _, b := range w.data[w.at : w.at+size] {
		n = n<<8 | uint64(b)
	}
	w.at += size
	return n
}
