package app

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/strict"
)

// The configuration that the page shows is one.
func TestActionExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/actions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	var c Config
	if err := strict.YAML("docs/actions.md", []byte(text), &c); err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[ActionOptions]().NumField() {
		if reflect.TypeFor[ActionOptions]().Field(i).Name == "Elsewhere" { // of the page operate.md
			continue
		}
		if reflect.ValueOf(c.Actions).Field(i).IsNil() {
			t.Errorf("the page has no example of %s", reflect.TypeFor[ActionOptions]().Field(i).Tag.Get("yaml"))
		}
	}
}

// Every section of the configuration is on the page of actions, is checked, and makes an action that ships.
func TestActionSections(t *testing.T) {
	page, err := os.ReadFile("../../docs/actions.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := reflect.TypeFor[ActionOptions]()
	for i := range sections.NumField() {
		if sections.Field(i).Name == "Elsewhere" {
			continue
		}
		var o ActionOptions
		field, key := reflect.ValueOf(&o).Elem().Field(i), sections.Field(i).Tag.Get("yaml")
		if !strings.Contains(string(page), "`actions."+key+"`") {
			t.Errorf("docs/actions.md does not name actions.%s", key)
		}
		none := len(o.ship(nil, nil))
		field.Set(reflect.New(field.Type().Elem()))
		if err := o.check(); err == nil || !strings.HasPrefix(err.Error(), "actions."+key) {
			t.Errorf("an empty section %s passes: %v", key, err)
		}
		made := o.ship(nil, nil)
		if len(made) == none {
			t.Errorf("section %s makes no action", key)
		}
		for _, a := range made {
			if _, ok := action.Descriptions()[a.Describe().Name]; !ok {
				t.Errorf("%s does not ship", a.Describe().Name)
			}
		}
	}
}
