package ingest

import (
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A request is decoded as a whole or not at all: one span whose id has the wrong length would cost all the others. A request that can't be
// decoded is therefore taken apart into requests of one item each, which are decoded by themselves.

// Bounds on what one request is taken apart into: each item carries a copy of what was around it.
const (
	maxSingles     = 10_000
	maxSingleBytes = 64 << 20
)

// errSingles says that a request is too much to be taken apart.
var errSingles = fmt.Errorf("take request apart: more than %d items, or %d bytes with what is around each", maxSingles, maxSingleBytes)

// The parts of a request, outermost first, as OTLP's JSON names them; the last are the items. In protobuf the parts of spans and of log
// records have the same numbers.
func spanParts() []string { return []string{"resourceSpans", "scopeSpans", "spans"} }
func logParts() []string  { return []string{"resourceLogs", "scopeLogs", "logRecords"} }

// salvage decodes the items of a request one by one and returns those that can't be decoded. Where none can, or the request can't be
// taken apart, the cause is why the whole could not be decoded.
func salvage(cause error, body []byte, contentType string, parts []string, take func([]byte) error) ([]Rejection, error) {
	singles, err := singlesProto(body, firstPart, len(parts))
	if contentType == typeJSON {
		singles, err = singlesJSON(body, parts)
	}
	if errors.Is(err, errSingles) {
		return nil, err
	}
	if err != nil {
		return nil, cause
	}
	var bad []Rejection
	for i, one := range singles {
		if failed := take(one); failed != nil {
			bad = append(bad, Rejection{Item: fmt.Sprintf("%s %d", parts[len(parts)-1], i+1), Reason: failed.Error()})
		}
	}
	if len(bad) == len(singles) {
		return nil, cause
	}
	return bad, nil
}

func single(list [][]byte, one []byte) ([][]byte, error) {
	list = append(list, one)
	if len(list) > maxSingles || len(list)*len(one) > maxSingleBytes {
		return nil, errSingles
	}
	return list, nil
}

// singlesJSON wraps each item in what was around it.
func singlesJSON(body []byte, parts []string) (out [][]byte, err error) {
	if len(parts) == 0 {
		return [][]byte{body}, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, fmt.Errorf("take request apart: %w", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(object[parts[0]], &list); err != nil {
		return nil, fmt.Errorf("take request apart: %s: %w", parts[0], err)
	}
	for _, item := range list {
		inner, err := singlesJSON(item, parts[1:])
		switch {
		case errors.Is(err, errSingles):
			return nil, err
		case err != nil:
			inner = [][]byte{item} // it is refused by itself
		}
		for _, one := range inner {
			object[parts[0]] = json.RawMessage("[" + string(one) + "]")
			whole, err := json.Marshal(object)
			if err != nil {
				return nil, fmt.Errorf("take request apart: %w", err)
			}
			if out, err = single(out, whole); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// The field numbers of a request's parts, and of the parts within a part.
const (
	firstPart  = 1
	secondPart = 2
)

// singlesProto does the same with a protobuf message whose parts have a number, depth parts deep.
func singlesProto(body []byte, number protowire.Number, depth int) (out [][]byte, err error) {
	if depth == 0 {
		return [][]byte{body}, nil
	}
	var around []byte
	var list [][]byte
	for len(body) > 0 {
		num, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil, fmt.Errorf("take request apart: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(num, kind, body[n:])
		if size < 0 {
			return nil, fmt.Errorf("take request apart: %w", protowire.ParseError(size))
		}
		if num == number && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(body[n:])
			list = append(list, value)
		} else {
			around = append(around, body[:n+size]...)
		}
		body = body[n+size:]
	}
	for _, item := range list {
		inner, err := singlesProto(item, secondPart, depth-1)
		switch {
		case errors.Is(err, errSingles):
			return nil, err
		case err != nil:
			inner = [][]byte{item} // it is refused by itself
		}
		for _, one := range inner {
			whole := protowire.AppendTag(append([]byte(nil), around...), number, protowire.BytesType)
			if out, err = single(out, protowire.AppendBytes(whole, one)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
