package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// asTocsin makes the test binary behave as the program, so that documents can be run without building it again.
const asTocsin = "TOCSIN_TEST_AS_PROGRAM"

// TestProgram is the program itself when another test runs it, and nothing otherwise.
func TestProgram(t *testing.T) {
	if os.Getenv(asTocsin) == "" {
		t.Skip("runs only as the program of other tests")
	}
	args := os.Args[slices.Index(os.Args, "--")+1:]
	os.Exit(run(t.Context(), args, os.Stdin, os.Stdout, os.Stderr))
}

// elsewhere are the commands of documents that are not run here, because they build or test everything or never end: the first
// is the demonstration, which this test runs, the others are what continuous integration does.
var elsewhere = []string{"go run ./cmd/tocsin demo", "go test ./...", "go build -o tocsin ./cmd/tocsin", "./tocsin run"}

// TestDocuments runs the shell commands that documents show, in order, against a running demonstration.
func TestDocuments(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the whole program")
	}
	env := demonstration(t)
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, file := range append([]string{"../../README.md", "../../CONTRIBUTING.md", "../../SECURITY.md"}, files...) {
		for _, command := range shellCommands(t, file) {
			if slices.Contains(elsewhere, command) || strings.HasPrefix(command, "make ") || strings.HasPrefix(command, "go test ") {
				continue
			}
			ran++
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Dir, cmd.Env = "../..", env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", filepath.Base(file), command, err, out)
			}
		}
	}
	if ran < 10 {
		t.Errorf("%d commands were found in the documents, want at least 10", ran)
	}
}

// shellCommands returns the lines of a document's sh blocks.
func shellCommands(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllSubmatch(text, -1) {
		for line := range strings.Lines(string(block[1])) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

// demonstration starts the program's demonstration and returns the environment that documents speak of.
func demonstration(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q -test.run '^TestProgram$' -- \"$@\"\n", asTocsin, self)
	program := filepath.Join(dir, "bin", "tocsin")
	if err := os.Mkdir(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	demo := exec.CommandContext(t.Context(), program, "demo", "--data", filepath.Join(dir, "data"))
	demo.Env = env
	demo.Cancel = func() error { return demo.Process.Signal(os.Interrupt) }
	demo.WaitDelay = 20 * time.Second
	stderr, err := demo.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = demo.Wait() }) // it is interrupted with the test's context
	said := ""
	for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
		said += scanner.Text() + "\n"
		if strings.Contains(said, "Stop with Ctrl-C.") {
			return append(env, append(spokenOf(t, said), "DATA="+filepath.Join(dir, "data"), "OUT="+dir)...)
		}
	}
	t.Fatalf("the demonstration did not ask for a decision:\n%s", said)
	return nil
}

// spokenOf reads addresses and names out of what the demonstration says.
func spokenOf(t *testing.T, said string) []string {
	t.Helper()
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("the demonstration does not say %s:\n%s", pattern, said)
		}
		return m[1]
	}
	return []string{
		"TOCSIN_SERVER=" + find(`--server (http://\S+)`), "TOCSIN_GATE=" + find(`--gate (http://\S+)`), "TOCSIN_PASSWORD=" + find(`password (\w+)\)`),
		"INCIDENT=" + find(`(INC-\w+)  `), "REQUEST=" + find(`(INC-\w+-R\d+)`), "AGENT=" + find(`--agent (\S+)`), "DIGEST=" + find(`digest (\w+)`),
	}
}
