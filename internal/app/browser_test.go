package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tocsin-dr/tocsin/internal/approval"
)

// chrome is a page of a headless browser, steered by the Chrome DevTools Protocol.
type chrome struct {
	*running
	page *websocket.Conn
	sent int
}

func (h *running) chrome() *chrome {
	h.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		h.Skip("there is no chromium in PATH")
	}
	dir, err := os.MkdirTemp("", "chromium") // h.TempDir would fail where a child of the browser still writes
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--remote-debugging-port=0", "--user-data-dir="+dir)
	cmd.WaitDelay = 5 * time.Second
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { cancel(); _ = cmd.Wait(); os.RemoveAll(dir) })
	address := ""
	for lines := bufio.NewScanner(log); address == "" && lines.Scan(); {
		_, address, _ = strings.Cut(lines.Text(), "DevTools listening on ws://")
	}
	address, _, _ = strings.Cut(address, "/")
	var target struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address+"/json/new", nil)
	if err != nil {
		h.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&target); err != nil {
		h.Fatal(err)
	}
	c := &chrome{running: h}
	if c.page, _, err = websocket.DefaultDialer.DialContext(ctx, target.URL, nil); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.page.Close() })
	return c
}

// do calls a method of the protocol and returns its result.
func (c *chrome) do(method string, params any) json.RawMessage {
	c.Helper()
	result, problem := c.call(method, params)
	if problem != "" {
		c.Fatalf("%s: %s", method, problem)
	}
	return result
}

// call does what do does, and returns what the browser says of a failure.
func (c *chrome) call(method string, params any) (result json.RawMessage, problem string) {
	c.Helper()
	c.sent++
	if err := c.page.WriteJSON(map[string]any{"id": c.sent, "method": method, "params": params}); err != nil {
		c.Fatal(err)
	}
	for {
		var answer struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := c.page.ReadJSON(&answer); err != nil {
			c.Fatal(err)
		}
		if answer.ID == c.sent {
			return answer.Result, string(answer.Error)
		}
	}
}

// is reports whether an expression is true on the page as it is; of a page that gives way to another one just then, nothing is.
func (c *chrome) is(expression string) bool {
	c.Helper()
	result, problem := c.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "userGesture": true})
	if strings.Contains(problem, "navigated") {
		return false
	}
	if problem != "" {
		c.Fatalf("%s: %s", expression, problem)
	}
	var out struct{ Result struct{ Value bool } }
	if err := json.Unmarshal(result, &out); err != nil {
		c.Fatal(err)
	}
	return out.Result.Value
}

// act does something on an element once it is there, after the answer that it is, because it may lead to another page. What needs the
// page's module is there once html has the class keys.
func (c *chrome) act(selector, act string) {
	c.Helper()
	c.until(selector, func() bool {
		return c.is(fmt.Sprintf("(e => { if (!e) return false; setTimeout(() => { %s }); return true })(document.querySelector(%s))", act, strconv.Quote(selector)))
	})
}

func (c *chrome) open(path string) {
	c.Helper()
	c.do("Page.navigate", map[string]any{"url": c.site() + path})
}

// TestBrowserSecurityKey is a lead who registers a security key in a real browser, proves with it who they are, and approves.
func TestBrowserSecurityKey(t *testing.T) {
	cfg := configured(t)
	cfg.Policies.File = filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(cfg.Policies.File, []byte("policies:\n  - {classes: [contain], from: [role:lead], step_up: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, cfg)
	c := h.chrome()
	requests, session := hijacked(t, 0)
	h.send(requests...)
	c.do("WebAuthn.enable", struct{}{})
	c.do("WebAuthn.addVirtualAuthenticator", map[string]any{"options": map[string]any{
		"protocol": "ctap2", "transport": "usb", "hasUserVerification": true, "isUserVerified": true, "automaticPresenceSimulation": true,
	}})
	c.open("/sign-in")
	c.act("[name=user]", "e.value = 'bob'")
	c.act("[name=password]", "e.value = "+strconv.Quote(password)+"; e.form.requestSubmit()")
	c.until("bob to be signed in", func() bool { return c.is("location.pathname != '/sign-in'") })

	r := h.asked(session)
	c.open("/approvals/" + r.ID)
	c.act(`#decide a[href="/keys"]`, "e.click()") // without a key the question leads to registering one
	c.act("html.keys [data-register] [name=name]", "e.value = 'the blue one'; e.form.requestSubmit()")
	c.until("the key to be listed", func() bool { return c.is("document.querySelector('#mine td')?.innerText == 'the blue one'") })

	c.open("/approvals/" + r.ID)
	c.act("html.keys [data-prove]", "e.click()")
	// A panel that just changed takes no click for a moment.
	c.act("button[value=approve]:enabled", "e.form.reason.value = 'not what the user asked for'; e.click()")
	h.contained(r)
	if got := h.request(r.ID); got.Decision == nil || got.Decision.By.ID != "bob" || got.Decision.By.ProvedFor != r.Digest || got.State != approval.Approved {
		t.Errorf("the decision is %+v", got.Decision)
	}
}
