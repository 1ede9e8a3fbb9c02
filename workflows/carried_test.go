package workflows

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tocsin-dr/tocsin/baselines"
)

// TestStateIsCarriedWhole: whatever an incident knows is there again after it continued as new, each field of it.
func TestStateIsCarriedWhole(t *testing.T) {
	var state, carried State
	fill(reflect.ValueOf(&state).Elem(), 0)
	text, err := json.Marshal(state)
	if err == nil {
		err = json.Unmarshal(text, &carried)
	}
	if diff := cmp.Diff(state, carried); err != nil || diff != "" {
		t.Errorf("%v (-state +carried):\n%s", err, diff)
	}
}

// fill gives each field a value of its own, however deep.
func fill(v reflect.Value, n int) int {
	n++
	if at, ok := v.Addr().Interface().(*time.Time); ok {
		*at = time.Unix(int64(n), 0).UTC()
		return n
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			// What an anomaly does not keep, it says itself.
			if unkept := f.Tag.Get("json") == "-" && v.Type() == reflect.TypeFor[baselines.Anomaly](); f.IsExported() && !unkept {
				n = fill(v.Field(i), n)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		n = fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		n = fill(v.Index(0), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		n = fill(value, fill(key, n))
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("s" + time.Duration(n).String())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(n % 100))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n % 100))
	case reflect.Float64:
		v.SetFloat(float64(n))
	}
	return n
}
