package ui

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// chromium is a headless browser that was not started yet. It does not outlive the test.
func chromium(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium in PATH")
	}
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--enable-logging=stderr", "--v=0",
	}, args...)
	dir, err := os.MkdirTemp("", "chromium") // t.TempDir would fail where a child of the browser still writes
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, program, append([]string{"--user-data-dir=" + dir}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	t.Cleanup(func() { cancel(); os.RemoveAll(dir) })
	return cmd
}

// browser shows one page in Chromium and returns what the browser wrote and logged.
func browser(t *testing.T, args ...string) (out, log string) {
	t.Helper()
	cmd := chromium(t, append([]string{"--hide-scrollbars", "--timeout=4000"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

// serve puts the console on a port, as a reader of the given theme sees it.
func (b *bench) serve(t *testing.T, theme string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if theme != "" {
			r.AddCookie(&http.Cookie{Name: "theme", Value: theme})
		}
		b.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

func TestBrowser(t *testing.T) {
	b := newBench(t, nil)
	at := b.serve(t, "")
	for _, path := range pages(bot) {
		if path == "/nothing" || strings.Contains(path, "refused") {
			continue // the browser logs their status
		}
		dom, log := browser(t, "--dump-dom", at+path)
		if !strings.Contains(dom, "<h1>") && !strings.Contains(dom, "<h1 ") {
			t.Errorf("%s: the page has no heading", path)
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, "CONSOLE") {
				t.Errorf("%s: %s", path, line)
			}
		}
	}
}

// TestBrowserNotices leaves an incident's page open: the module runs under the policy, and three seconds in view are a notice.
func TestBrowserNotices(t *testing.T) {
	b := newBench(t, nil)
	b.actor.told = make(chan string, 8)
	cmd := chromium(t, "--remote-debugging-port=0", b.serve(t, "")+"/incidents/"+incID)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-b.actor.told:
		if got != "notice ana "+incID {
			t.Errorf("the browser did %q", got)
		}
	case <-time.After(40 * time.Second):
		t.Error("the browser sent no notice")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait() // it was killed
}

// TestBrowserWithoutModule loads a page whose module never comes. (--dump-dom itself needs scripts to be on.)
func TestBrowserWithoutModule(t *testing.T) {
	b := newBench(t, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".js") {
			http.NotFound(w, r)
			return
		}
		b.ServeHTTP(w, r)
	}))
	defer s.Close()
	dom, _ := browser(t, "--dump-dom", s.URL+"/incidents/"+incID)
	for _, want := range []string{`action="/approvals/` + reqID + `/decide"`, `name="digest"`, "I have seen this", "3 min 41 s"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// TestShots writes pictures of the pages for people to look at: TOCSIN_SHOTS=<folder> go test -run Shots ./ui
func TestShots(t *testing.T) {
	dir := os.Getenv("TOCSIN_SHOTS")
	if dir == "" {
		t.Skip("TOCSIN_SHOTS names no folder")
	}
	b := newBench(t, nil)
	b.withKeys(t)
	b.breakGlass(t)
	b.stepUp(t)
	b.role = approval.Admin
	light, dark := b.serve(t, "light"), b.serve(t, "dark")
	for name, path := range map[string]string{
		"overview": "/", "approvals": "/approvals", "approval": "/approvals/" + reqID, "incidents": "/incidents", "incident": "/incidents/" + incID,
		"contained": "/incidents/INC-139bbbbb", "agents": "/agents", "agent": "/agents?id=" + bot, "rules": "/rules", "audit": "/audit", "health": "/health", "keys": "/keys", "glass": "/approvals/REQ-glass", "sign-in": "/sign-in?refused=wrong",
	} {
		if only := os.Getenv("TOCSIN_SHOT"); only != "" && only != name {
			continue
		}
		shot := func(suffix, url, size string) {
			browser(t, "--window-size="+size, "--screenshot="+filepath.Join(dir, name+suffix+".png"), url+path)
		}
		shot("", light, "1280,1000")
		shot("-phone", light, "390,844")
		if slices.Contains([]string{"incident", "overview", "approvals", "approval", "agent", "health", "keys", "glass"}, name) {
			shot("-tall", light, "1280,2600")
			shot("-wide", light, "1600,1100")
			shot("-dark", dark, "1280,1000")
		}
	}
}
