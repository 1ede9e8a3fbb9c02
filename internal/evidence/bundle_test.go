package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// table is a ledger in memory.
type table []ledger.Record

// LedgerAfter implements ledger.Rows.
func (t table) LedgerAfter(_ context.Context, seq int64, limit int) ([]ledger.Record, error) {
	from := min(int(seq), len(t))
	return t[from:min(from+limit, len(t))], nil
}

func (t *table) append(tb testing.TB, kind, subject string, body any) {
	tb.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	prev := ledger.Record{}
	if n := len(*t); n > 0 {
		prev = (*t)[n-1]
	}
	r, err := ledger.Seal(ledger.Record{At: time.Unix(1, 0), Kind: kind, Actor: "ada", Subject: subject, Body: text}, prev.Seq+1, prev.Hash)
	if err != nil {
		tb.Fatal(err)
	}
	*t = append(*t, r)
}

const decision = `{"verb":"approve","reason":"<seen> & understood","by":{"id":"ada"}}`

// whole is a bundle with the key that verifies it.
func whole(t *testing.T) (bundle []byte, key string) {
	t.Helper()
	var out bytes.Buffer
	b, err := NewBundle(&out, time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	artefact, lost := []byte("incriminating"), sum([]byte("lost"))
	custody := []map[string]any{{"sha256": sum(artefact), "name": "events.jsonl", "size": len(artefact)}, {"sha256": lost, "name": "baseline.json", "size": 4}}
	request := map[string]any{"id": "INC-1-R1", "decision": json.RawMessage(decision)}
	for name, v := range map[string]any{"incident.json": "INC-1", custodyFile: custody, requestsFile: []any{request}, leftOutFile: []LeftOut{{Name: "baseline.json", SHA256: lost, Size: 4, Why: "lost"}}} {
		if err := b.AddJSON(name, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.AddArtefact(artefact); err != nil {
		t.Fatal(err)
	}
	sums, err := b.Sums()
	if err != nil {
		t.Fatal(err)
	}
	var rows table
	rows.append(t, ledger.KindSignIn, "ada", nil)
	rows.append(t, ledger.KindEvidence, "INC-1", custody)
	rows.append(t, ledger.KindDecision, "INC-1-R1", request)
	rows.append(t, ledger.KindEvidence, "INC-1", map[string]string{"exported": sums})
	rows.append(t, ledger.KindSignIn, "bob", nil)
	k, err := ledger.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cp, proofs := prove(t, k, rows, rows[1:4])
	if err := b.Records(rows[1:4], cp, proofs); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), k.Public
}

func prove(t *testing.T, k ledger.Key, rows table, of []ledger.Record) (cp ledger.Checkpoint, proofs []Proof) {
	t.Helper()
	a, err := ledger.OpenAnchor(t.Context(), t.TempDir(), k, rows, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if cp, err = a.Await(t.Context(), int64(len(rows))); err != nil {
		t.Fatal(err)
	}
	for _, r := range of {
		hashes, err := a.Inclusion(t.Context(), cp, r.Seq)
		if err != nil {
			t.Fatal(err)
		}
		proofs = append(proofs, Proof{Seq: r.Seq, Hash: r.Hash, Hashes: hashes})
	}
	return cp, proofs
}

// entry is a file of a bundle.
type entry struct {
	name string
	data []byte
}

func unpack(t *testing.T, bundle []byte) (out []entry) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(bundle))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(z); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, entry{header.Name, data})
	}
}

func pack(t *testing.T, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	archive := tar.NewWriter(z)
	for _, e := range entries {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o600, Size: int64(len(e.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// resum makes the list of hashes anew, as one would who changes files.
func resum(entries []entry) []entry {
	var sums strings.Builder
	for _, e := range entries {
		if e.name != sumsFile && !strings.HasPrefix(e.name, ledgerFiles) {
			fmt.Fprintf(&sums, "%s  %s\n", sum(e.data), e.name)
		}
	}
	for i := range entries {
		if entries[i].name == sumsFile {
			entries[i].data = []byte(sums.String())
		}
	}
	return entries
}

func TestBundle(t *testing.T) {
	bundle, key := whole(t)
	for _, k := range []string{key, ""} {
		got, err := VerifyBundle(bytes.NewReader(bundle), k)
		if err != nil || len(got.Problems) > 0 || got.Records != 3 || got.Size != 5 || len(got.LeftOut) != 1 || got.OwnKey != (k == "") {
			t.Errorf("with key %q: %+v, %v", k, got, err)
		}
	}
}

func TestBundleTampering(t *testing.T) {
	bundle, key := whole(t)
	artefact := artefacts + sum([]byte("incriminating"))
	change := func(name, from, to string) func([]entry) []entry {
		return func(entries []entry) []entry {
			i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
			changed := bytes.Replace(entries[i].data, []byte(from), []byte(to), 1)
			if bytes.Equal(changed, entries[i].data) {
				t.Fatalf("%s does not hold %q", name, from)
			}
			entries[i].data = changed
			return entries
		}
	}
	remove := func(name string) func([]entry) []entry {
		return func(entries []entry) []entry {
			return slices.DeleteFunc(entries, func(e entry) bool { return e.name == name })
		}
	}
	add := func(name string) func([]entry) []entry {
		return func(entries []entry) []entry { return append(entries, entry{name, []byte("{}")}) }
	}
	anew := func(harm func([]entry) []entry) func([]entry) []entry {
		return func(entries []entry) []entry { return resum(harm(entries)) }
	}
	unrecorded := "no record of the ledger says that it was exported"
	tests := []struct {
		name string
		harm func([]entry) []entry
		want string
	}{
		{"file changed", change("incident.json", "INC-1", "INC-2"), "incident.json: it was changed"},
		{"file changed, hashes made anew", anew(change("incident.json", "INC-1", "INC-2")), unrecorded},
		{"file removed", remove("incident.json"), "incident.json: it is missing"},
		{"file removed, hashes made anew", anew(remove("incident.json")), unrecorded},
		{"file added", add("other.json"), "other.json: it was added"},
		{"file added, hashes made anew", anew(add("other.json")), unrecorded},
		{"artefact changed", change(artefact, "incr", "d"), artefact + ": it was changed"},
		{"artefact changed, hashes made anew", anew(change(artefact, "incr", "d")), artefact + ": it is not the artefact"},
		{"artefact removed, hashes made anew", anew(remove(artefact)), "the artefact \"events.jsonl\" is missing"},
		{"custody changed", anew(change(custodyFile, sum([]byte("lost")), sum([]byte("other")))), "custody.json: no record of the ledger says"},
		{"custody removed", anew(remove(custodyFile)), "custody.json: unexpected end"},
		{"left out changed", anew(change(leftOutFile, sum([]byte("lost")), sum([]byte("other")))), "\"baseline.json\" is missing"},
		{"decision changed", anew(change(requestsFile, "ada", "eve")), "requests.json: no record of the ledger holds a decision of INC-1-R1"},
		{"hashes made anew of the same files", func(e []entry) []entry { return resum(slices.Clone(e))[:len(e)] }, ""},
		{"hash list names a record", change(sumsFile, "README.md", keyFile), "should not be there"},
		{"record changed", change(recordFile(3), "ada", "eve"), recordFile(3) + ": it was changed"},
		{"record removed", remove(recordFile(3)), recordFile(3) + ": it is missing"},
		{"record added", add(recordFile(9)), recordFile(9) + ": it was added"},
		{"proof changed", change(proofsFile, `"seq": 3`, `"seq": 5`), recordFile(5) + ": it is missing"},
		{"proof removed", remove(proofsFile), "ledger/proofs.json: unexpected end"},
		{"checkpoint changed", change(checkpointFile, "\n5\n", "\n6\n"), "ledger/checkpoint: read checkpoint"},
		{"checkpoint removed", remove(checkpointFile), "ledger/checkpoint: read checkpoint"},
		{"key changed", change(keyFile, "tocsin-", "tocsim-"), "they are not the key"},
		{"key for openssl changed", change(pemFile, "M", "N"), "they are not the key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := VerifyBundle(bytes.NewReader(pack(t, tt.harm(unpack(t, bundle)))), key)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(got.Problems, func(p string) bool { return strings.Contains(p, tt.want) })
			if tt.want == "" && len(got.Problems) > 0 || tt.want != "" && !found {
				t.Errorf("found %q, want %q", got.Problems, tt.want)
			}
		})
	}
	other, _ := whole(t)
	if got, err := VerifyBundle(bytes.NewReader(other), key); err != nil || len(got.Problems) == 0 {
		t.Errorf("a bundle under another key is in order: %+v, %v", got, err)
	}
}

func TestBundleUnreadable(t *testing.T) {
	bundle, key := whole(t)
	entries := unpack(t, bundle)
	for name, text := range map[string][]byte{
		"no archive": []byte("nothing"), "cut": bundle[:len(bundle)/2], "cut at its end": bundle[:len(bundle)-4],
		"twice": pack(t, append(entries, entries[0])), "outside": pack(t, append(entries, entry{"../outside", nil})), "absolute": pack(t, append(entries, entry{"/etc/passwd", nil})),
	} {
		if got, err := VerifyBundle(bytes.NewReader(text), key); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	b, err := NewBundle(io.Discard, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	b.bytes = MaxBundle
	if b.Add("one more", []byte("x")) == nil {
		t.Error("a bundle over its bound is written")
	}
}

// TestBundleReadme does what the bundle's page says with the tools that it names.
func TestBundleReadme(t *testing.T) {
	for _, tool := range []string{"sh", "tar", "sha256sum", "openssl", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not there", tool)
		}
	}
	bundle, _ := whole(t)
	var script strings.Builder
	for line := range strings.Lines(string(readme)) {
		if command, ok := strings.CutPrefix(line, "       "); ok {
			script.WriteString(command)
		}
	}
	if strings.Count(script.String(), "\n") != 5 {
		t.Fatalf("the page says other commands:\n%s", script.String())
	}
	run := func(bundle []byte) error {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "bundle.tar.gz"), bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", "tar xzf bundle.tar.gz\n"+script.String())
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := run(bundle); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"incident.json", sumsFile, checkpointFile} {
		entries := unpack(t, bundle)
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
		entries[i].data[3] ^= 1
		if run(pack(t, entries)) == nil {
			t.Errorf("the tools take a changed %s", name)
		}
	}
}

func FuzzVerifyBundle(f *testing.F) {
	f.Add([]byte("nothing"))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := VerifyBundle(bytes.NewReader(text), ""); err == nil && len(got.Problems) == 0 {
			t.Errorf("%q is a bundle in order", text)
		}
	})
}
