package event

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// wireEvent draws events with every field set, or not, or set to something long.
func wireEvent(t *rapid.T) (e Event) {
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		if rapid.IntRange(0, 3).Draw(t, "unset") == 0 {
			return
		}
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(rapid.Int64().Draw(t, "int"))
		case reflect.Uint64:
			v.SetUint(rapid.Uint64().Draw(t, "uint"))
		case reflect.String:
			v.SetString(rapid.StringN(0, 300, 300).Draw(t, "string"))
		case reflect.Map:
			v.Set(reflect.ValueOf(rapid.MapOfN(rapid.String(), rapid.String(), 1, 30).Draw(t, "map")))
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(1, 30).Draw(t, "length"), 30))
			for i := range v.Len() {
				fill(v.Index(i))
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				v.Set(reflect.ValueOf(time.Unix(rapid.Int64Range(1e9, 5e9).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds")).UTC()))
				return
			}
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		default:
			t.Fatalf("no values for %s", v.Type())
		}
	}
	fill(reflect.ValueOf(&e).Elem())
	return e
}

// What AppendAll writes is what the library writes, and ReadAll reads of it what the library reads.
func TestWireIsTheLibrarys(t *testing.T) {
	codec, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	room := NewRoom()
	rapid.Check(t, func(t *rapid.T) {
		events := make([]Event, rapid.IntRange(0, 3).Draw(t, "events"))
		for i := range events {
			events[i] = wireEvent(t)
		}
		want, err := codec.Marshal(events)
		if err != nil {
			t.Fatal(err)
		}
		got := codec.AppendAll([]byte("before"), events[:len(events)/2], events[len(events)/2:])
		if !bytes.Equal(want, got[len("before"):]) {
			t.Fatalf("%q, want %q", got, want)
		}
		var read []Event
		if err := codec.Unmarshal(want, &read); err != nil {
			t.Fatal(err)
		}
		own, ok := codec.ReadAll(room, want)
		if timed := !slices.ContainsFunc(events, func(e Event) bool { return e.Time.IsZero() }); ok != timed { // an event of the log has a time
			t.Fatalf("what was written is read: %v, want %v", ok, timed)
		}
		if diff := cmp.Diff(read, own); ok && diff != "" {
			t.Fatal(diff)
		}
	})
}

// Of any other bytes it takes none, or reads in them what the library does.
func FuzzReadAll(f *testing.F) {
	codec, err := NewCodec()
	if err != nil {
		f.Fatal(err)
	}
	full := Event{
		ID: "e", Schema: 1, Kind: KindToolResult, Time: time.Unix(1, 2).UTC(), Seq: -3, Agent: Agent{ID: "a/b", Ancestors: []string{"c"}}, Trace: Trace{TraceID: "t"},
		Tool:  &Tool{Name: "n", Args: []Arg{{Path: "p", Value: "v", Tokens: Hashes{1, 1 << 40}}}, Result: Content{Text: "r", Signs: Signs{Hidden: true}}},
		Attrs: map[string]string{"k": "v", "kk": ""}, Content: []Content{{Role: "prompt"}}, Destinations: []Destination{{Kind: "host"}},
	}
	f.Add(codec.AppendAll(nil, []Event{full, {ID: "x", Time: time.Unix(5, 0).UTC()}}))
	f.Add([]byte{0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	room := NewRoom()
	f.Fuzz(func(t *testing.T, data []byte) {
		own, ok := codec.ReadAll(room, data)
		if !ok {
			return
		}
		var want []Event
		if err := codec.Unmarshal(data, &want); err != nil {
			t.Fatalf("the library refuses what is read: %v", err)
		}
		if diff := cmp.Diff(want, own); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Texts that share memory stay what they were while later batches are read into the same room.
func TestLongTextsStay(t *testing.T) {
	codec, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	room, text := NewRoom(), func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1+i*997%(textsRoom/2)) }
	var got []string
	for i := range 200 {
		batch := []Event{{ID: "e", Time: time.Unix(1e9, 0).UTC(), Tool: &Tool{Name: "t", Args: []Arg{{Path: "p", Value: text(i)}}, Result: Content{Text: text(i + 1)}}}}
		events, ok := codec.ReadAll(room, codec.AppendAll(nil, batch))
		if !ok {
			t.Fatal("a batch can't be read")
		}
		got = append(got, events[0].Tool.Args[0].Value, events[0].Tool.Result.Text)
	}
	for i := range 200 {
		if got[2*i] != text(i) || got[2*i+1] != text(i+1) {
			t.Fatalf("the texts of batch %d changed", i)
		}
	}
}
