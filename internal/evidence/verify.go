package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/internal/ledger"
)

// Report is what the verification of a bundle found.
type Report struct {
	Files    int       `json:"files"`
	Records  int       `json:"records"`
	Size     int64     `json:"ledger_size"` // that the checkpoint is over
	OwnKey   bool      `json:"own_key"`     // the key came with the bundle, which proves only that all of it is of one piece
	Problems []string  `json:"problems"`
	LeftOut  []LeftOut `json:"left_out,omitempty"`
}

func (r *Report) wrong(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// bundleFiles is a bundle that was read: the hash and size of every file, and the text of those that are compared with others.
type bundleFiles struct {
	hash map[string]string
	size map[string]int64
	text map[string][]byte
}

// VerifyBundle reads a bundle and names everything in it that is not as it was exported. The key is that of the checkpoint, as it is
// known from elsewhere; without one the bundle's own is taken. An error means that it can't be read as a bundle at all.
func VerifyBundle(r io.Reader, key string) (Report, error) {
	files, err := readBundle(r)
	if err != nil {
		return Report{}, fmt.Errorf("read bundle: %w", err)
	}
	out := Report{Files: len(files.hash), OwnKey: key == ""}
	files.checkSums(&out)
	records := files.checkRecords(&out, key)
	files.checkExport(&out, records)
	files.checkCustody(&out, records)
	files.checkDecisions(&out, records)
	return out, nil
}

// kept reports whether the text of a file is needed.
func kept(name string) bool {
	return name == sumsFile || name == custodyFile || name == requestsFile || name == leftOutFile || strings.HasPrefix(name, ledgerFiles)
}

func readBundle(r io.Reader) (*bundleFiles, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	out := &bundleFiles{hash: make(map[string]string), size: make(map[string]int64), text: make(map[string][]byte)}
	archive, left := tar.NewReader(z), int64(MaxBundle)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, io.LimitReader(z, 1<<20)) // the checksum comes at the end
			return out, err
		}
		if err != nil {
			return nil, err
		}
		name := header.Name
		switch _, twice := out.hash[name]; {
		case header.Typeflag != tar.TypeReg || strings.HasPrefix(name, "/") || strings.Contains(name, ".."):
			return nil, fmt.Errorf("%.80q is no plain file of a bundle", name)
		case twice:
			return nil, fmt.Errorf("%.80q is there twice", name)
		case len(out.hash) == maxFiles || header.Size > left || kept(name) && header.Size > MaxBytes:
			return nil, fmt.Errorf("%.80q is over the bounds of a bundle", name)
		}
		left -= header.Size
		digest, text := sha256.New(), &bytes.Buffer{}
		into := io.Writer(digest)
		if kept(name) {
			into = io.MultiWriter(digest, text)
		}
		if out.size[name], err = io.Copy(into, io.LimitReader(archive, header.Size)); err != nil {
			return nil, fmt.Errorf("%.80q: %w", name, err)
		}
		out.hash[name] = hex.EncodeToString(digest.Sum(nil))
		if kept(name) {
			out.text[name] = text.Bytes()
		}
	}
}

// checkSums compares every file with the list of hashes.
func (f *bundleFiles) checkSums(out *Report) {
	listed := make(map[string]bool)
	for line := range strings.Lines(string(f.text[sumsFile])) {
		hash, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		switch got, there := f.hash[name]; {
		case !ok || listed[name] || name == sumsFile || strings.HasPrefix(name, ledgerFiles):
			out.wrong("%s: the line %.100q should not be there", sumsFile, line)
		case !there:
			out.wrong("%s: it is missing", name)
		case got != hash:
			out.wrong("%s: it was changed: its SHA-256 is %s, listed is %.64s", name, got, hash)
		}
		listed[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(f.hash)) {
		if !listed[name] && name != sumsFile && !strings.HasPrefix(name, ledgerFiles) {
			out.wrong("%s: it was added: no hash of it is listed", name)
		}
	}
}

// checkRecords verifies the checkpoint, and each record's proof. It returns the records that are proven.
func (f *bundleFiles) checkRecords(out *Report, key string) []ledger.Record {
	if key == "" {
		key = string(f.text[keyFile])
	}
	cp, err := ledger.OpenCheckpoint(f.text[checkpointFile], key)
	if err != nil {
		out.wrong("%s: %v", checkpointFile, err)
		return nil
	}
	out.Size = cp.Size
	if public, err := publicPEM(cp.Key); err != nil || !bytes.Equal(public, f.text[pemFile]) || strings.TrimSpace(string(f.text[keyFile])) != cp.Key {
		out.wrong("%s and %s: they are not the key that signed the checkpoint", keyFile, pemFile)
	}
	var proofs []Proof
	if err := json.Unmarshal(f.text[proofsFile], &proofs); err != nil {
		out.wrong("%s: %v", proofsFile, err)
	}
	var records []ledger.Record
	proven := map[string]bool{checkpointFile: true, keyFile: true, pemFile: true, proofsFile: true}
	for _, p := range proofs {
		name := recordFile(p.Seq)
		proven[name] = true
		r, err := f.record(name, cp, p)
		if err != nil {
			out.wrong("%s: %v", name, err)
			continue
		}
		records = append(records, r)
	}
	for _, name := range slices.Sorted(maps.Keys(f.text)) {
		if strings.HasPrefix(name, ledgerFiles) && !proven[name] {
			out.wrong("%s: it was added: no proof of it is there", name)
		}
	}
	out.Records = len(records)
	return records
}

// record reads a record and verifies that the checkpoint is over it.
func (f *bundleFiles) record(name string, cp ledger.Checkpoint, p Proof) (r ledger.Record, err error) {
	text, ok := f.text[name]
	if !ok {
		return r, errors.New("it is missing")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if r.Seq != p.Seq || f.hash[name] != p.Hash {
		return r, fmt.Errorf("it was changed: it is record %d of hash %s, the proof is of record %d of hash %.64s", r.Seq, f.hash[name], p.Seq, p.Hash)
	}
	return r, cp.Includes(p.Seq, f.hash[name], p.Hashes)
}

// checkExport looks for the record that holds the hash of the list of hashes.
func (f *bundleFiles) checkExport(out *Report, records []ledger.Record) {
	for _, r := range records {
		var body struct {
			Exported string `json:"exported"`
		}
		if r.Kind == ledger.KindEvidence && json.Unmarshal(r.Body, &body) == nil && body.Exported == f.hash[sumsFile] {
			return
		}
	}
	out.wrong("%s: no record of the ledger says that it was exported", sumsFile)
}

// checkCustody compares the artefacts with the custody list and that with the ledger.
func (f *bundleFiles) checkCustody(out *Report, records []ledger.Record) {
	var items []struct {
		SHA256, Name string
		Size         int64
	}
	if err := json.Unmarshal(f.text[custodyFile], &items); err != nil {
		out.wrong("%s: %v", custodyFile, err)
	}
	if err := json.Unmarshal(f.text[leftOutFile], &out.LeftOut); err != nil {
		out.wrong("%s: %v", leftOutFile, err)
	}
	recorded := make(map[string]bool)
	for _, r := range records {
		var sealed []struct{ SHA256 string }
		if r.Kind == ledger.KindEvidence && json.Unmarshal(r.Body, &sealed) == nil {
			for _, s := range sealed {
				recorded[s.SHA256] = true
			}
		}
	}
	for _, i := range items {
		name := artefacts + i.SHA256
		if f.hash[name] == "" && !slices.ContainsFunc(out.LeftOut, func(l LeftOut) bool { return l.SHA256 == i.SHA256 }) {
			out.wrong("%s: the artefact %.80q is missing", name, i.Name)
		}
		if hash := f.hash[name]; hash != "" && (hash != i.SHA256 || f.size[name] != i.Size) {
			out.wrong("%s: it is not the artefact %.80q that was sealed", name, i.Name)
		}
		if !recorded[i.SHA256] {
			out.wrong("%s: no record of the ledger says that the artefact %.80q of hash %.64s was sealed", custodyFile, i.Name, i.SHA256)
		}
	}
}

// checkDecisions looks for each vote and decision in the records.
func (f *bundleFiles) checkDecisions(out *Report, records []ledger.Record) {
	type request struct {
		ID       string            `json:"id"`
		Votes    []json.RawMessage `json:"votes"`
		Decision json.RawMessage   `json:"decision"`
	}
	var requests []request
	if err := json.Unmarshal(f.text[requestsFile], &requests); err != nil {
		out.wrong("%s: %v", requestsFile, err)
	}
	recorded := make(map[string]bool)
	for _, r := range records {
		var q request
		if json.Unmarshal(r.Body, &q) == nil {
			for _, d := range append(q.Votes, q.Decision) {
				recorded[q.ID+compact(d)] = true
			}
		}
	}
	for _, q := range requests {
		for _, d := range append(q.Votes, q.Decision) {
			if len(d) > 0 && !recorded[q.ID+compact(d)] {
				out.wrong("%s: no record of the ledger holds a decision of %.80s", requestsFile, q.ID)
			}
		}
	}
}

// compact is JSON without the space between its parts.
func compact(text json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return string(text)
	}
	return b.String()
}
