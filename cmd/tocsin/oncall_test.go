package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tocsin-dr/tocsin/internal/app"
	"github.com/tocsin-dr/tocsin/internal/auth"
	"github.com/tocsin-dr/tocsin/internal/ingest"
	"github.com/tocsin-dr/tocsin/testdata"
)

// served gives a story's Tocsin addresses of its own and people's password as a hash: OTLP, CONSOLE and HASH.
func served(e *testscript.Env) error {
	hash, err := auth.HashPassword("correct horse battery staple")
	if err != nil {
		return err
	}
	e.Setenv("HASH", hash)
	for _, name := range []string{"OTLP", "CONSOLE"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		e.Setenv(name+"_ADDRESS", l.Addr().String())
		e.Setenv(name, "http://"+l.Addr().String())
		if err := l.Close(); err != nil {
			return err
		}
	}
	e.Setenv("TOCSIN_SERVER", e.Getenv("CONSOLE"))
	return nil
}

// fill puts the environment's values into files.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
	}
}

// until runs a command until it prints what an expression matches, and keeps that, or its first group, in a variable.
func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[1])
	for end := time.Now().Add(2 * time.Minute); ; { // a busy machine is no failure
		err := ts.Exec(args[2], args[3:]...)
		if m := pattern.FindStringSubmatch(ts.ReadFile("stdout")); m != nil {
			ts.Setenv(args[0], m[len(m)-1])
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v printed nothing that %s matches: %v", args[2:], args[1], err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// attack waits until an address answers and sends recorded sessions there, the last beginning a moment ago.
func attack(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		file, err := testdata.Captures.Open("captures/" + name + ".jsonl")
		ts.Check(err)
		var requests []ingest.Request
		err = ingest.ReadCapture(file, func(r ingest.Request) error { requests = append(requests, r); return nil })
		file.Close()
		ts.Check(err)
		requests, err = app.Spread(requests, time.Now().Add(-time.Second), 20*time.Minute)
		ts.Check(err)
		for _, r := range requests {
			ts.Check(posted(args[0], r))
		}
	}
}

func posted(address string, r ingest.Request) error {
	for end := time.Now().Add(time.Minute); ; {
		response, err := http.Post(address+r.Path, r.ContentType, bytes.NewReader(r.Body))
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if err == nil && response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(end) {
			return err
		}
		<-time.After(100 * time.Millisecond)
	}
}
