package event

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What spares ordinary paths the pattern hides none from it.
func TestPrivatePathIsFound(t *testing.T) {
	part := rapid.SampledFrom([]string{"", "/", "\\", "~", ".", "ssh", "SSH", "aws", ".env", "id_", "ID_", "rsa", "credential", "Credentials", ".json", "/etc/", "shadow", "Shadow", "secret", "s", "ſecret", ".yml", ".pem", ".PEM", " ", "x"})
	rapid.Check(t, func(t *rapid.T) {
		path := strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "parts"), "")
		if want := privatePath.MatchString(path); PrivatePath(path) != want {
			t.Errorf("PrivatePath(%q) is %v", path, !want)
		}
	})
}
