package ingest

import (
	"encoding/binary"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Decoders of nested values recurse once for each level and a stack overflow ends the whole process, so depth is measured before
// anything is decoded. Real requests are less than 20 levels deep in JSON and 12 in protobuf.
const (
	maxJSONDepth  = 128
	maxProtoDepth = 128
)

// jsonDepth returns how deep the brackets of a JSON text are nested. The text need not be valid.
func jsonDepth(text []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// protoTooDeep reports whether a protobuf message nests deeper than limit. It knows no schema and takes for a message whatever
// parses as one; no text of any length parses as that many levels by chance. Groups are looked into as if they were inline.
func protoTooDeep(buf []byte, limit int) bool {
	if limit == 0 {
		return true
	}
	for len(buf) > 0 {
		tag, n := binary.Uvarint(buf)
		if n <= 0 || tag>>3 == 0 {
			return false
		}
		buf = buf[n:]
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(buf); n <= 0 {
				return false
			}
		case 1:
			n = 8
		case 2:
			size, m := binary.Uvarint(buf)
			if m <= 0 || size > uint64(len(buf)-m) {
				return false
			}
			n = m + int(size)
			if size > 1 && protoTooDeep(buf[m:n], limit-1) {
				return true
			}
		case 3, 4:
			n = 0
		case 5:
			n = 4
		default:
			return false
		}
		if n > len(buf) {
			return false
		}
		buf = buf[n:]
	}
	return false
}

// shallow reports whether a value is nested at most limit deep.
func shallow(v pcommon.Value, limit int) bool {
	switch v.Type() {
	case pcommon.ValueTypeMap:
		for _, item := range v.Map().All() {
			if limit == 0 || !shallow(item, limit-1) {
				return false
			}
		}
	case pcommon.ValueTypeSlice:
		for _, item := range v.Slice().All() {
			if limit == 0 || !shallow(item, limit-1) {
				return false
			}
		}
	}
	return true
}
