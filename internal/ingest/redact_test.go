package ingest

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tocsin-dr/tocsin/internal/event"
)

const awsKey = "AKIAIOSFODNN7EXAMPLE"

// fill sets every text beneath a value, and calls back for each that is there.
func eachText(v reflect.Value, path string, do func(path string, text reflect.Value)) {
	switch v.Kind() {
	case reflect.String:
		do(path, v)
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		eachText(v.Elem(), path, do)
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		for i := range v.Len() {
			eachText(v.Index(i), path, do)
		}
	case reflect.Map:
		if v.Len() == 0 {
			v.Set(reflect.ValueOf(map[string]string{awsKey: awsKey}))
		}
		for k, item := range v.Interface().(map[string]string) {
			do(path, reflect.ValueOf(k))
			do(path, reflect.ValueOf(item))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				eachText(v.Field(i), path+"."+v.Type().Field(i).Name, do)
			}
		}
	}
}

// A field that is added to events can't be forgotten.
func TestRedactReachesEveryText(t *testing.T) {
	var e event.Event
	n := 0
	eachText(reflect.ValueOf(&e), "event", func(_ string, text reflect.Value) {
		if n++; text.CanSet() {
			text.SetString(awsKey)
		}
	})
	if n < 50 {
		t.Fatalf("only %d texts", n)
	}
	redact(&e)
	eachText(reflect.ValueOf(&e), "event", func(path string, text reflect.Value) {
		if strings.Contains(text.String(), awsKey) {
			t.Errorf("%s still holds a secret", path)
		}
	})
}

// plainClean looks for every shape, without looking for needles first.
func plainClean(text string) string {
	for _, s := range secrets {
		replace := s.replace
		if !strings.Contains(replace, "[") {
			replace += "[redacted:" + s.kind + "]"
		}
		text = s.shape.ReplaceAllString(text, replace)
	}
	return text
}

// secretPieces are secrets and halves of them, in odd spellings.
func secretPieces() []string {
	return []string{
		awsKey, "ASIAIOSFODNN7EXAMPLE", "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----", "aws_secret_access_key = ", "AWS_SECRET_KEY:",
		"aW\u017fſecretkey='", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYzz", "ghp_", strings.Repeat("a1", 18), "github_pat_", "glpat-", "xoxb-", "xapp-", "hooks.slack.com/services/", "sk-ant-", "sk-proj-", "sk-", "eyJhbGciOi.eyJzdWIiOi.x",
		"bEaReR ", "Bearer\n", "abcdefghijklmnop1", "://", "u:p@", "://u:p@h", "?to\u212aen=", "&pa\u017f\u017fword=", ";PWD=", "?client_secret=x", "&apikey=", "api_key=", "x", "_", " ", "é", "\xff", "]",
	}
}

// Looking for needles first hides no secret.
func TestCleanIsComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(secretPieces()), 1, 8).Draw(t, "pieces"), "")
		if want, got := plainClean(text), clean(text); got != want {
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, piece := range secretPieces() {
		f.Add(piece + "abcdefghijklmnop")
	}
	f.Fuzz(func(t *testing.T, text string) {
		if want, got := plainClean(text), clean(text); got != want {
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
	})
}
