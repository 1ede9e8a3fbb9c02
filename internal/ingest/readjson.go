package ingest

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads JSON (RFC 8259) from its beginning to its end, once, without a tree: whoever reads says what comes next. A text
// without escapes aliases the input; others are written into the arena.
//
// It accepts and gives what encoding/json does, so no comma too many, no control characters in texts, and U+FFFD for half a surrogate
// pair and for bytes that are no UTF-8. With keep, control characters and such bytes are kept.
type jsonReader struct {
	text  []byte
	at    int
	depth int  // of arrays and objects that are open
	keep  bool // the bytes of texts, whatever they are
	arena *arena
}

var (
	errJSON     = errors.New("JSON: a value, comma or bracket is not where it should be, or is not finished")
	errJSONText = errors.New("JSON: a text has a control character or an escape that is not known")
	errJSONDeep = errors.New("JSON: nested too deep")
	errJSONType = errors.New("JSON: a value has another type")
)

// next skips white space and returns the byte after it without taking it, 0 at the end.
func (r *jsonReader) next() byte {
	for r.at < len(r.text) {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return c
		}
	}
	return 0
}

// end reports an error if anything but white space follows.
func (r *jsonReader) end() error {
	if r.next() != 0 || r.at < len(r.text) {
		return errJSON
	}
	return nil
}

func (r *jsonReader) open(bracket byte) error {
	if r.next() != bracket {
		return errJSONType
	}
	r.at++
	if r.depth++; r.depth > maxJSONDepth {
		return errJSONDeep
	}
	return nil
}

// more reports whether another item follows, after the first when a comma does, and takes the bracket if not.
func (r *jsonReader) more(bracket byte, first bool) (bool, error) {
	switch c := r.next(); {
	case c == bracket:
		r.at++
		r.depth--
		return false, nil
	case first:
		return true, nil
	case c == ',':
		r.at++
		return true, nil
	}
	return false, errJSON
}

// null takes a null, which stands for the absence of any value.
func (r *jsonReader) null() (bool, error) {
	if r.next() != 'n' {
		return false, nil
	}
	return true, r.literal("null")
}

func (r *jsonReader) literal(word string) error {
	if len(r.text)-r.at < len(word) || string(r.text[r.at:r.at+len(word)]) != word {
		return errJSON
	}
	r.at += len(word)
	return nil
}

// array calls item before each item, which must read it. A null is an empty array.
func (r *jsonReader) array(item func() error) error {
	if null, err := r.null(); null || err != nil {
		return err
	}
	if err := r.open('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		if more, err := r.more(']', first); !more || err != nil {
			return err
		}
		if err := item(); err != nil {
			return err
		}
	}
}

// object calls member with each key, which must read the value. A null is an empty object.
func (r *jsonReader) object(member func(key string) error) error {
	if null, err := r.null(); null || err != nil {
		return err
	}
	if err := r.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		if more, err := r.more('}', first); !more || err != nil {
			return err
		}
		key, err := r.key()
		if err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
	}
}

func (r *jsonReader) key() (string, error) {
	if r.next() != '"' {
		return "", errJSON
	}
	key, err := r.string()
	if err != nil {
		return "", err
	}
	if r.next() != ':' {
		return "", errJSON
	}
	r.at++
	return key, nil
}

// string reads a text. A null is an empty one.
func (r *jsonReader) string() (string, error) {
	if null, err := r.null(); null || err != nil {
		return "", err
	}
	if r.next() != '"' {
		return "", errJSONType
	}
	r.at++
	for i := r.at; i < len(r.text); i++ {
		switch c := r.text[i]; {
		case c == '"':
			plain := r.text[r.at:i]
			if !r.keep && !utf8.Valid(plain) {
				return r.escaped()
			}
			r.at = i + 1
			return alias(plain), nil
		case c == '\\':
			return r.escaped()
		case c < ' ' && !r.keep:
			return "", errJSONText
		}
	}
	return "", errJSON
}

// escaped writes a text that does not stand in the input as it is.
func (r *jsonReader) escaped() (string, error) {
	out := r.arena.open()
	for i := r.at; i < len(r.text); {
		run := r.run(i)
		if out, i = append(out, r.text[i:i+run]...), i+run; i == len(r.text) {
			break
		}
		switch c := r.text[i]; {
		case c == '"':
			r.at = i + 1
			return r.arena.keep(out), nil
		case c == '\\':
			var err error
			if out, i, err = r.escape(out, i+1); err != nil {
				return "", err
			}
		case c < ' ':
			return "", errJSONText
		default:
			char, n := utf8.DecodeRune(r.text[i:])
			out = utf8.AppendRune(out, char)
			i += n
		}
	}
	return "", errJSON
}

// run returns how many bytes from a place on mean themselves.
func (r *jsonReader) run(from int) int {
	for i := from; i < len(r.text); i++ {
		if c := r.text[i]; c == '"' || c == '\\' || !r.keep && (c < ' ' || c >= utf8.RuneSelf) {
			return i - from
		}
	}
	return len(r.text) - from
}

// escape appends the character that an escape stands for, whose backslash is before i.
func (r *jsonReader) escape(out []byte, i int) ([]byte, int, error) {
	if i == len(r.text) {
		return nil, 0, errJSON
	}
	const letters, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if k := strings.IndexByte(letters, r.text[i]); k >= 0 {
		return append(out, meant[k]), i + 1, nil
	}
	char, ok := r.hex4(i)
	if !ok {
		return nil, 0, errJSONText
	}
	i += 5
	if utf16.IsSurrogate(char) {
		second := rune(utf8.RuneError)
		if i < len(r.text) && r.text[i] == '\\' {
			second, ok = r.hex4(i + 1)
		}
		if char = utf16.DecodeRune(char, second); ok && char != utf8.RuneError {
			i += 6
		}
	}
	return utf8.AppendRune(out, char), i, nil
}

// hex4 reads the rest of an escape "u0041".
func (r *jsonReader) hex4(i int) (rune, bool) {
	if len(r.text) < i+5 || r.text[i] != 'u' {
		return utf8.RuneError, false
	}
	var char rune
	for _, c := range r.text[i+1 : i+5] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return utf8.RuneError, false
		}
		char = char<<4 | rune(c)
	}
	return char, true
}

// number returns the text of a number.
func (r *jsonReader) number() (string, error) {
	r.next()
	from := r.at
	r.skip1('-', '-')
	if r.skip1('0', '0') == 0 && r.digits() == 0 {
		return "", errJSON
	}
	if r.skip1('.', '.') > 0 && r.digits() == 0 {
		return "", errJSON
	}
	if r.skip1('e', 'E') > 0 {
		r.skip1('+', '-')
		if r.digits() == 0 {
			return "", errJSON
		}
	}
	return alias(r.text[from:r.at]), nil
}

func (r *jsonReader) skip1(a, b byte) int {
	if r.at < len(r.text) && (r.text[r.at] == a || r.text[r.at] == b) {
		r.at++
		return 1
	}
	return 0
}

func (r *jsonReader) digits() (n int) {
	for r.at < len(r.text) && '0' <= r.text[r.at] && r.text[r.at] <= '9' {
		r.at++
		n++
	}
	return n
}

// bool reads true or false.
func (r *jsonReader) bool() (bool, error) {
	switch r.next() {
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	}
	return false, errJSONType
}

// skip reads a value that nobody needs.
func (r *jsonReader) skip() error {
	height := len(r.arena.stack)
	var v value
	err := r.value(&v)
	r.arena.drop(height)
	return err
}

// value reads any value. Numbers become doubles; one that is too large for them is an error.
func (r *jsonReader) value(v *value) (err error) {
	switch c := r.next(); c {
	case '{':
		v.kind = kindMap
		v.items, err = r.items(true)
	case '[':
		v.kind = kindList
		v.items, err = r.items(false)
	case '"':
		v.kind = kindText
		v.text, err = r.string()
	case 't', 'f':
		var b bool
		v.kind = kindBool
		if b, err = r.bool(); b {
			v.num = 1
		}
	case 'n':
		err = r.literal("null")
	default:
		var text string
		var f float64
		if text, err = r.number(); err != nil {
			return err
		}
		f, err = strconv.ParseFloat(text, 64)
		*v = value{kind: kindDouble, num: math.Float64bits(f)}
	}
	return err
}

func (r *jsonReader) items(keys bool) ([]attribute, error) {
	height := len(r.arena.stack)
	item := func(key string) error {
		a := attribute{key: key}
		err := r.value(&a.value)
		r.arena.stack = append(r.arena.stack, a)
		return err
	}
	var err error
	if keys {
		err = r.object(item)
	} else {
		err = r.array(func() error { return item("") })
	}
	return r.arena.pop(height), err
}
