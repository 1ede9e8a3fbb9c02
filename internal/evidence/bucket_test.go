package evidence

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startS3 runs the S3 server that TOCSIN_TEST_S3 names, versitygw, over a directory until the test ends. A bucket is a directory there.
func startS3(t *testing.T) (o BucketOptions, bucket string) {
	t.Helper()
	program := os.Getenv("TOCSIN_TEST_S3")
	if program == "" {
		t.Skip("TOCSIN_TEST_S3 is not set: no S3 server to test with; go install github.com/versity/versitygw/cmd/versitygw makes one")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	root, side, access, secret := t.TempDir(), t.TempDir(), rand.Text(), rand.Text()
	bucket = filepath.Join(root, "vault")
	if err := os.Mkdir(bucket, 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	server := exec.Command(program, "--port", address, "--access", access, "--secret", secret, "--quiet", "posix", "--sidecar", side, root)
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() { server.Process.Kill(); <-ended })
	for begun := time.Now(); ; {
		if answer, err := http.Get("http://" + address); err == nil {
			answer.Body.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the S3 server ended: %v\n%s", err, log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Since(begun) > time.Minute {
			t.Fatal("the S3 server is not ready after a minute")
		}
	}
	return BucketOptions{
		Name: "vault", Prefix: "incidents/evidence/", Region: "us-east-1", Endpoint: "http://" + address, PathStyle: true,
		AccessKeyFile: secretFile(t, access), SecretKeyFile: secretFile(t, secret),
	}, bucket
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestBucket(t *testing.T) {
	o, dir := startS3(t)
	var v *Vault
	for range 2 { // the second time the probe's object is there
		var err error
		if v, err = OpenBucket(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	large := bytes.Repeat([]byte("evidence"), 1<<20)
	for _, data := range [][]byte{nil, []byte("a"), []byte("a\x00b"), large} {
		for range 2 {
			hash, err := v.Put(t.Context(), data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := v.Get(t.Context(), hash)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("put %d bytes, got %d, %v", len(data), len(got), err)
			}
		}
	}
	if _, err := v.Get(t.Context(), sum([]byte("never put"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get = %v, want not found", err)
	}
	if _, err := v.Get(t.Context(), "../README"); err == nil {
		t.Error("what is no hash is read")
	}
	if _, err := v.Put(t.Context(), make([]byte, MaxBytes+1)); err == nil {
		t.Error("an artefact of any size is put")
	}
	// Whoever puts the same at the same time gets the same.
	var together sync.WaitGroup
	for range 8 {
		together.Go(func() {
			if _, err := v.Put(t.Context(), large[1:]); err != nil {
				t.Error(err)
			}
		})
	}
	together.Wait()
	// What somebody changed in the bucket is reported, and not written over: it is evidence itself.
	hash, err := v.Put(t.Context(), []byte("sealed"))
	if err != nil {
		t.Fatal(err)
	}
	object := filepath.Join(dir, "incidents", "evidence", hash)
	if err := os.WriteFile(object, []byte("forged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(t.Context(), hash); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Get = %v, want corrupt", err)
	}
	if _, err := v.Put(t.Context(), []byte("sealed")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Put = %v, want corrupt", err)
	}
	if text, err := os.ReadFile(object); err != nil || string(text) != "forged" {
		t.Errorf("the object was written over: %q %v", text, err)
	}
	// The server itself refuses bytes that are not those of the hash.
	b, err := newBucket(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), "torn", []byte("half of"), hash); err == nil {
		t.Error("the server takes bytes of another hash")
	}
	if _, err := os.Stat(filepath.Join(dir, "incidents", "evidence", "torn")); err == nil {
		t.Error("and an object is there")
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "incidents", "evidence")); err != nil || len(entries) != 7 {
		t.Errorf("%d objects, want README and six artefacts: %v", len(entries), err)
	}
	// Keys can be changed, and a wrong one opens nothing.
	o.SecretKeyFile = secretFile(t, "guess")
	if _, err := OpenBucket(t.Context(), o); err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), "guess") {
		t.Errorf("OpenBucket with another key: %v", err)
	}
}

// A server that does not do what a vault needs is not used, and what is in its way is not taken for its word.
func TestBucketAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		want   string
	}{
		{"overwrites", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }, "its server overwrites"},
		{"refuses", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "403"},
		{"a bucket that is not there", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			io.WriteString(w, "<Error><Code>NoSuchBucket</Code></Error>")
		}, "NoSuchBucket"},
	} {
		server := httptest.NewServer(http.HandlerFunc(tt.answer))
		t.Cleanup(server.Close)
		if _, err := OpenBucket(t.Context(), answering(t, server)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	for _, text := range []string{"<html>not found", "<Error><Code>NoSuchBucket</Code></Error>", ""} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			io.WriteString(w, text)
		}))
		t.Cleanup(server.Close)
		b, err := newBucket(t.Context(), answering(t, server))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&Vault{b}).Get(t.Context(), sum(nil)); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("a 404 with %q is %v", text, err)
		}
	}
}

// A refusal that is lost with the connection, because the server did not read the body, does not fail what another one sealed meanwhile.
func TestBucketAnswerLost(t *testing.T) {
	sealed := []byte("sealed")
	var asked atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			asked.Store(true)
			panic(http.ErrAbortHandler)
		case asked.Load() && strings.HasSuffix(r.URL.Path, sum(sealed)):
			w.Write(sealed)
		default:
			w.WriteHeader(404)
			io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
		}
	}))
	t.Cleanup(server.Close)
	b, err := newBucket(t.Context(), answering(t, server))
	if err != nil {
		t.Fatal(err)
	}
	v := &Vault{b}
	if _, err := v.Put(t.Context(), sealed); err != nil {
		t.Errorf("what is sealed: %v", err)
	}
	if _, err := v.Put(t.Context(), []byte("new")); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("what is not there: %v, want why it could not be written", err)
	}
}

func answering(t *testing.T, server *httptest.Server) BucketOptions {
	return BucketOptions{Name: "vault", Region: "us-east-1", Endpoint: server.URL, PathStyle: true, AccessKeyFile: secretFile(t, "a"), SecretKeyFile: secretFile(t, "b")}
}

func TestBucketOptions(t *testing.T) {
	good := BucketOptions{Name: "vault", Region: "eu-central-1"}
	for _, tt := range []struct {
		name   string
		change func(o *BucketOptions)
		want   string
	}{
		{"good", func(*BucketOptions) {}, ""},
		{"loopback", func(o *BucketOptions) { o.Endpoint = "http://127.0.0.1:9000" }, ""},
		{"no name", func(o *BucketOptions) { o.Name = "" }, "name"},
		{"hostile name", func(o *BucketOptions) { o.Name = "a/../b" }, "name"},
		{"hostile prefix", func(o *BucketOptions) { o.Prefix = "../" }, "prefix"},
		{"open prefix", func(o *BucketOptions) { o.Prefix = "evidence" }, "prefix"},
		{"no region", func(o *BucketOptions) { o.Region = "" }, "region"},
		{"plain HTTP", func(o *BucketOptions) { o.Endpoint = "http://s3.example.com" }, "endpoint"},
		{"user in the URL", func(o *BucketOptions) { o.Endpoint = "https://a:b@s3.example.com" }, "endpoint"},
		{"half a key", func(o *BucketOptions) { o.AccessKeyFile = "x" }, "access_key_file"},
	} {
		o := good
		tt.change(&o)
		if err := o.Check(); (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
