// Command protobuf-oracle answers what the Go types of Kubernetes' API say of its protobuf and CBOR encodings, and what its reader of
// YAML makes of texts.
//
//	protobuf-oracle messages          the table from which Picket reads protobuf (agent/policy/src/body/protobuf/messages.txt)
//	protobuf-oracle pairs COUNT SEED [KIND...]
//	                                  COUNT filled objects of each kind, as protobuf and as JSON, one a line in base64
//	protobuf-oracle cbor COUNT SEED [KIND...]
//	                                  the same as CBOR and as JSON
//	protobuf-oracle yaml              the JSON of each text in YAML, which stand one a line in base64 on standard input; "-" for none
//
// The table comes from the types and not from the .proto files, because JSON's rules are in the types alone: which field is
// left out when it is empty, which is part of its parent, which is a pointer.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	apitesting "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// unmarshaler is what every message has.
type unmarshaler interface{ Unmarshal([]byte) error }

var (
	unmarshalerType = reflect.TypeFor[unmarshaler]()
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	// Messages whose JSON is not an object of their fields.
	special = map[reflect.Type]string{
		reflect.TypeFor[metav1.Time]():          "time",
		reflect.TypeFor[metav1.MicroTime]():     "microtime",
		reflect.TypeFor[metav1.Duration]():      "duration",
		reflect.TypeFor[resource.Quantity]():    "quantity",
		reflect.TypeFor[intstr.IntOrString]():   "int-or-string",
		reflect.TypeFor[runtime.RawExtension](): "raw",
		reflect.TypeFor[metav1.FieldsV1]():      "raw",
	}
)

// table numbers the messages in the order in which they are met.
type table struct {
	numbers map[reflect.Type]int
	order   []reflect.Type
}

func (t *table) number(message reflect.Type) int {
	if number, known := t.numbers[message]; known {
		return number
	}
	t.numbers[message] = len(t.order)
	t.order = append(t.order, message)
	return t.numbers[message]
}

// typeOf names the type of a value on the wire.
func (t *table) typeOf(of reflect.Type) string {
	if name, known := special[of]; known {
		return name
	}
	if reflect.PointerTo(of).Implements(jsonMarshaler) {
		panic(fmt.Sprintf("%v has a JSON of its own", of))
	}
	switch of.Kind() {
	case reflect.Bool, reflect.Int32, reflect.Int64, reflect.String:
		return of.Kind().String()
	case reflect.Float64:
		return "double"
	case reflect.Slice:
		// A list of texts that is a message itself, such as Verbs.
		if reflect.PointerTo(of).Implements(unmarshalerType) && of.Elem().Kind() == reflect.String {
			return "texts"
		}
		if of.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
	case reflect.Struct:
		return strconv.Itoa(t.number(of))
	}
	panic(fmt.Sprintf("no encoding of %v", of))
}

// field writes one line: number, JSON's name, how often, when it is left out, type.
func (t *table) field(of reflect.StructField) string {
	wire, tagged := of.Tag.Lookup("protobuf")
	name, options, _ := strings.Cut(of.Tag.Get("json"), ",")
	if !tagged {
		if of.Type != reflect.TypeFor[metav1.TypeMeta]() {
			panic(fmt.Sprintf("%v is not on the wire", of))
		}
		return ""
	}
	number := strings.Split(wire, ",")[1]
	if name == "-" {
		panic(fmt.Sprintf("%v is not in JSON", of))
	}
	often, inner := "one", of.Type
	_, isSpecial := special[of.Type]
	isMessage := reflect.PointerTo(of.Type).Implements(unmarshalerType)
	switch kind := of.Type.Kind(); {
	case isSpecial || isMessage:
	case kind == reflect.Pointer:
		often, inner = "pointer", of.Type.Elem()
	case kind == reflect.Slice && of.Type.Elem().Kind() != reflect.Uint8:
		often, inner = "list", of.Type.Elem()
	case kind == reflect.Map:
		if of.Type.Key().Kind() != reflect.String {
			panic(fmt.Sprintf("%v has keys that are no text", of))
		}
		often, inner = "map", of.Type.Elem()
	}
	left := "never"
	switch {
	case name == "" && (of.Anonymous || strings.Contains(options, "inline")):
		name, left = "-", "inline"
	case strings.Contains(options, "omitzero"):
		left = "zero"
	case strings.Contains(options, "omitempty"):
		left = "empty"
	}
	return strings.Join([]string{number, name, often, left, t.typeOf(inner)}, " ")
}

// kinds gives every kind that can be a request's body.
func kinds() []schema.GroupVersionKind {
	var found []schema.GroupVersionKind
	for kind, of := range scheme.Scheme.AllKnownTypes() {
		_, isList := of.FieldByName("Items")
		isMeta := of.PkgPath() == reflect.TypeFor[metav1.Time]().PkgPath()
		if kind.Version == runtime.APIVersionInternal || isList || isMeta {
			continue
		}
		found = append(found, kind)
	}
	found = append(found, schema.GroupVersion{Version: "v1"}.WithKind("DeleteOptions"))
	sort.Slice(found, func(a, b int) bool { return found[a].String() < found[b].String() })
	return found
}

func messages(out *bufio.Writer) {
	messages := table{numbers: map[reflect.Type]int{}}
	fmt.Fprintln(out, "# Generated: `go run . messages` in tests/protobuf-oracle. Format: table.rs.")
	for _, kind := range kinds() {
		of := scheme.Scheme.AllKnownTypes()[kind]
		if kind.Kind == "DeleteOptions" {
			// Every group has it.
			fmt.Fprintln(out, "kind *", kind.Kind, messages.number(reflect.TypeFor[metav1.DeleteOptions]()))
			continue
		}
		fmt.Fprintln(out, "kind", kind.GroupVersion(), kind.Kind, messages.number(of))
	}
	for next := 0; next < len(messages.order); next++ {
		message := messages.order[next]
		fmt.Fprintln(out, "message", strings.TrimPrefix(message.PkgPath(), "k8s.io/")+"."+message.Name())
		for index := range message.NumField() {
			if line := messages.field(message.Field(index)); line != "" {
				fmt.Fprintln(out, line)
			}
		}
	}
}

func pairs(out *bufio.Writer, codec runtime.Serializer, count int, seed int64, only []string) {
	fuzzer := apitesting.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), serializer.NewCodecFactory(scheme.Scheme))
	for _, kind := range kinds() {
		if len(only) > 0 && !slices.Contains(only, kind.GroupVersion().String()+"/"+kind.Kind) {
			continue
		}
		for range count {
			object, err := scheme.Scheme.New(kind)
			if err != nil {
				panic(err)
			}
			fuzzer.Fill(object)
			object.GetObjectKind().SetGroupVersionKind(kind)
			var encoded bytes.Buffer
			if err := codec.Encode(object, &encoded); err != nil {
				panic(err)
			}
			// What an API server finds in it, and writes.
			decoded, _, err := codec.Decode(encoded.Bytes(), nil, nil)
			if err != nil {
				panic(err)
			}
			decoded.GetObjectKind().SetGroupVersionKind(kind)
			text, err := json.Marshal(decoded)
			if err != nil {
				// A time that JSON has no text for.
				continue
			}
			base64 := base64.StdEncoding.EncodeToString
			fmt.Fprintln(out, kind.GroupVersion(), kind.Kind, base64(encoded.Bytes()), base64(text))
		}
	}
}

// readYAML reads texts as the API server does for application/yaml and for applies.
func readYAML(out *bufio.Writer) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text, err := base64.StdEncoding.DecodeString(lines.Text())
		if err != nil {
			panic(err)
		}
		read, err := yaml.YAMLToJSON(text)
		if err != nil {
			read = []byte("-")
		}
		fmt.Fprintf(out, "%s\n", read)
	}
	if err := lines.Err(); err != nil {
		panic(err)
	}
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	switch {
	case len(os.Args) == 2 && os.Args[1] == "messages":
		messages(out)
	case len(os.Args) >= 4 && (os.Args[1] == "pairs" || os.Args[1] == "cbor"):
		var codec runtime.Serializer = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
		if os.Args[1] == "cbor" {
			codec = cbor.NewSerializer(scheme.Scheme, scheme.Scheme)
		}
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		seed, err := strconv.ParseInt(os.Args[3], 10, 64)
		if err != nil {
			panic(err)
		}
		pairs(out, codec, count, seed, os.Args[4:])
	case len(os.Args) == 2 && os.Args[1] == "yaml":
		readYAML(out)
	default:
		fmt.Fprintln(os.Stderr, "usage: protobuf-oracle messages | pairs COUNT SEED [KIND...] | cbor COUNT SEED [KIND...] | yaml")
		os.Exit(2)
	}
}
