package sigma_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/detect"
	"github.com/tocsin-dr/tocsin/detect/sigma"
)

// problems returns what is wrong with a text, a line each.
func problems(t testing.TB, text string) string {
	t.Helper()
	var out []string
	r := imported(t, text)
	for _, p := range r.Problems {
		out = append(out, p.Error()+" ["+string(p.Reason)+"]")
	}
	if len(out) > 0 && len(r.Rules) > 0 {
		t.Errorf("a refused document gave a rule")
	}
	return strings.Join(out, "\n")
}

func TestProblems(t *testing.T) {
	const windows = "category: process_creation, product: windows"
	for _, tc := range []struct{ name, logsource, detection, want string }{
		{
			"field of no source", windows, "s:\n  ParentImage|endswith: '\\cmd.exe'\n  CommandLine: x\ncondition: s",
			`example.yml:8: s.ParentImage|endswith: no source of agents sends it; known of windows/process_creation are CommandLine, Image, OriginalFileName [field]`,
		},
		{
			"each problem", windows, "s:\n  User: x\n  Hashes: y\ncondition: s",
			"example.yml:8: s.User: no source of agents sends it; known of windows/process_creation are CommandLine, Image, OriginalFileName [field]\n" +
				"example.yml:9: s.Hashes: no source of agents sends it; known of windows/process_creation are CommandLine, Image, OriginalFileName [field]",
		},
		{"misspelt field", linux, "s:\n  Commandline: x\ncondition: s", `example.yml:8: s.Commandline: no source of agents sends it; did you mean "CommandLine"? [field]`},
		{"log source", "product: windows, service: security", "s:\n  EventID: 1\ncondition: s", `example.yml:5: logsource: "windows/security" is not sent by any source of agents [log source]`},
		{"directory of a program", linux, "s:\n  Image|startswith: '/tmp/'\ncondition: s", `example.yml:8: s.Image|startswith: looks at the directory of the program, and a command says only its name [program path]`},
		{"directory in its end", linux, "s:\n  Image|endswith: '/bin/sh'\ncondition: s", `example.yml:8: s.Image|endswith: looks at the directory of the program, and a command says only its name [program path]`},
		{"program anywhere in the path", linux, "s:\n  Image|contains: 'python'\ncondition: s", `example.yml:8: s.Image|contains: looks at the directory of the program, and a command says only its name [program path]`},
		{
			"renamed program", windows, "s:\n  OriginalFileName: 'x.exe'\nf:\n  Image|endswith: '\\x.exe'\ncondition: s and not f",
			`example.yml:7: OriginalFileName: no source of agents sends it, and without it a renamed program can't be told [field]`,
		},
		{
			"renamed program in a filter", windows, "s:\n  CommandLine|contains: 'y'\nf:\n  OriginalFileName: 'x.exe'\ncondition: s and not f",
			`example.yml:10: f.OriginalFileName: can't be negated: the name inside of a program's file is not known, so that it can't be told from the name of the file [field]`,
		},
		{
			"program and backslash on Windows", windows, "s:\n  Image|endswith: '\\cmd.exe'\n  CommandLine|contains: '\\Temp\\'\ncondition: s",
			`example.yml:7: detection: has a \ or a quotation mark: a command line is taken apart as a POSIX shell does, which keeps neither [value]`,
		},
		{
			"backslash in a filter on Windows", windows, "s:\n  CommandLine|contains: 'x'\nf:\n  CommandLine|contains: '\\Temp\\'\ncondition: s and not f",
			`example.yml:10: f.CommandLine|contains: has a \ or a quotation mark: a command line is taken apart as a POSIX shell does, which keeps neither, and under a not that is no answer [value]`,
		},
		{"fieldref", linux, "s:\n  CommandLine|fieldref: Image\ncondition: s", `example.yml:8: s.CommandLine|fieldref: fieldref compares two fields of an event, which no rule here does [modifier]`},
		{"expand", linux, "s:\n  CommandLine|expand: '%x%'\ncondition: s", `example.yml:8: s.CommandLine|expand: expand has a placeholder that only its author's pipeline can fill: write the values out [modifier]`},
		{"misspelt modifier", linux, "s:\n  CommandLine|contain: x\ncondition: s", `example.yml:8: s.CommandLine|contain: "contain" is no modifier; did you mean "contains"? [modifier]`},
		{"wide alone", linux, "s:\n  CommandLine|wide|contains: x\ncondition: s", `example.yml:8: s.CommandLine|wide|contains: has wide without base64: such bytes are in no text of an event [modifier]`},
		{"encoding of wildcards", linux, "s:\n  CommandLine|contains|base64: x\ncondition: s", `example.yml:8: s.CommandLine|contains|base64: base64 stands after the modifier that places it, and would encode its wildcards [modifier]`},
		{"contradiction", linux, "s:\n  CommandLine|contains|startswith: x\ncondition: s", `example.yml:8: s.CommandLine|contains|startswith: has modifiers that contradict each other [modifier]`},
		{"look-ahead", linux, "s:\n  CommandLine|re: 'a(?=b)'\ncondition: s", "example.yml:8: s.CommandLine|re: is no regular expression of RE2: error parsing regexp: invalid or unsupported Perl syntax: `(?=` [regular expression]"},
		{"cased on a lower-case field", "category: dns_query", "s:\n  QueryName|cased: A.example\ncondition: s", `example.yml:8: s.QueryName|cased: is cased, and known in lower case only [modifier]`},
		{"port", "category: network_connection", "s:\n  DestinationPort: 443\ncondition: s", `example.yml:8: s.DestinationPort: no source of agents sends it; known of network_connection are DestinationHostname, DestinationIp, Initiated, QueryName, dns.question.name, dst_host, dst_ip, query [field]`},
		{
			"address in a filter", "category: network_connection", "s:\n  DestinationHostname|contains: x\nf:\n  DestinationIp|cidr: 10.0.0.0/8\ncondition: s and not f",
			`example.yml:10: f.DestinationIp|cidr: can't be negated: a host that is given by its name has no known address [field]`,
		},
		{"network of IPv6", "category: network_connection", "s:\n  DestinationIp|cidr: '::1/128'\ncondition: s", `example.yml:8: s.DestinationIp|cidr: wants an address compared with an IPv4 network such as 10.0.0.0/8, got "::1/128" [value]`},
		{"path as a URL", "category: proxy", "s:\n  c-uri|startswith: '/x'\ncondition: s", `example.yml:8: s.c-uri|startswith: begins with a /: the URL of an agent's request is a full one [value]`},
		{"keywords of a process", linux, "k: [a, b]\ncondition: k", `example.yml:7: k: looks through a whole record, and linux/process_creation has none here: name a field [field]`},
		{"aggregation", linux, "s:\n  CommandLine: x\ncondition: s | count() > 5", `example.yml:9: condition: has an aggregation after |, which specification 2 dropped: write a correlation rule [condition]`},
		{"unknown identifier", linux, "s:\n  CommandLine: x\ncondition: s and t", `example.yml:9: condition: names "t", which is no search identifier [condition]`},
		{"pattern of none", linux, "s:\n  CommandLine: x\ncondition: s and not 1 of filter_*", `example.yml:9: condition: names "filter_*", which no search identifier matches [condition]`},
		{"open parenthesis", linux, "s:\n  CommandLine: x\ncondition: (s", `example.yml:9: condition: has a parenthesis that nothing closes [condition]`},
		{"never", "category: network_connection", "s:\n  Initiated: 'false'\ncondition: s", `example.yml:9: condition: never holds for an agent's event [condition]`},
		{"alias", linux, "s: &a\n  CommandLine: x\nt: *a\ncondition: s", `example.yml:9: file: has an alias (*a): write the value out [format]`},
		{"key twice", linux, "s:\n  CommandLine: x\n  CommandLine: y\ncondition: s", `example.yml:9: file: has the key "CommandLine" twice [format]`},
		{"kind not said", "product: ai", "s:\n  agent.id: x\ncondition: s", `example.yml:5: logsource: does not say which kind of event: name it as the service, such as tool.result [log source]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, problems(t, ruleText(tc.logsource, tc.detection))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDocumentProblems(t *testing.T) {
	good := ruleText(linux, "s:\n  CommandLine: x\ncondition: s")
	for _, tc := range []struct{ name, text, want string }{
		{"deprecated", strings.Replace(good, "status: test", "status: deprecated", 1), `example.yml:3: status: is deprecated: its author does not want it used [status]`},
		{"no rule", "[a]", `example.yml:1: file: is no Sigma rule: want a map of attributes [format]`},
		{"no YAML", "a: [", `example.yml:1: file: line 1: did not find expected node content [format]`},
		{"neither", "title: x", `example.yml:1: detection: is missing, and so is correlation [format]`},
		{"no title", "detection: {}", `example.yml:1: title: is missing [format]`},
		{"global", "action: global\n---\n" + good, `example.yml:1: action: is of specification 1: write each rule as a document of its own [format]`},
		{"filter", "title: x\nfilter: {}", `example.yml:2: filter: Sigma filters are not read: write an exception of the rule [format]`},
		{"the same rule twice", good + "---\n" + good, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "the same rule twice" {
				r := imported(t, tc.text)
				if len(r.Rules) != 1 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Why, "example.yml:1 does") {
					t.Errorf("got %d rules and %v", len(r.Rules), r.Problems)
				}
				return
			}
			if diff := cmp.Diff(tc.want, problems(t, tc.text)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What authors say about a rule stays in it, and no text of theirs gets out of its place.
func TestMetadata(t *testing.T) {
	text := `title: "Odd: 'title' # with \u202e marks\nand lines"
id: 0a1b2c3d-0000-4000-8000-000000000000
status: experimental
description: |
  What it finds.
  lane: propose
author: A. Author
date: 2024-01-02
license: DRL-1.1
references: ["https://example.com/a"]
tags: [attack.credential-access, attack.t1552.001, attack.persistence, cve.2024-1]
logsource: {category: process_creation, product: linux}
detection:
  s: {CommandLine|contains: x}
  condition: s
falsepositives: ["Admins: many"]
level: informational
`
	made := rule(t, text)
	r, err := detect.ParseRule("made.yaml", []byte(made.Text), library(t))
	if err != nil {
		t.Fatal(err)
	}
	type facts struct {
		ID, Title, Severity, Confidence, Lane, LaneWithTests, Key, Capture string
		Tags                                                               detect.Tags
		FalsePositives                                                     []string
		Tests                                                              int
	}
	got := facts{r.ID, r.Title, string(r.Severity), string(r.Confidence), string(r.Lane), string(made.Lane), r.Key, r.Capture, r.Tags, r.FalsePositives, len(r.Tests)}
	want := facts{
		"sigma-odd-title-with-marks-and-lines-0a1b2c3d", "Odd: 'title' # with marks and lines", "low", "low", "shadow", "hunt", "session", "arguments",
		detect.Tags{ASI: []string{"ASI03", "ASI10"}, ATLAS: []string{"AML.T0055"}},
		[]string{"Admins: many"},
		0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"What it finds.", "A. Author", "2024-01-02", "DRL-1.1", "https://example.com/a", "0a1b2c3d-0000-4000-8000-000000000000", "attack.t1552.001", "status experimental"} {
		if !strings.Contains(r.Triage, part) {
			t.Errorf("the triage text lost %q:\n%s", part, r.Triage)
		}
	}
}

// Each field of the tables compiles, and each tactic's risk is in the catalogue.
func TestFieldsCompile(t *testing.T) {
	for logsource, names := range map[string][]string{
		linux:                          {"Image|endswith: '/x'", "CommandLine: x", "OriginalFileName: x"},
		"category: file_event":         {"TargetFilename: x", "FileName: x"},
		"category: network_connection": {"DestinationHostname: x", "dst_host: x", "DestinationIp: 1.2.3.4", "dst_ip: 1.2.3.4"},
		"category: dns":                {"QueryName: x", "query: x", "dns.question.name: x"},
		"category: proxy":              {"c-uri: x", "cs-uri: x", "cs-host: x", "r-dns: x", "c-uri-query: x", "cs-uri-query: x", "c-uri-stem: /x", "cs-uri-stem: /x", "c-uri-extension: x"},
		"product: ai, service: tool.result": {
			"outcome: x", "error: x", "agent.id: x", "agent.name: x", "agent.service: x", "agent.class: x", "agent.version: x", "agent.framework: x",
			"gen_ai.agent.id: x", "gen_ai.agent.name: x", "service.name: x", "session.id: x", "gen_ai.conversation.id: x", "session.tainted: true", "session.hidden_text: false",
			"session.instructed: true", "session.saw_private: true", "session.tool_calls: 3", "session.denied: 3", "tool.name: x", "gen_ai.tool.name: x", "tool.server: x", "tool.effect: x",
			"tool.command: x", "tool.path: x", "tool.url: x", "url.full: x", "tool.host: x", "tool.args: x", "gen_ai.tool.call.arguments: x", "tool.result: x", "gen_ai.tool.call.result: x",
			"decision.effect: x", "decision.by: x", "decision.mode: x", "model.provider: x", "gen_ai.provider.name: x", "model.name: x", "gen_ai.request.model: x", "model.input_tokens: 1",
			"gen_ai.usage.input_tokens: 1", "model.output_tokens: 1", "gen_ai.usage.output_tokens: 1", "text: x", "prompt: x", "response: x", "tool.args.to: x", "tool.args.a.b: x",
		},
	} {
		for _, item := range names {
			if text := problems(t, ruleText(logsource, "s:\n  "+item+"\ncondition: s")); text != "" {
				t.Error(text)
			}
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(ruleText(linux, "s:\n  Image|endswith: ['/a', '\\b.exe']\n  CommandLine|contains|windash: ' -x*?'\nf:\n  CommandLine|re|i: '^a(b|c)'\ncondition: 1 of s* and not (f or f)")))
	f.Add([]byte(ruleText("category: proxy", "s:\n  c-uri-query|endswith: 'a?b'\n  cs-host|cased: x\n  cs-uri-stem: '*'\ncondition: [s, not s]")))
	f.Add([]byte(ruleText("category: network_connection", "s:\n  DestinationIp|cidr: 10.0.0.0/9\n  Initiated: true\ncondition: s")))
	f.Add([]byte(ruleText("product: ai", "k:\n  '|all': [a, null, \"b\\x01\"]\nn:\n  tool.args.x|lt: 3\n  prompt|base64offset|contains: abc\ncondition: all of them")))
	f.Add([]byte("title: c\ncorrelation:\n  type: event_count\n  rules: [a]\n  group-by: [agent.id, tool.name]\n  timespan: 5m\n  condition: {gte: 3}\n---\ntitle: a\nname: a\nlogsource: {product: ai}\ndetection:\n  s: {tool.name: x}\n  condition: s\n"))
	lib := library(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		r := sigma.Import([]sigma.File{{Name: "fuzz.yml", Text: text}}, lib)
		if len(r.Rules)+r.Refused > r.Documents {
			t.Fatalf("%d rules and %d refused of %d documents", len(r.Rules), r.Refused, r.Documents)
		}
		for _, made := range r.Rules {
			parsed, err := detect.ParseRule(made.ID+".yaml", []byte(made.Text), lib)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Lane != detect.Shadow || parsed.ID != made.ID {
				t.Fatalf("lane %s, id %s", parsed.Lane, parsed.ID)
			}
			if _, err := detect.Compile([]detect.Rule{parsed}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
