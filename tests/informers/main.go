// Command informers runs many informers of client-go on one ConfigMap inside a pod. It says when all have listed, and then
// with each value of the ConfigMap's `count` that all of them have it. How often they list shows in the API server's log.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// seen counts the informers that have had each value.
type seen struct {
	sync.Mutex
	all    int
	values map[string]int
}

func (s *seen) note(object any) {
	value := object.(*corev1.ConfigMap).Data["count"]
	s.Lock()
	defer s.Unlock()
	s.values[value]++
	if s.values[value] == s.all {
		fmt.Printf("all have %s\n", value)
	}
}

func run(namespace, name, agent string, count int) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.UserAgent = agent
	// What is asked is asked at once, as by programs with few informers each.
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	values := &seen{all: count, values: map[string]int{}}
	var synced []cache.InformerSynced
	for range count {
		watched := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", namespace,
			fields.OneTermEqualSelector("metadata.name", name))
		informer := cache.NewSharedIndexInformer(watched, &corev1.ConfigMap{}, 0, cache.Indexers{})
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    values.note,
			UpdateFunc: func(_, object any) { values.note(object) },
		}); err != nil {
			return err
		}
		go informer.RunWithContext(context.Background())
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(context.Background().Done(), synced...) {
		return fmt.Errorf("the informers do not sync")
	}
	fmt.Println("synced")
	select {}
}

func main() {
	namespace := flag.String("namespace", "lab", "the ConfigMap's namespace")
	name := flag.String("name", "tick", "the ConfigMap's name")
	agent := flag.String("agent", "informers", "the User-Agent")
	count := flag.Int("count", 50, "how many informers")
	flag.Parse()
	if err := run(*namespace, *name, *agent, *count); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
