// The API server's own reading of requests, and its own RBAC authorizer, for tests that compare Picket's with them.
//
// `roles` prints the cluster roles that every cluster starts with, one a line, aggregated ones with the rules that a cluster's
// controller gives them. `judge` reads a Question a line and
// prints an array of Verdicts a line, in the same order.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

const (
	agent = "agent"
	role  = "role"
)

// Question is a role, bound to the agent, and the agent's requests.
type Question struct {
	Rules []rbacv1.PolicyRule `json:"rules"`
	// Namespaces are those that role bindings bind the role in. Without any, a cluster role binding binds it.
	Namespaces []string  `json:"namespaces"`
	Requests   []Request `json:"requests"`
}

// Request is the request line of HTTP without its version.
type Request struct {
	Method string `json:"method"`
	Target string `json:"target"`
}

// Verdict is what the API server makes of a request.
type Verdict struct {
	// Error is why the API server cannot read the request; there is nothing else then.
	Error string `json:"error,omitempty"`

	IsResource  bool   `json:"isResource"`
	Verb        string `json:"verb"`
	Path        string `json:"path"`
	Group       string `json:"group"`
	Version     string `json:"version"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	// FieldSelector and LabelSelector are there where the API server heeds them.
	FieldSelector string `json:"fieldSelector"`
	LabelSelector string `json:"labelSelector"`

	Allowed bool `json:"allowed"`
	// MayCreate is the verdict on the same request with the verb create, for which handlers ask a second time: those of
	// a patch or an update that creates, and those of a session that is opened by GET.
	MayCreate bool `json:"mayCreate"`
}

func main() {
	// RequestInfo logs each query that it cannot read.
	logs := flag.NewFlagSet("logs", flag.ContinueOnError)
	klog.InitFlags(logs)
	if err := logs.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"}); err != nil {
		panic(err)
	}
	klog.SetOutput(io.Discard)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	answers := json.NewEncoder(out)
	if len(arguments) != 1 {
		return fmt.Errorf("usage: rbac-oracle roles|judge")
	}
	switch arguments[0] {
	case "roles":
		roles := append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...)
		for _, role := range roles {
			rules, err := rulesOf(role, roles)
			if err != nil {
				return err
			}
			if err := answers.Encode(map[string]any{"name": role.Name, "rules": rules}); err != nil {
				return err
			}
		}
		return nil
	case "judge":
		questions := json.NewDecoder(bufio.NewReader(os.Stdin))
		for {
			var question Question
			if err := questions.Decode(&question); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			verdicts, err := judge(&question)
			if err != nil {
				return err
			}
			if err := answers.Encode(verdicts); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("no mode %q", arguments[0])
	}
}

// rulesOf gives the rules of a role, and of the roles that it aggregates.
func rulesOf(role rbacv1.ClusterRole, roles []rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	rules := role.Rules
	if role.AggregationRule == nil {
		return rules, nil
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, other := range roles {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			more, err := rulesOf(other, roles)
			if err != nil {
				return nil, err
			}
			rules = append(rules, more...)
		}
	}
	return rules, nil
}

func judge(question *Question) ([]Verdict, error) {
	objects := &objects{question}
	authorizer := rbac.New(objects, objects, objects, objects)
	verdicts := make([]Verdict, 0, len(question.Requests))
	for _, asked := range question.Requests {
		verdict, err := one(authorizer, asked)
		if err != nil {
			verdict = Verdict{Error: err.Error()}
		}
		verdicts = append(verdicts, verdict)
	}
	return verdicts, nil
}

// The prefixes of the API server (cmd/kube-apiserver builds its own factory of the same two).
var infos = request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

func one(rules *rbac.RBACAuthorizer, asked Request) (Verdict, error) {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: kubernetes\r\n\r\n", asked.Method, asked.Target)
	read, err := http.ReadRequest(bufio.NewReader(bytes.NewReader([]byte(head))))
	if err != nil {
		return Verdict{}, err
	}
	info, err := infos.NewRequestInfo(read)
	if err != nil {
		return Verdict{}, err
	}
	ctx := request.WithUser(context.Background(), &user.DefaultInfo{Name: agent})
	attributes, err := filters.GetAuthorizerAttributes(request.WithRequestInfo(ctx, info))
	if err != nil {
		return Verdict{}, err
	}
	verdict := Verdict{
		IsResource: info.IsResourceRequest, Verb: info.Verb, Path: info.Path, Group: info.APIGroup,
		Version: info.APIVersion, Resource: info.Resource, Subresource: info.Subresource, Namespace: info.Namespace,
		Name: info.Name, FieldSelector: info.FieldSelector, LabelSelector: info.LabelSelector,
	}
	if verdict.Allowed, err = allows(ctx, rules, attributes); err != nil {
		return Verdict{}, err
	}
	verdict.MayCreate, err = allows(ctx, rules, &creating{attributes})
	return verdict, err
}

func allows(ctx context.Context, rules *rbac.RBACAuthorizer, attributes authorizer.Attributes) (bool, error) {
	decision, _, err := rules.Authorize(ctx, attributes)
	return decision == authorizer.DecisionAllow, err
}

// creating is a request as the handler asks a second time, before it creates.
type creating struct{ authorizer.Attributes }

func (*creating) GetVerb() string { return "create" }

// objects are the RBAC objects of one question.
type objects struct{ question *Question }

func (o *objects) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: o.question.Rules}, nil
}

func (o *objects) GetRole(_ context.Context, _, name string) (*rbacv1.Role, error) {
	return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
}

func (o *objects) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	if len(o.question.Namespaces) > 0 {
		return nil, nil
	}
	return []*rbacv1.ClusterRoleBinding{{Subjects: subjects(), RoleRef: ref()}}, nil
}

func (o *objects) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	for _, bound := range o.question.Namespaces {
		if bound == namespace {
			return []*rbacv1.RoleBinding{{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Subjects: subjects(), RoleRef: ref(),
			}}, nil
		}
	}
	return nil, nil
}

func subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: agent}}
}

func ref() rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
}
