package containers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A schema is one of Kubernetes' OpenAPI schemas, as far as they use the language.
type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 string             `json:"type"`
	Format               string             `json:"format"`
	Properties           map[string]*schema `json:"properties"`
	Required             []string           `json:"required"`
	Items                *schema            `json:"items"`
	AdditionalProperties *schema            `json:"additionalProperties"`
	OneOf                []*schema          `json:"oneOf"`
	GroupVersionKind     []kind             `json:"x-kubernetes-group-version-kind"`
}

type kind struct{ Group, Version, Kind string }

func (k kind) apiVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// schemas are by name. They were taken from the OpenAPI description of Kubernetes
// 1.30 (Apache License 2.0), without what is only for people.
type schemas map[string]*schema

func readSchemas(t *testing.T) schemas {
	t.Helper()
	b, err := os.ReadFile("testdata/kubernetes-1.30.json")
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var all schemas
	if err := dec.Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

// object checks a whole object, whose schema its kind tells.
func (all schemas) object(v map[string]any) []string {
	for _, s := range all {
		for _, k := range s.GroupVersionKind {
			if k.Kind == v["kind"] && k.apiVersion() == v["apiVersion"] {
				return all.check(s, v, "")
			}
		}
	}
	return []string{fmt.Sprintf("%v of %v is not known", v["kind"], v["apiVersion"])}
}

// check returns what is wrong with v, fields that the schema does not know among
// it.
func (all schemas) check(s *schema, v any, at string) (wrong []string) {
	if s.Ref != "" {
		return all.check(all[s.Ref], v, at)
	}
	if len(s.OneOf) > 0 {
		if !slices.ContainsFunc(s.OneOf, func(one *schema) bool { return len(all.check(one, v, at)) == 0 }) {
			wrong = append(wrong, fmt.Sprintf("%s: %v is none of the types it may be", at, v))
		}
		return wrong
	}
	switch is := v.(type) {
	case map[string]any:
		if s.Type != "object" {
			return []string{at + ": an object where " + s.Type + " is wanted"}
		}
		for _, name := range s.Required {
			if _, ok := is[name]; !ok {
				wrong = append(wrong, at+"."+name+" is missing")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(is)) {
			of := s.Properties[name]
			if of == nil {
				of = s.AdditionalProperties
			}
			if of == nil {
				wrong = append(wrong, at+"."+name+" is not known")
				continue
			}
			wrong = append(wrong, all.check(of, is[name], at+"."+name)...)
		}
	case []any:
		if s.Type != "array" {
			return []string{at + ": a list where " + s.Type + " is wanted"}
		}
		for i, item := range is {
			wrong = append(wrong, all.check(s.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	default:
		if got := typeOf(v); got != s.Type && !(got == "integer" && s.Type == "number") {
			wrong = append(wrong, fmt.Sprintf("%s: %v is %s, want %s", at, v, got, s.Type))
		}
	}
	return wrong
}

func typeOf(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case int, int64, uint64:
		return "integer"
	case float64:
		return "number"
	}
	return fmt.Sprintf("%T", v)
}

// manifests returns the objects in deploy/kubernetes, by file. The kustomization is
// not among them: it is no object of the API.
func manifests(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	all := make(map[string]map[string]any)
	for _, f := range files {
		name := filepath.Base(f)
		if name == "kustomization.yaml" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := yaml.Unmarshal(b, &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = v
	}
	return all
}

// The manifests are what Kubernetes takes: no field that it does not know, none
// missing, each of its type.
func TestKubernetesManifests(t *testing.T) {
	all := readSchemas(t)
	for name, v := range manifests(t) {
		for _, wrong := range all.object(v) {
			t.Errorf("%s%s", name, wrong)
		}
	}
}

// The check finds what people get wrong.
func TestKubernetesCheckHasTeeth(t *testing.T) {
	all := readSchemas(t)
	good, err := os.ReadFile("../../deploy/kubernetes/statefulset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"serviceName: covey-nodes", "servicename: covey-nodes", ".spec.servicename is not known"},
		{"replicas: 3", "replicas: three", ".spec.replicas: three is string, want integer"},
		{"periodSeconds: 10", "periodSecs: 10", ".livenessProbe.periodSecs is not known"},
		{"port: metrics}", "port: [metrics]}", ".httpGet.port: [metrics] is none of the types"},
		{"apiVersion: apps/v1", "apiVersion: apps/v1beta1", "is not known"},
		{"- topologyKey: kubernetes.io/hostname\n              labelSelector", "- labelSelector", ".topologyKey is missing"},
		{"drop: [ALL]", "drop: ALL", ".drop: ALL is string, want array"},
	} {
		bad := strings.ReplaceAll(string(good), tt.old, tt.new)
		var v map[string]any
		if err := yaml.Unmarshal([]byte(bad), &v); err != nil {
			t.Errorf("%q: %v", tt.new, err)
			continue
		}
		if got := strings.Join(all.object(v), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%q for %q: found %q, want %q", tt.new, tt.old, got, tt.want)
		}
	}
}

// What the files say of each other is so: names, labels, ports.
func TestKubernetesManifestsFit(t *testing.T) {
	files := manifests(t)
	dig := func(v any, path ...string) any {
		for _, p := range path {
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no %s on the way of %v", p, path)
			}
			v = m[p]
		}
		return v
	}
	set := files["statefulset.yaml"]
	labels := fmt.Sprint(dig(set, "spec", "template", "metadata", "labels"))
	ports := make(map[any]bool)
	container := dig(set, "spec", "template", "spec", "containers").([]any)[0]
	for _, p := range dig(container, "ports").([]any) {
		ports[dig(p, "name")] = true
	}
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		if port := dig(container, probe, "httpGet", "port"); !ports[port] {
			t.Errorf("%s asks port %v", probe, port)
		}
	}
	for _, name := range []string{"service.yaml", "service-nodes.yaml"} {
		if got := fmt.Sprint(dig(files[name], "spec", "selector")); got != labels {
			t.Errorf("%s selects %s, the pods have %s", name, got, labels)
		}
		for _, p := range dig(files[name], "spec", "ports").([]any) {
			if target := dig(p, "targetPort"); !ports[target] {
				t.Errorf("%s leads to port %v, which no container has", name, target)
			}
		}
	}
	if got, want := dig(files["service-nodes.yaml"], "metadata", "name"), dig(set, "spec", "serviceName"); got != want {
		t.Errorf("the service of the nodes is %v, the set wants %v", got, want)
	}
	if got := fmt.Sprint(dig(files["disruption.yaml"], "spec", "selector", "matchLabels")); got != labels {
		t.Errorf("the budget counts %s, the pods have %s", got, labels)
	}
}
