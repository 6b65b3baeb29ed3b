package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/covey-mail/covey/node"
)

// maxConfig bounds the configuration file in bytes.
const maxConfig = 1 << 20

// source says where a node's configuration comes from, weakest first: defaults,
// the file, the environment, the command line.
type source struct {
	file   string
	data   string
	offset int
	flags  map[string]string // of other keys, by "table.key", as the environment has them
	getenv func(string) (string, bool)
}

// load reads the configuration.
func (s source) load() (node.Config, error) {
	over := fileConfig{}
	if s.file != "" {
		if err := over.read(s.file); err != nil {
			return node.Config{}, err
		}
	}
	if err := over.environ(s.getenv); err != nil {
		return node.Config{}, err
	}
	if err := over.apply(s.flags); err != nil {
		return node.Config{}, err
	}
	data := s.data
	if data == "" {
		data = over.Node.Data
	}
	if data == "" {
		return node.Config{}, errors.New("no data folder: give --data DIR, or [node] data in --config FILE, or COVEY_NODE_DATA")
	}
	data, err := filepath.Abs(data)
	if err != nil {
		return node.Config{}, fmt.Errorf("data folder: %w", err)
	}
	cfg := node.DefaultConfig(data, s.offset)
	merge(reflect.ValueOf(&cfg).Elem(), reflect.ValueOf(&over.Config).Elem(), over.set)
	cfg.Node.Data = data
	return cfg, nil
}

// fileConfig is a configuration in which it is known which keys were given.
type fileConfig struct {
	node.Config
	set map[string]bool // "table.key"
}

// read reads a TOML file; a key that is not known is an error that shows its
// line.
func (f *fileConfig) read(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	if len(b) > maxConfig {
		return fmt.Errorf("configuration %s is larger than %d bytes", name, maxConfig)
	}
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&f.Config); err != nil {
		return fmt.Errorf("configuration %s: %s", name, explainTOML(err))
	}
	var given map[string]map[string]any
	if err := toml.Unmarshal(b, &given); err != nil {
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	f.set = make(map[string]bool)
	for table, keys := range given {
		for key := range keys {
			f.set[table+"."+key] = true
		}
	}
	return nil
}

// explainTOML gives the line and column of what is wrong.
func explainTOML(err error) string {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		row, _ := e.Position()
		return fmt.Sprintf("line %d: unknown key %q", row, strings.Join(e.Key(), "."))
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		row, col := dec.Position()
		return fmt.Sprintf("line %d, column %d: %v", row, col, dec)
	}
	return err.Error()
}

// environ applies COVEY_TABLE_KEY variables; lists are separated by commas.
func (f *fileConfig) environ(getenv func(string) (string, bool)) error {
	if f.set == nil {
		f.set = make(map[string]bool)
	}
	return eachKey(reflect.ValueOf(&f.Config).Elem(), func(path string, v reflect.Value) error {
		name := "COVEY_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
		text, ok := getenv(name)
		if !ok {
			return nil
		}
		f.set[path] = true
		if err := setText(v, text); err != nil {
			return fmt.Errorf("%s=%q: %w", name, text, err)
		}
		return nil
	})
}

// apply applies what the command line says of keys.
func (f *fileConfig) apply(flags map[string]string) error {
	return eachKey(reflect.ValueOf(&f.Config).Elem(), func(path string, v reflect.Value) error {
		text, ok := flags[path]
		if !ok {
			return nil
		}
		f.set[path] = true
		if err := setText(v, text); err != nil {
			return fmt.Errorf("%s %q on the command line: %w", path, text, err)
		}
		return nil
	})
}

// eachKey calls fn for each key of each table of a node.Config.
func eachKey(cfg reflect.Value, fn func(path string, v reflect.Value) error) error {
	for i := range cfg.NumField() {
		table := cfg.Type().Field(i).Tag.Get("toml")
		if table == "-" || table == "" {
			continue
		}
		for k := range cfg.Field(i).NumField() {
			key := cfg.Field(i).Type().Field(k).Tag.Get("toml")
			if err := fn(table+"."+key, cfg.Field(i).Field(k)); err != nil {
				return err
			}
		}
	}
	return nil
}

func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("want true or false")
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errors.New("want a whole number")
		}
		v.SetInt(n)
	case reflect.Slice:
		list := []string{}
		for s := range strings.SplitSeq(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		v.Set(reflect.ValueOf(list))
	default:
		panic("configuration key of kind " + v.Kind().String())
	}
	return nil
}

// merge copies the keys that were given from one configuration to another.
func merge(to, from reflect.Value, given map[string]bool) {
	values := make(map[string]reflect.Value)
	_ = eachKey(from, func(path string, v reflect.Value) error { values[path] = v; return nil })
	_ = eachKey(to, func(path string, v reflect.Value) error {
		if given[path] {
			v.Set(values[path])
		}
		return nil
	})
}
