package slackfake

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// node is a part of a message.
type node = map[string]any

// Validate checks blocks or a view as Slack does: known types where they may stand, required parts, and limits in characters.
func Validate(kind string, body json.RawMessage) error {
	if kind == "view" {
		var v node
		if err := json.Unmarshal(body, &v); err != nil {
			return err
		}
		return validView(v)
	}
	var blocks []any
	if err := json.Unmarshal(body, &blocks); err != nil {
		return err
	}
	if len(blocks) == 0 || len(blocks) > 50 {
		return fmt.Errorf("%d blocks, want 1 to 50", len(blocks))
	}
	return validBlocks(blocks, false)
}

func validView(v node) error {
	blocks, _ := v["blocks"].([]any)
	private, _ := v["private_metadata"].(string)
	callback, _ := v["callback_id"].(string)
	inputs := slices.ContainsFunc(blocks, func(b any) bool { n, _ := b.(node); return n["type"] == "input" })
	switch {
	case v["type"] != "modal":
		return fmt.Errorf("type %v, want modal", v["type"])
	case len(blocks) == 0 || len(blocks) > maxViewSet:
		return fmt.Errorf("%d blocks, want 1 to %d", len(blocks), maxViewSet)
	case utf8.RuneCountInString(private) > 3000:
		return errors.New("private_metadata is over 3000 characters")
	case utf8.RuneCountInString(callback) > 255:
		return errors.New("callback_id is over 255 characters")
	case inputs && v["submit"] == nil:
		return errors.New("a view with inputs needs submit")
	}
	for _, part := range []string{"title", "submit", "close"} {
		if v[part] == nil && part != "title" {
			continue
		}
		if err := validText(v[part], 24, false); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return validBlocks(blocks, true)
}

func validBlocks(blocks []any, modal bool) error {
	ids := make(map[string]bool)
	for i, b := range blocks {
		n, ok := b.(node)
		if !ok {
			return fmt.Errorf("block %d is no object", i)
		}
		if id, _ := n["block_id"].(string); id != "" {
			if ids[id] || utf8.RuneCountInString(id) > 255 {
				return fmt.Errorf("block %d: block_id %q is there twice or over 255 characters", i, id)
			}
			ids[id] = true
		}
		if err := validBlock(n, modal); err != nil {
			return fmt.Errorf("block %d (%v): %w", i, n["type"], err)
		}
	}
	return nil
}

func validBlock(n node, modal bool) error {
	elements, _ := n["elements"].([]any)
	switch n["type"] {
	case "divider":
		return nil
	case "header":
		return validText(n["text"], 150, false)
	case "section":
		return validSection(n)
	case "context":
		if len(elements) == 0 || len(elements) > 10 {
			return fmt.Errorf("%d elements, want 1 to 10", len(elements))
		}
		for _, e := range elements {
			if err := validText(e, 2000, true); err != nil {
				return err
			}
		}
		return nil
	case "actions":
		return validActions(elements)
	case "rich_text":
		return validRich(elements)
	case "input":
		if !modal {
			return errors.New("it may only stand in a window")
		}
		return validInput(n)
	}
	return fmt.Errorf("unsupported block type %v", n["type"])
}

func validText(v any, limit int, mrkdwn bool) error {
	n, ok := v.(node)
	if !ok {
		return errors.New("no text object")
	}
	text, _ := n["text"].(string)
	if length := utf8.RuneCountInString(text); length < 1 || length > limit {
		return fmt.Errorf("a text of %d characters, want 1 to %d", length, limit)
	}
	switch {
	case n["type"] == "plain_text" && n["verbatim"] == nil:
	case n["type"] == "mrkdwn" && mrkdwn && n["emoji"] == nil:
	default:
		return fmt.Errorf("text of type %v may not stand here", n["type"])
	}
	return nil
}

func validSection(n node) error {
	fields, _ := n["fields"].([]any)
	if n["text"] == nil && len(fields) == 0 {
		return errors.New("neither text nor fields")
	}
	if n["text"] != nil {
		if err := validText(n["text"], 3000, true); err != nil {
			return err
		}
	}
	if len(fields) > 10 {
		return fmt.Errorf("%d fields, want at most 10", len(fields))
	}
	for _, f := range fields {
		if err := validText(f, 2000, true); err != nil {
			return err
		}
	}
	return nil
}

func validActions(elements []any) error {
	if len(elements) == 0 || len(elements) > 25 {
		return fmt.Errorf("%d elements, want 1 to 25", len(elements))
	}
	actions := make(map[string]bool)
	for _, e := range elements {
		n, _ := e.(node)
		action, _ := n["action_id"].(string)
		value, _ := n["value"].(string)
		link, _ := n["url"].(string)
		switch {
		case n["type"] != "button":
			return fmt.Errorf("element of type %v", n["type"])
		case action == "" || utf8.RuneCountInString(action) > 255 || actions[action]:
			return fmt.Errorf("action_id %q is missing, too long or there twice", action)
		case utf8.RuneCountInString(value) > 2000:
			return errors.New("a button's value is over 2000 characters")
		case utf8.RuneCountInString(link) > 3000:
			return errors.New("a button's url is over 3000 characters")
		case n["style"] != nil && n["style"] != "primary" && n["style"] != "danger":
			return fmt.Errorf("style %v", n["style"])
		}
		actions[action] = true
		if err := validText(n["text"], 75, false); err != nil {
			return err
		}
	}
	return nil
}

func validRich(elements []any) error {
	if len(elements) == 0 {
		return errors.New("no elements")
	}
	for _, e := range elements {
		n, _ := e.(node)
		if !slices.Contains([]any{"rich_text_section", "rich_text_preformatted", "rich_text_quote"}, n["type"]) {
			return fmt.Errorf("element of type %v", n["type"])
		}
		parts, _ := n["elements"].([]any)
		if len(parts) == 0 {
			return errors.New("an element without parts")
		}
		for _, p := range parts {
			n, _ := p.(node)
			text, _ := n["text"].(string)
			if n["type"] != "text" || text == "" || utf8.RuneCountInString(text) > 4000 {
				return fmt.Errorf("a part of type %v with %d characters", n["type"], utf8.RuneCountInString(text))
			}
		}
	}
	return nil
}

func validInput(n node) error {
	if err := validText(n["label"], 2000, false); err != nil {
		return fmt.Errorf("label: %w", err)
	}
	e, _ := n["element"].(node)
	switch e["type"] {
	case "plain_text_input":
		if e["placeholder"] != nil {
			return validText(e["placeholder"], 150, false)
		}
		return nil
	case "radio_buttons":
		options, _ := e["options"].([]any)
		if len(options) == 0 || len(options) > 10 {
			return fmt.Errorf("%d options, want 1 to 10", len(options))
		}
		if e["initial_option"] != nil {
			return errors.New("an option is chosen beforehand")
		}
		for _, o := range options {
			n, _ := o.(node)
			if err := validText(n["text"], 75, true); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("element of type %v", e["type"])
}
