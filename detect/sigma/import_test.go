package sigma_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/sigma"
	"github.com/tocsin-dr/tocsin/internal/event"
)

// ruleText is a Sigma rule for a log source with these detections.
func ruleText(logsource, detection string) string {
	return "title: Example\nid: 0a1b2c3d-0000-4000-8000-000000000000\nstatus: test\nlevel: high\nlogsource: {" + logsource + "}\ndetection:\n" +
		"  " + strings.ReplaceAll(strings.TrimSpace(detection), "\n", "\n  ") + "\n"
}

const linux = "category: process_creation, product: linux"

func library(t testing.TB) *detect.Library {
	t.Helper()
	l, err := detect.ReadLibrary()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imported(t testing.TB, text string) sigma.Result {
	t.Helper()
	return sigma.Import([]sigma.File{{Name: "example.yml", Text: []byte(text)}}, library(t))
}

// rule imports a text that must give exactly one rule.
func rule(t testing.TB, text string) sigma.Rule {
	t.Helper()
	r := imported(t, text)
	for _, p := range r.Problems {
		t.Fatal(p)
	}
	if len(r.Rules) != 1 {
		t.Fatalf("got %d rules, want 1", len(r.Rules))
	}
	return r.Rules[0]
}

// fires imports a text and returns how often its rule fires on each of the events, which are their tests' short forms.
func fires(t testing.TB, text string, events ...string) []int {
	t.Helper()
	made := rule(t, text)
	r, err := detect.ParseRule("made.yaml", []byte(made.Text), library(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := detect.Compile([]detect.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range events {
		out = append(out, len(evaluate(set, stream(t, e))))
	}
	if t.Failed() || testing.Verbose() {
		t.Log(made.Text)
	}
	return out
}

func stream(t testing.TB, text string) []event.Event {
	t.Helper()
	var nodes []yaml.Node
	if err := yaml.Unmarshal([]byte(text), &nodes); err != nil {
		t.Fatal(err)
	}
	events, _, err := detect.Test{Name: "stream", Events: nodes}.Stream("stream.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func evaluate(set *detect.Set, events []event.Event) []detect.Finding {
	var out []detect.Finding
	st, env := detect.NewState(), detect.NewEnv()
	for i := range events {
		env.Fill(&events[i], detect.SessionFacts{}, detect.BaselineEnv{P: 1})
		out = append(out, set.Evaluate(env, &events[i], st)...)
	}
	return out
}

// command is an event in which a tool ran a command line.
func command(line string) string {
	return fmt.Sprintf("- {kind: tool.result, tool: bash, args: {command: %q}}", line)
}

func tool(name, arg, value string) string {
	return fmt.Sprintf("- {kind: tool.result, tool: %s, args: {%s: %q}}", name, arg, value)
}

func TestDetections(t *testing.T) {
	const (
		contains = "s:\n  CommandLine|contains: 'SECRET'\ncondition: s"
		web      = "category: proxy"
	)
	for _, tc := range []struct {
		name, logsource, detection string
		hits, misses               []string
	}{
		{"case is ignored", linux, contains, []string{command("cat Secret.txt")}, []string{command("cat sec.txt")}},
		{"cased", linux, "s:\n  CommandLine|contains|cased: 'SECRET'\ncondition: s", []string{command("cat SECRET")}, []string{command("cat secret")}},
		{"denied calls start no process", linux, contains, nil, []string{"- {kind: tool.result, outcome: denied, tool: bash, args: {command: cat secret}}"}},
		{
			"program by name", linux, "s:\n  Image|endswith: '/curl'\ncondition: s",
			[]string{command("/usr/bin/curl x"), command("cd /tmp && CURL x"), command("sudo -u root curl x"), command("bash -c 'curl x'"), command("echo $(curl x)")},
			[]string{command("echo curl"), command("curlie x"), command("git commit -m 'curl x'")},
		},
		{"program by the end of its name", linux, "s:\n  Image|endswith: 'sh'\ncondition: s", []string{command("zsh"), command("/bin/fish")}, []string{command("shred x")}},
		{
			"a launcher is a program too", linux, "s:\n  Image|endswith: ['/sudo', '/nc']\ncondition: s",
			[]string{command("sudo rm x"), command("env A=b /usr/bin/sudo -n rm x"), command("nc -l 1")},
			[]string{command("rm sudo"), command("echo sudo")},
		},
		{
			"program and line belong together", linux, "s:\n  Image|endswith: '/curl'\n  CommandLine|contains: '--upload'\ncondition: s",
			[]string{command("curl --upload x")},
			[]string{command("curl x; aws --upload x")},
		},
		{
			"a filter is about the same process", linux, "s:\n  Image|endswith: '/rm'\nf:\n  CommandLine|contains: '/tmp/'\ncondition: s and not f",
			[]string{command("rm /etc/x; ls /tmp/")},
			[]string{command("rm /tmp/x")},
		},
		{
			"line from its start, whatever launches it", linux, "s:\n  CommandLine|startswith: 'rm -rf'\ncondition: s",
			[]string{command("rm -rf x"), command("sudo rm -rf x"), command("A=b nice -n 10 RM -RF x"), command("timeout 5s rm -rf x")},
			[]string{command("echo rm -rf"), command("srm -rf x")},
		},
		{"whole line", linux, "s:\n  CommandLine: 'id -u'\ncondition: s", []string{command("id -u"), command("sudo id -u")}, []string{command("id -un"), command("xid -u")}},
		{"line to its end", linux, "s:\n  CommandLine|endswith: ' -x'\ncondition: s", []string{command("bash -x")}, []string{command("bash -x y")}},
		{"wildcards", linux, "s:\n  CommandLine: '*cat /etc/?asswd*.bak'\ncondition: s", []string{command("sudo cat /etc/passwd.1.bak")}, []string{command("cat /etc/asswd.bak")}},
		{"escaped wildcards", linux, `s:
  CommandLine|contains: 'what\?\*'
condition: s`, []string{command(`echo 'what?*'`)}, []string{command("echo whatever")}},
		{"backslash", linux, `s:
  CommandLine|contains: 'a\\b\c'
condition: s`, []string{command(`echo 'a\b\c'`)}, []string{command(`echo 'a\\b\c'`)}},
		{"all", linux, "s:\n  CommandLine|contains|all: ['-a', '-b']\ncondition: s", []string{command("x -b -a")}, []string{command("x -a")}},
		{"any value", linux, "s:\n  CommandLine|contains: ['-a', '-b']\ncondition: s", []string{command("x -b"), command("x -a")}, []string{command("x -c")}},
		{"list of maps", linux, "s:\n  - Image|endswith: '/a'\n  - CommandLine|contains: 'b'\ncondition: s", []string{command("a"), command("x b")}, []string{command("x")}},
		{"regular expression", linux, `s:
  CommandLine|re: 'x[0-9]{2}$'
condition: s`, []string{command("run x12")}, []string{command("run X12"), command("run x1")}},
		{"regular expression with flags", linux, `s:
  CommandLine|re|i: '^X[0-9]'
condition: s`, []string{command("x1"), command("sudo x1")}, []string{command("y x1")}},
		{
			"windash", "category: process_creation, product: windows", "s:\n  CommandLine|contains|windash: ' -enc '\ncondition: s",
			[]string{command("powershell -enc x"), command("powershell /enc x"), command("powershell –enc x")},
			[]string{command("powershell enc x")},
		},
		{
			"name inside of the file", "category: process_creation, product: windows", "s:\n  - Image|endswith: '\\certutil.exe'\n  - OriginalFileName: 'CertUtil.exe'\ncondition: s",
			[]string{command("certutil x"), command("CertUtil.exe x")},
			[]string{command("mycertutil x")},
		},
		{"base64", linux, "s:\n  CommandLine|base64|contains: 'curl '\ncondition: s", []string{command("echo Y3VybCA=")}, []string{command("curl x")}},
		{
			"base64 anywhere", linux, "s:\n  CommandLine|base64offset|contains: 'http://'\ncondition: s",
			[]string{command("echo aHR0cDovL2E="), command("echo eGh0dHA6Ly9h"), command("echo eHhodHRwOi8vYQ==")},
			[]string{command("echo http://")},
		},
		{"base64 of wide text", linux, "s:\n  CommandLine|wide|base64offset|contains: 'IEX'\ncondition: s", []string{command("x SQBFAFgA")}, []string{command("x SUVY")}},
		{"exists", linux, "s:\n  CommandLine|exists: true\ncondition: s", []string{command("x")}, []string{tool("read_file", "path", "x")}},
		{"null", linux, "s:\n  Image|endswith: '/x'\nf:\n  CommandLine: null\ncondition: s and not f", []string{command("x")}, nil},
		{"neq", linux, "s:\n  Image|endswith: '/x'\n  CommandLine|contains|neq: 'y'\ncondition: s", []string{command("x")}, []string{command("x y")}},
		{
			"one of", linux, "sel_a:\n  CommandLine|contains: 'a1'\nsel_b:\n  CommandLine|contains: 'b1'\nfilter:\n  CommandLine|contains: 'c1'\ncondition: 1 of sel_* and not filter",
			[]string{command("a1"), command("b1")},
			[]string{command("a1 c1"), command("c1")},
		},
		{
			"all of them", linux, "a:\n  CommandLine|contains: 'a1'\nb:\n  CommandLine|contains: 'b1'\n_c:\n  CommandLine|contains: 'c1'\ncondition: all of them",
			[]string{command("a1 b1")},
			[]string{command("a1"), command("b1 c1")},
		},
		{
			"precedence", linux, "a:\n  CommandLine|contains: 'a1'\nb:\n  CommandLine|contains: 'b1'\nc:\n  CommandLine|contains: 'c1'\ncondition: a or b and not c",
			[]string{command("a1 c1"), command("b1")},
			[]string{command("b1 c1"), command("c1")},
		},
		{
			"parentheses", linux, "a:\n  CommandLine|contains: 'a1'\nb:\n  CommandLine|contains: 'b1'\nc:\n  CommandLine|contains: 'c1'\ncondition: (a or b) and not (c)",
			[]string{command("a1")},
			[]string{command("a1 c1")},
		},
		{"several conditions", linux, "a:\n  CommandLine|contains: 'a1'\nb:\n  CommandLine|contains: 'b1'\ncondition: [a, b]", []string{command("a1"), command("b1")}, []string{command("c1")}},

		{"the line that a shell runs", linux, "s:\n  CommandLine|contains: 'base64 -d | sh'\ncondition: s", []string{command("echo x | base64 -d | sh")}, []string{command("base64 -d > sh")}},
		{"values of one command are not looked for in two", linux, "s:\n  CommandLine|contains|all: ['x1', 'y1']\ncondition: s", []string{command("x1 y1")}, []string{command("x1; y1"), command("x1 | y1")}},
		{"how the shell begins is not known", linux, "s:\n  CommandLine|contains: '| sh'\nf:\n  CommandLine|startswith: 'curl'\ncondition: s and not f", []string{command("bash -c 'x | sh'")}, []string{command("curl x | sh"), command("wget x | sh")}},
		{"quotes", linux, "s:\n  CommandLine|contains: '''x:0:'''\ncondition: s", []string{command("grep 'x:0:' /etc/passwd")}, []string{command("grep x:0: /etc/passwd")}},
		{"anything that starts", linux, "s:\n  CommandLine|startswith: ''\ncondition: s", []string{command("x")}, []string{tool("read_file", "path", "x")}},
		{"a program is none of the shell's", linux, "s:\n  CommandLine|contains: '| sh'\n  Image|endswith: '/curl'\ncondition: s", nil, []string{command("curl x | sh")}},
		{"not a program", linux, "s:\n  CommandLine|contains: '| sh'\nf:\n  Image|endswith: '/curl'\ncondition: s and not f", []string{command("wget x | sh")}, []string{command("wget x")}},
		{"not a shell: which one runs the line is not known", linux, "s:\n  CommandLine|contains: 'x1'\nf:\n  Image|endswith: '/bash'\ncondition: s and not f", []string{command("x1"), command("bash -c x1")}, []string{command("bash -c 'echo 1' x1")}},
		{"no command at all", linux, "s:\n  CommandLine|contains: 'x1'\ncondition: not s", []string{command("x2")}, []string{command("x1"), tool("read_file", "path", "x")}},
		{"a path of Windows", "category: process_creation, product: windows", `s:
  CommandLine|contains: '\Temp\'
condition: s`, []string{command(`type C:\temp\x`)}, []string{command("type C:/temp/x")}},

		{
			"file written", "category: file_event, product: linux", "s:\n  TargetFilename|startswith: '/etc/cron.d/'\ncondition: s",
			[]string{tool("write_file", "path", "/etc/cron.d/x")},
			[]string{tool("read_file", "path", "/etc/cron.d/x"), tool("delete_file", "path", "/etc/cron.d/x"), tool("write_file", "path", "/tmp/x")},
		},
		{"file removed", "category: file_delete", "s:\n  TargetFilename|endswith: '.log'\ncondition: s", []string{tool("delete_file", "path", "/var/x.LOG")}, []string{tool("write_file", "path", "x.log")}},
		{"file read", "category: file_access", "s:\n  FileName|contains: '/.ssh/'\ncondition: s", []string{tool("read_file", "path", "/root/.ssh/id")}, []string{tool("write_file", "path", "/root/.ssh/id")}},
		{"a path on Windows", "category: file_event, product: windows", `s:
  TargetFilename|contains: '\Startup\'
condition: s`, []string{tool("write_file", "path", `C:\X\startup\a.exe`)}, []string{tool("write_file", "path", "/Startup/")}},
		{"host", "category: network_connection", "s:\n  Initiated: 'true'\n  DestinationHostname|endswith: '.ngrok.io'\ncondition: s", []string{tool("fetch", "url", "https://a.NGROK.io/x")}, []string{tool("fetch", "url", "https://ngrok.io.example/")}},
		{"host looked up", "category: dns_query", "s:\n  QueryName: 'evil.example'\ncondition: s", []string{tool("fetch", "url", "https://evil.example/")}, []string{tool("fetch", "url", "https://a.evil.example/")}},
		{"address", "category: network_connection", "s:\n  DestinationIp: 169.254.169.254\ncondition: s", []string{tool("fetch", "url", "http://169.254.169.254/x")}, []string{tool("fetch", "url", "http://169.254.169.25/x")}},
		{
			"network", "category: network_connection", "s:\n  DestinationIp|cidr: [10.0.0.0/8, 172.16.0.0/12]\ncondition: s",
			[]string{tool("fetch", "url", "http://10.1.2.3/"), tool("fetch", "url", "http://172.31.0.1/")},
			[]string{tool("fetch", "url", "http://172.32.0.1/"), tool("fetch", "url", "http://10.example.com/")},
		},
		{"URL", web, "s:\n  c-uri|contains: '/api/v1'\n  cs-host: 'api.example.com'\ncondition: s", []string{tool("fetch", "url", "https://API.example.com/API/v1")}, []string{tool("fetch", "url", "https://example.com/api/v1")}},
		{"query of a URL", web, "s:\n  c-uri-query|contains: 'cmd='\ncondition: s", []string{tool("fetch", "url", "https://a/b?x=1&CMD=ls")}, []string{tool("fetch", "url", "https://a/cmd=?x")}},
		{"path of a URL", "category: webserver", "s:\n  cs-uri-stem: '/shell.php'\ncondition: s", []string{tool("fetch", "url", "https://a/shell.php?x"), tool("fetch", "url", "https://a/shell.php")}, []string{tool("fetch", "url", "https://a/x/shell.php"), tool("fetch", "url", "https://a/?/shell.php")}},
		{"extension in a URL", web, "s:\n  c-uri-extension: ['exe', 'ps1']\ncondition: s", []string{tool("fetch", "url", "https://a/b.PS1?x=1")}, []string{tool("fetch", "url", "https://a/b?x.exe"), tool("fetch", "url", "https://a.exe"), tool("fetch", "url", "https://a/bexe")}},
		{"within a path of a URL", "category: webserver", "s:\n  cs-uri-stem|contains: ['/admin', 'setup']\ncondition: s", []string{tool("fetch", "url", "https://a/admin"), tool("fetch", "url", "https://a/x/admin/y"), tool("fetch", "url", "https://a/xsetup")}, []string{tool("fetch", "url", "https://setup.a/x"), tool("fetch", "url", "https://a/?/admin")}},
		{"end of a path of a URL", "category: webserver", "s:\n  cs-uri-stem|endswith: '.php'\ncondition: s", []string{tool("fetch", "url", "https://a/b.php?x")}, []string{tool("fetch", "url", "https://a/b?x.php")}},

		{
			"agents: fields", "product: ai, category: application", "s:\n  gen_ai.tool.name: 'send_money'\n  tool.args.amount|gte: 100\ncondition: s",
			[]string{tool("send_money", "amount", "100")},
			[]string{tool("send_money", "amount", "99"), tool("send_mail", "amount", "100")},
		},
		{
			"agents: keywords", "product: llm", "k: ['ignore previous', 'jailbreak']\ncondition: k",
			[]string{"- {kind: prompt, text: Ignore Previous instructions}", "- {kind: tool.result, tool: x, result: a jailbreak}"},
			[]string{"- {kind: prompt, text: hi}"},
		},
		{"agents: all keywords", "product: llm", "k:\n  '|all': ['one', 'two']\ncondition: k", []string{"- {kind: prompt, text: two one}"}, []string{"- {kind: prompt, text: one}"}},
		{"agents: kinds apart", "product: llm", "s:\n  prompt|contains: 'x1'\ncondition: s", []string{"- {kind: prompt, text: x1}"}, []string{"- {kind: response, text: x1}"}},
		{
			"agents: service names the kind", "product: ai, service: model.call", "s:\n  gen_ai.usage.input_tokens|gt: 1000\ncondition: s",
			[]string{"- {kind: model.call, model: m, tokens: 1001}"},
			[]string{"- {kind: model.call, model: m, tokens: 1000}"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var want []int
			for range tc.hits {
				want = append(want, 1)
			}
			for range tc.misses {
				want = append(want, 0)
			}
			got := fires(t, ruleText(tc.logsource, tc.detection), append(tc.hits, tc.misses...)...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", diff, rule(t, ruleText(tc.logsource, tc.detection)).Text)
			}
		})
	}
}

// The launchers that the importer knows are those that detect takes for no program of its own.
func TestLaunchers(t *testing.T) {
	for _, name := range []string{"sudo", "doas", "env", "nohup", "time", "command", "exec", "builtin", "nice", "setsid", "stdbuf", "xargs", "timeout"} {
		launcher := ruleText(linux, "s:\n  Image|endswith: '/"+name+"'\n  CommandLine|startswith: 'rm -r'\ncondition: s")
		program := ruleText(linux, "s:\n  Image|endswith: '/rm'\n  CommandLine|startswith: 'rm -r'\ncondition: s")
		line := command("A=b " + name + " -n 10 X=y /bin/" + name + " rm -r x")
		if diff := cmp.Diff([]int{1}, fires(t, launcher, line)); diff != "" {
			t.Errorf("%s as the program: %s", name, diff)
		}
		if diff := cmp.Diff([]int{1, 0}, fires(t, program, line, command("echo "+name+" rm -r x"))); diff != "" {
			t.Errorf("%s before the program: %s", name, diff)
		}
	}
}

// Many values don't fit one expression as comparisons; as one pattern they do, and mean the same.
func TestManyValues(t *testing.T) {
	var values []string
	for i := range 90 {
		values = append(values, fmt.Sprintf("'-flag%03d'", i))
	}
	text := ruleText(linux, "s:\n  CommandLine|contains: ["+strings.Join(values, ", ")+"]\ncondition: s")
	got := fires(t, text, command("x -flag000"), command("x -FLAG089"), command("x -flag090"))
	if diff := cmp.Diff([]int{1, 1, 0}, got); diff != "" {
		t.Error(diff)
	}
}
