package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func chain(t *testing.T, n int) []Record {
	t.Helper()
	var out []Record
	prev := Record{}
	for i := range n {
		r, err := Seal(Record{
			At: time.Date(2026, 3, 1, 12, 0, i, 123456789, time.FixedZone("", 3600)), Kind: KindDecision, Actor: "ada\xff\x00",
			Subject: fmt.Sprintf("INC-%d", i), Body: json.RawMessage(`{ "text": "<a & b>\u2028\u0000` + "\xfe" + `" }`), Key: fmt.Sprint(i),
		}, prev.Seq+1, prev.Hash)
		if err != nil {
			t.Fatal(err)
		}
		out, prev = append(out, r), r
	}
	return out
}

func verify(records []Record) error {
	prev := Record{}
	for _, r := range records {
		if err := Verify(r, prev); err != nil {
			return err
		}
		prev = r
	}
	return nil
}

func TestChain(t *testing.T) {
	records := chain(t, 5)
	if err := verify(records); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as a database gives it back
		for i, r := range records {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if !utf8.Valid(text) {
				t.Errorf("no database keeps %q as text", text)
			}
			records[i] = Record{}
			if err := json.Unmarshal(text, &records[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := verify(records); err != nil {
			t.Fatalf("after a round trip: %v", err)
		}
	}
	if r, err := Seal(Record{Body: json.RawMessage("{")}, 1, ""); err == nil {
		t.Errorf("sealed a body that is no JSON: %+v", r)
	}
}

func TestTampering(t *testing.T) {
	changes := map[string]func(r *Record){
		"seq": func(r *Record) { r.Seq++ }, "time": func(r *Record) { r.At = r.At.Add(time.Microsecond) },
		"kind": func(r *Record) { r.Kind = KindRefusal }, "actor": func(r *Record) { r.Actor = "bob" },
		"subject": func(r *Record) { r.Subject = "INC-9" }, "body": func(r *Record) { r.Body = json.RawMessage(`{}`) },
		"no body": func(r *Record) { r.Body = nil }, "key": func(r *Record) { r.Key = "" },
		"prev": func(r *Record) { r.Prev = "" }, "hash": func(r *Record) { r.Hash = r.Prev },
	}
	for name, change := range changes {
		records := chain(t, 5)
		change(&records[2])
		if verify(records) == nil {
			t.Errorf("nobody sees a changed %s", name)
		}
	}
	records := chain(t, 5)
	records[2].Actor = "bob"
	var err error
	if records[2], err = Seal(records[2], records[2].Seq, records[2].Prev); err != nil {
		t.Fatal(err)
	}
	if verify(records) == nil {
		t.Error("nobody sees a record that was changed and sealed anew")
	}
}

func TestOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		whole := chain(t, rapid.IntRange(2, 12).Draw(rt, "n"))
		records := rapid.Permutation(whole).Draw(rt, "order")
		records = records[:rapid.IntRange(1, len(records)).Draw(rt, "kept")]
		same := func(a, b Record) bool { return a.Hash == b.Hash }
		// A chain that lost its last records is still a chain: only its length, kept elsewhere, tells.
		if intact := slices.EqualFunc(records, whole[:len(records)], same); (verify(records) == nil) != intact {
			rt.Fatalf("intact is %v: %v", intact, verify(records))
		}
	})
}
