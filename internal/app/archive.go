package app

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"path"
)

// maxRuleFiles bounds the files of rules together, in bytes: they are kept in memory, and handed out to who compares rules with them.
const maxRuleFiles = 64 << 20

// The directories of an archive of rules.
const (
	archiveShipped = "shipped"
	archiveOwn     = "own"
)

// packRules puts the files that rules are read from into an archive: the shipped ones, and those of another directory, if it is not nil.
func packRules(shipped, own fs.FS) ([]byte, error) {
	var out bytes.Buffer
	archive, size := zip.NewWriter(&out), 0
	for _, dir := range []struct {
		name string
		from fs.FS
	}{{archiveShipped, shipped}, {archiveOwn, own}} {
		if dir.from == nil {
			continue
		}
		if _, err := archive.Create(dir.name + "/"); err != nil { // it may hold no file
			return nil, fmt.Errorf("pack rules: %w", err)
		}
		if err := packDir(archive, dir.name, dir.from, &size); err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("pack rules: %w", err)
	}
	return out.Bytes(), nil
}

// packDir packs what may be a rule or a part of the library. A .yml file is packed too, so that it is refused and not left out.
func packDir(archive *zip.Writer, into string, from fs.FS, size *int) error {
	return fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if ext := path.Ext(name); err != nil || d.IsDir() || ext != ".yaml" && ext != ".yml" {
			return err
		}
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		if *size += len(text); *size > maxRuleFiles {
			return fmt.Errorf("%s: more than %d MiB of rules and tables together: take some out", name, maxRuleFiles>>20)
		}
		w, err := archive.Create(into + "/" + name)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}

// UnpackRules reads the rules of an archive.
func UnpackRules(archive []byte) (RuleFiles, error) {
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return RuleFiles{}, fmt.Errorf("unpack rules: %w", err)
	}
	var size uint64
	for _, f := range r.File {
		size += f.UncompressedSize64 // zip.Reader reads no more of a file than it says
	}
	if size > maxRuleFiles {
		return RuleFiles{}, fmt.Errorf("unpack rules: more than %d MiB", maxRuleFiles>>20)
	}
	shipped, err := fs.Sub(r, archiveShipped)
	if err != nil {
		return RuleFiles{}, fmt.Errorf("unpack rules: %w", err)
	}
	dirs := []fs.FS{shipped}
	if _, err := fs.Stat(r, archiveOwn); err == nil {
		own, err := fs.Sub(r, archiveOwn)
		if err != nil {
			return RuleFiles{}, fmt.Errorf("unpack rules: %w", err)
		}
		dirs = append(dirs, own)
	}
	return readRuleDirs(dirs...)
}
