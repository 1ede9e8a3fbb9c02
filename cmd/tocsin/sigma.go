package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/sigma"
)

type rulesImportCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Files with Sigma rules and correlation rules. They may refer to each other."`
	Out   string   `type:"existingdir" help:"Write each rule into this directory, as its id and .yaml. No file is replaced. Without it, the rules are printed."`
	JSON  bool     `help:"Print the rules and the problems as JSON."`
}

// Run implements the command. Exit code 1 if a document can't keep its meaning here; the others are imported all the same.
func (c *rulesImportCmd) Run(std *stdio) error {
	files := make([]sigma.File, 0, len(c.Files))
	for _, name := range c.Files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, sigma.File{Name: name, Text: text})
	}
	library, err := detect.ReadLibrary()
	if err != nil {
		return err
	}
	result := sigma.Import(files, library)
	if err := c.write(result.Rules); err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(std.out, result)
	} else {
		c.report(std, result)
	}
	if err == nil && result.Refused > 0 {
		err = exitError{1}
	}
	return err
}

// write puts each rule into a file of its own. A file that is there may have been reviewed, and stays.
func (c *rulesImportCmd) write(rules []sigma.Rule) error {
	for _, r := range rules {
		if c.Out == "" {
			break
		}
		f, err := os.OpenFile(filepath.Join(c.Out, r.ID+".yaml"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.WriteString(r.Text); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (c *rulesImportCmd) report(std *stdio, result sigma.Result) {
	for _, r := range result.Rules {
		if c.Out == "" {
			fmt.Fprintf(std.out, "---\n%s", r.Text)
			continue
		}
		fmt.Fprintf(std.out, "%s: no tests: stays in the lane shadow until it has some, then %s\n", filepath.Join(c.Out, r.ID+".yaml"), r.Lane)
	}
	for _, p := range result.Problems {
		fmt.Fprintln(std.err, "tocsin:", visible(p.Error()))
	}
	inner := ""
	if n := result.Documents - result.Refused - len(result.Rules); n > 0 {
		inner = fmt.Sprintf(", %d for correlations alone", n)
	}
	fmt.Fprintf(std.err, "tocsin: %d of %d documents became rules, %d refused%s\n", len(result.Rules), result.Documents, result.Refused, inner)
}
