package ingest

import (
	"encoding/binary"
	"iter"
)

// Decoders of nested values recurse once for each level and a stack overflow ends the whole process, so what is nested deeper is cut
// out before anything is decoded, in place: one deep value must not cost the batch it came in. Real requests are less than 20 levels
// deep in JSON and 12 in protobuf.
const (
	maxJSONDepth  = 128
	maxProtoDepth = 128
)

// marks yields the brackets and commas of a JSON text that stand outside its strings, with their places. The text need not be valid.
func marks(text []byte) iter.Seq2[int, byte] {
	return func(yield func(int, byte) bool) {
		inString := false
		for i := 0; i < len(text); i++ {
			switch c := text[i]; {
			case inString && c == '\\':
				i++
			case c == '"':
				inString = !inString
			case inString:
			case c == '{' || c == '[' || c == '}' || c == ']' || c == ',':
				if !yield(i, c) {
					return
				}
			}
		}
	}
}

// jsonDepth returns how deep the brackets of a JSON text are nested.
func jsonDepth(text []byte) int {
	depth, deepest := 0, 0
	for _, c := range marks(text) {
		switch c {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// cutJSON empties every array and object that holds brackets below the limit, and reports whether there was one.
func cutJSON(text []byte, limit int) (cut bool) {
	depth, start, deep := 0, 0, false
	for i, c := range marks(text) {
		switch c {
		case '{', '[':
			if depth++; depth == limit {
				start, deep = i+1, false
			}
			deep = deep || depth > limit
		case '}', ']':
			if depth == limit && deep {
				blank(text[start:i])
				cut = true
			}
			depth = max(depth-1, 0)
		}
	}
	if depth >= limit && deep { // the text ends within
		blank(text[start:])
		cut = true
	}
	return cut
}

func blank(text []byte) {
	for i := range text {
		text[i] = ' '
	}
}

// cutProto makes every field of a protobuf message that is nested below the limit a message of nothing known, and reports whether
// there was one. It knows no schema and takes for a message whatever parses as one; no text of any length parses as that many levels
// by chance. Groups are looked into as if they were inline.
func cutProto(buf []byte, limit int) (cut bool) {
	for len(buf) > 0 {
		tag, n := binary.Uvarint(buf)
		if n <= 0 || tag>>3 == 0 {
			return cut
		}
		buf = buf[n:]
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(buf); n <= 0 {
				return cut
			}
		case 1:
			n = 8
		case 2:
			size, m := binary.Uvarint(buf)
			if m <= 0 || size > uint64(len(buf)-m) {
				return cut
			}
			n = m + int(size)
			if size > 1 && cutField(buf[m:n], limit-1) {
				cut = true
			}
		case 3, 4:
			n = 0
		case 5:
			n = 4
		default:
			return cut
		}
		if n > len(buf) {
			return cut
		}
		buf = buf[n:]
	}
	return cut
}

func cutField(field []byte, limit int) bool {
	if limit > 0 {
		return cutProto(field, limit)
	}
	// Field 14, which no value of OTLP has, as often as it takes to keep the length: its number alone where that is even, after five or
	// three bytes of it where it is not.
	switch {
	case len(field)%2 == 0:
	case len(field) == 3:
		copy(field, "\x72\x01\x00")
		return true
	default:
		copy(field, "\x75\x00\x00\x00\x00")
		field = field[5:]
	}
	for i := range field {
		field[i] = 0x70 * byte(1-i%2)
	}
	return true
}
