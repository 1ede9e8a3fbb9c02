package detect

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-dr/tocsin/internal/strict"
)

// OverlaysFile is the file of a directory of rules that overlays stand in.
const OverlaysFile = overlaysFile

// maxReason bounds the reason of an overlay, in bytes.
const maxReason = 1000

// SetLane returns the text of an overlays file with a rule's lane and the reason for it; all else in it stays, comments too.
func SetLane(text []byte, rule string, lane Lane, reason string) ([]byte, error) {
	if err := checkOverlay(rule, Overlay{Reason: reason}); err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, strict.Explain(overlaysFile, err, reflect.TypeFor[map[string]Overlay]())
	}
	var out bytes.Buffer
	if len(document.Content) == 0 {
		out.Write(text) // comments
		document = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want a map of rules to what is changed", overlaysFile, root.Line)
	}
	overlay := entry(root, rule)
	if overlay.Kind != yaml.MappingNode {
		*overlay = yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	}
	set(overlay, "lane", string(lane))
	set(overlay, "reason", reason)
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(&document), encoder.Close()); err != nil {
		return nil, fmt.Errorf("encode %s: %w", overlaysFile, err)
	}
	return out.Bytes(), strict.YAML(overlaysFile, out.Bytes(), &map[string]Overlay{})
}

// entry is the value of a key of a map, which gets the key if it has not.
func entry(of *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(of.Content); i += 2 {
		if of.Content[i].Value == key {
			return of.Content[i+1]
		}
	}
	value := &yaml.Node{}
	of.Content = append(of.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	return value
}

func set(of *yaml.Node, key, value string) {
	node := entry(of, key)
	comment := node.LineComment
	node.SetString(value)
	node.LineComment = comment
}

// checkOverlay refuses what no rule can be.
func checkOverlay(rule string, o Overlay) error {
	if len(o.Reason) > maxReason {
		return fmt.Errorf("%s: %s: reason: %d bytes, at most %d", o.place(rule, "reason"), rule, len(o.Reason), maxReason)
	}
	for _, c := range []choice{{"lane", string(o.Lane), laneNames()}, {"severity", string(o.Severity), severityNames()}} {
		if err := c.check(); err != nil && c.value != "" {
			return fmt.Errorf("%s: %s: %s: %w", o.place(rule, c.field), rule, c.field, err)
		}
	}
	return nil
}
