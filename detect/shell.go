package detect

import (
	"path"
	"slices"
	"strings"
)

// CommandEnv is one simple command of a shell command line. Quoted text is an argument and never a command, so that a rule on
// names is not fooled by a commit message.
type CommandEnv struct {
	Name string `expr:"name"` // base name of the program, lower case, without sudo, env and the like
	Text string `expr:"text"` // the command's words without their quotes, one space apart
	From string `expr:"from"` // names of the commands whose output it takes in, by pipe or substitution, one space apart
}

// Limits on one command line. What is beyond them is not seen.
const (
	maxCommands   = 64
	maxShellDepth = 4 // substitutions, and command lines given to a shell, within each other
)

var (
	shells = []string{"sh", "bash", "zsh", "dash", "ksh", "fish"}
	// wrappers run the command in their arguments; the reserved words stand before one.
	wrappers = []string{
		"sudo", "doas", "env", "nohup", "time", "command", "exec", "builtin", "nice", "setsid", "stdbuf", "xargs", "timeout",
		"if", "then", "else", "elif", "do", "while", "until", "!", "{",
	}
)

// parseCommands reads a POSIX shell command line into its simple commands, those in substitutions and in sh -c included. It
// expands nothing and never fails: what it can't read it takes for words.
func parseCommands(line string) []CommandEnv {
	p := &shellParser{}
	p.line(line, 0)
	return p.out
}

type shellParser struct{ out []CommandEnv }

// simple is the simple command being read.
type simple struct {
	words []string
	word  strings.Builder
	open  bool     // a word has begun, even if it is empty
	from  []string // commands whose output it takes in
	pipe  []string // commands before it in its pipeline
}

func (s *simple) endWord() {
	if s.open {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.open = false
}

func (s *simple) add(text string) {
	s.word.WriteString(text)
	s.open = true
}

// line reads a command line and returns the names of its commands.
func (p *shellParser) line(text string, depth int) (names []string) {
	if depth > maxShellDepth {
		return nil
	}
	s := &simple{}
	here, lineNames := "", 0 // here-document of this line, and the names before it
	end := func(piped bool) {
		s.endWord()
		name := p.end(s, depth)
		if name != "" {
			names = append(names, name)
		}
		next := &simple{}
		if piped {
			next.pipe = slices.Concat(s.pipe, s.from, []string{name})
		}
		s = next
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == ' ' || c == '\t' || c == '\r':
			s.endWord()
			i++
		case c == '#' && !s.open:
			i += lineEnd(text[i:])
		case strings.HasPrefix(text[i:], "<<<"): // the next word is the input
			s.add("<<<")
			i += 3
		case strings.HasPrefix(text[i:], "<<"):
			var n int
			n, here = hereDelimiter(text[i:])
			s.endWord()
			i += n
		case c == '\n':
			end(false)
			body, n := hereBody(text[i+1:], here)
			i += 1 + n
			if slices.ContainsFunc(names[lineNames:], isShell) {
				p.line(body, depth+1)
			}
			here, lineNames = "", len(names)
		case c == '&' && (i > 0 && strings.IndexByte("<>", text[i-1]) >= 0 || strings.HasPrefix(text[i+1:], ">")):
			s.add("&") // a redirection
			i++
		case c == '|' && !strings.HasPrefix(text[i:], "||"):
			end(true)
			if i++; strings.HasPrefix(text[i:], "&") { // |& pipes errors too
				i++
			}
		case strings.IndexByte(";&|()", c) >= 0 && !(c == '(' && i > 0 && strings.IndexByte("$<>", text[i-1]) >= 0):
			end(false)
			i++
		default:
			i += p.piece(text[i:], s, depth, false)
		}
	}
	end(false)
	return names
}

// piece reads one character, quotation, escape or substitution into the command and returns its length.
func (p *shellParser) piece(text string, s *simple, depth int, quoted bool) int {
	switch {
	case text[0] == '\\' && len(text) > 1:
		if text[1] != '\n' {
			s.add(text[1:2])
		}
		return 2
	case text[0] == '\'' && !quoted:
		n := closing(text, '\'')
		s.add(strings.TrimSuffix(text[1:n], "'"))
		return n
	case text[0] == '"' && !quoted:
		s.open = true
		i := 1
		for i < len(text) && text[i] != '"' {
			i += p.piece(text[i:], s, depth, true)
		}
		return min(i+1, len(text))
	case text[0] == '`' || len(text) > 1 && text[1] == '(' && (text[0] == '$' || !quoted && strings.IndexByte("<>", text[0]) >= 0):
		n, inner := substitution(text)
		s.add(text[:n])
		s.from = append(s.from, p.line(inner, depth+1)...)
		return n
	}
	s.add(text[:1])
	return 1
}

// closing returns the length of a quotation up to and with the next quote, or all of the text.
func closing(text string, quote byte) int {
	if i := strings.IndexByte(text[1:], quote); i >= 0 {
		return i + 2
	}
	return len(text)
}

// substitution returns the length of $(...), <(...) or `...` at the start of text, and what is in it.
func substitution(text string) (int, string) {
	if text[0] == '`' {
		n := closing(text, '`')
		return n, strings.Trim(text[:n], "`")
	}
	depth := 0
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '\'':
			i += closing(text[i:], '\'') - 1
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1, text[2:i]
			}
		}
	}
	return len(text), text[2:]
}

func lineEnd(text string) int {
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		return i
	}
	return len(text)
}

// hereDelimiter reads <<WORD and returns its length and the word.
func hereDelimiter(text string) (int, string) {
	rest := strings.TrimLeft(strings.TrimPrefix(text[2:], "-"), " \t")
	n := strings.IndexAny(rest, " \t\n;&|()<>")
	if n < 0 {
		n = len(rest)
	}
	return len(text) - len(rest) + n, strings.Trim(rest[:n], `"'\`)
}

// hereBody returns the body of a here-document and its length with the closing line.
func hereBody(text, delimiter string) (string, int) {
	if delimiter == "" {
		return "", 0
	}
	n := 0
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == delimiter {
			return text[:n], n + len(line)
		}
		n += len(line)
	}
	return text, len(text)
}

// end records the finished command, and the commands in the text that it gives to a shell. It returns its name.
func (p *shellParser) end(s *simple, depth int) string {
	name := programName(s.words)
	if name == "" || len(p.out) >= maxCommands {
		return ""
	}
	from := append(slices.Clone(s.pipe), s.from...)
	p.out = append(p.out, CommandEnv{Name: name, Text: strings.Join(s.words, " "), From: strings.Join(from, " ")})
	if name == "eval" {
		p.line(strings.Join(s.words[1:], " "), depth+1)
	}
	if isShell(name) {
		i := slices.IndexFunc(s.words, func(w string) bool {
			return len(w) > 1 && w[0] == '-' && w[1] != '-' && strings.HasSuffix(w, "c")
		})
		if i > 0 && i+1 < len(s.words) {
			p.line(s.words[i+1], depth+1)
		}
	}
	return name
}

func isShell(name string) bool { return slices.Contains(shells, name) }

// programName is the base name of the program that the words run.
func programName(words []string) string {
	for i := 0; i < len(words); i++ {
		w := words[i]
		if key, _, assigns := strings.Cut(w, "="); assigns && key != "" && !strings.ContainsAny(key, "/.$-") {
			continue
		}
		name := strings.TrimSuffix(strings.ToLower(path.Base(w)), ".exe")
		if !slices.Contains(wrappers, name) {
			return name
		}
		for i+1 < len(words) && wrapperOption(words[i+1]) {
			i++
			if slices.Contains([]string{"-u", "-g", "-I"}, words[i]) && i+2 < len(words) {
				i++ // the option's value
			}
		}
	}
	return ""
}

// wrapperOption tells an option or a duration (timeout 10s) from a program.
func wrapperOption(word string) bool {
	return strings.HasPrefix(word, "-") || strings.Trim(word, "0123456789smh.") == "" && word != ""
}
