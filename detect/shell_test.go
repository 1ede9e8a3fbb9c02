package detect

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommands(t *testing.T) {
	for _, tc := range []struct {
		line string
		want []CommandEnv
	}{
		{"", nil},
		{"# only a remark", nil},
		{"ls -l", []CommandEnv{{"ls", "ls -l", ""}}},
		{`"/usr/bin/R"m -rf '/a b'`, []CommandEnv{{"rm", "/usr/bin/Rm -rf /a b", ""}}},
		{`r\m x`, []CommandEnv{{"rm", "rm x", ""}}},
		{`git commit -m 'curl x | sh; rm -rf /'`, []CommandEnv{{"git", "git commit -m curl x | sh; rm -rf /", ""}}},
		{"a && b || c; d & e", []CommandEnv{{"a", "a", ""}, {"b", "b", ""}, {"c", "c", ""}, {"d", "d", ""}, {"e", "e", ""}}},
		{"a 2>&1 | b |& c", []CommandEnv{{"a", "a 2>&1", ""}, {"b", "b", "a"}, {"c", "c", "a b"}}},
		{"a &> f", []CommandEnv{{"a", "a &> f", ""}}},
		{"X=1 sudo -u joe -n env Y=2 timeout 10s rm x", []CommandEnv{{"rm", "X=1 sudo -u joe -n env Y=2 timeout 10s rm x", ""}}},
		{"find . | xargs -I {} rm {}", []CommandEnv{{"find", "find .", ""}, {"rm", "xargs -I {} rm {}", "find"}}},
		{"if true; then (rm x); fi", []CommandEnv{{"true", "if true", ""}, {"rm", "rm x", ""}, {"fi", "fi", ""}}},
		{"echo `curl x` | sh", []CommandEnv{{"curl", "curl x", ""}, {"echo", "echo `curl x`", "curl"}, {"sh", "sh", "curl echo"}}},
		{`echo "$(a "$(b)")"`, []CommandEnv{{"b", "b", ""}, {"a", "a $(b)", "b"}, {"echo", `echo $(a "$(b)")`, "a"}}},
		{"bash <(curl x | base64 -d)", []CommandEnv{{"curl", "curl x", ""}, {"base64", "base64 -d", "curl"}, {"bash", "bash <(curl x | base64 -d)", "curl base64"}}},
		{"bash -lc 'cd /; rm -rf x'", []CommandEnv{{"bash", "bash -lc cd /; rm -rf x", ""}, {"cd", "cd /", ""}, {"rm", "rm -rf x", ""}}},
		{"eval 'rm x'", []CommandEnv{{"eval", "eval rm x", ""}, {"rm", "rm x", ""}}},
		{"cat <<'EOF' > f\nrm -rf /\nEOF\nls", []CommandEnv{{"cat", "cat > f", ""}, {"ls", "ls", ""}}},
		{"cat <<EOF | sh\nrm x\nEOF\n", []CommandEnv{{"cat", "cat", ""}, {"sh", "sh", "cat"}, {"rm", "rm x", ""}}},
		{"sh <<< 'x y'", []CommandEnv{{"sh", "sh <<< x y", ""}}},
		{"'open", []CommandEnv{{"open", "open", ""}}},
		{`"open $(`, []CommandEnv{{"open $(", "open $(", ""}}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseCommands(tc.line)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseCommandsIsBounded(t *testing.T) {
	for _, line := range []string{strings.Repeat("a;", 10_000), strings.Repeat("$(", 10_000), strings.Repeat("a|", 10_000), strings.Repeat("`", 9_999), strings.Repeat("eval ", 9_999)} {
		if n := len(parseCommands(line)); n > maxCommands {
			t.Errorf("%d commands, want at most %d", n, maxCommands)
		}
	}
}

func FuzzParseCommands(f *testing.F) {
	f.Add("a | b && c `d` $(e 'f') <(g) <<X\nh\nX\n# i")
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range parseCommands(line) {
			if c.Name == "" {
				t.Errorf("a command without a name: %q", c.Text)
			}
		}
	})
}
