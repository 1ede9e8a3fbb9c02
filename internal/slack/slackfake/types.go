package slackfake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TypesDir names the environment variable with the directory in which @slack/types and typescript are installed.
const TypesDir = "TOCSIN_SLACK_TYPES"

// CheckTypes compiles what was sent against the type definitions of Slack's package @slack/types. Without them it says so and checks
// nothing.
func CheckTypes(t testing.TB, surfaces []Surface) error {
	t.Helper()
	dir := os.Getenv(TypesDir)
	if dir == "" {
		t.Logf("%s is not set: nothing is checked against @slack/types (npm install --prefix DIR @slack/types typescript)", TypesDir)
		return nil
	}
	if len(surfaces) == 0 {
		return fmt.Errorf("check types: nothing was sent")
	}
	var b bytes.Buffer
	b.WriteString("import type { KnownBlock, ModalView } from '@slack/types';\n")
	for i, s := range surfaces {
		if s.Kind == "blocks" {
			fmt.Fprintf(&b, "export const m%d: KnownBlock[] = %s;\n", i, s.Body)
			continue
		}
		var view struct {
			Blocks json.RawMessage `json:"blocks"`
		}
		if err := json.Unmarshal(s.Body, &view); err != nil {
			return fmt.Errorf("check types: %w", err)
		}
		fmt.Fprintf(&b, "export const v%d: ModalView = %s;\nexport const b%d: KnownBlock[] = %s;\n", i, s.Body, i, view.Blocks)
	}
	work, err := os.MkdirTemp(dir, "check")
	if err != nil {
		return fmt.Errorf("check types: %w", err)
	}
	defer os.RemoveAll(work)
	file := filepath.Join(work, "sent.ts")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("check types: %w", err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "node_modules", ".bin", "tsc"), "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("check types: %w\n%s", err, out)
	}
	t.Logf("%d messages and windows fit @slack/types", len(surfaces))
	return nil
}
