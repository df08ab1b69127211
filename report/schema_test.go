package report

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// schemaPath is where the JSON Schema of the reports is kept for users. It is made of the types
// that are written: go test ./report -update writes it again.
const schemaPath = "../docs/report.schema.json"

// TestSchema holds that the JSON Schema is that of the types. That what is written keeps to it
// is tested on every image of the corpus.
func TestSchema(t *testing.T) {
	r := &jsonschema.Reflector{
		Anonymous: true, DoNotReference: false, ExpandedStruct: false,
		Namer: func(t reflect.Type) string {
			name := strings.TrimPrefix(t.Name(), "json")
			if name == "" {
				return ""
			}
			return strings.ToLower(name[:1]) + name[1:]
		},
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[check.Verdict]():
				s := &jsonschema.Schema{Type: "string"}
				for _, v := range verdictList {
					s.Enum = append(s.Enum, string(v))
				}
				return s
			case reflect.TypeFor[problem.Code]():
				return &jsonschema.Schema{Type: "string", Pattern: "^[A-Z]{3}[0-9]{3}$"}
			case reflect.TypeFor[uint64](), reflect.TypeFor[uint32](), reflect.TypeFor[uint8]():
				return &jsonschema.Schema{Type: "integer", Minimum: json.Number("0")}
			}
			return nil
		},
	}
	image, failed := r.Reflect(&jsonImage{}), r.Reflect(&jsonFailed{})
	all := &jsonschema.Schema{
		Version: "https://json-schema.org/draft/2020-12/schema",
		Title:   "What qcheck --output=json says of an image",
		Description: "One object for an image; `--output=json` writes an array of them for several images, `--output=jsonl` one a line. " +
			"docs/json.md says what each key means. Later versions may add keys.",
		OneOf:       []*jsonschema.Schema{{Ref: "#/$defs/image"}, {Ref: "#/$defs/failed"}, {Type: "array", Items: &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Ref: "#/$defs/image"}, {Ref: "#/$defs/failed"}}}}},
		Definitions: image.Definitions,
	}
	for name, d := range failed.Definitions {
		all.Definitions[name] = d
	}
	b, err := json.MarshalIndent(all, "", "  ")
	require.NoError(t, err)
	b = append(b, '\n')
	if *update {
		require.NoError(t, os.WriteFile(schemaPath, b, 0o644))
	}
	is, err := os.ReadFile(schemaPath)
	require.NoError(t, err)
	require.True(t, bytes.Equal(is, b), "%s is not that of the types any more: go test ./report -update", schemaPath)
}
