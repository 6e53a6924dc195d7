//! What the cluster told of one kind of object.
//!
//! In: events of a watch. Out: the facts of every object, and what each event changed. While a new list comes in the old
//! one stands; objects that nobody told of again go with its end.

use std::collections::BTreeMap;

use kube::runtime::watcher;

use super::projections::{Key, Projection};

/// Addresses, ports and names kept of one kind of object, of all objects together: several times what the largest
/// clusters have (150,000 pods), and tens of megabytes. Whoever may make objects could otherwise fill the node's memory.
const ROOM: usize = 1_000_000;

/// What an event changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<F> {
    /// Nothing that matters.
    Nothing,
    /// One object; what it was before, where it was there. What it is now is in [`ObjectCache::get`].
    One(Key, Option<F>),
    /// Any number of them.
    Many,
}

/// All objects of a kind.
#[derive(Debug)]
pub(super) struct ObjectCache<F> {
    known: Kept<F>,
    /// A new list while it is coming in.
    coming: Kept<F>,
    /// Whether a whole list has come in once.
    whole: bool,
}

#[derive(Debug)]
struct Kept<F> {
    objects: BTreeMap<Key, F>,
    size: usize,
    omitted: usize,
}

impl<F> Default for Kept<F> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            size: 0,
            omitted: 0,
        }
    }
}

impl<F> Default for ObjectCache<F> {
    fn default() -> Self {
        Self {
            known: Kept::default(),
            coming: Kept::default(),
            whole: false,
        }
    }
}

impl<F: Projection> Kept<F> {
    /// Replaces the facts of an object; gives what they were.
    fn put(&mut self, key: Key, facts: Option<F>) -> Option<F> {
        let before = self.objects.remove(&key);
        self.size -= before.as_ref().map_or(0, cost);
        if let Some(facts) = facts {
            if self.size + cost(&facts) > ROOM {
                self.omitted += 1;
                tracing::error!(
                    namespace = key.0,
                    name = key.1,
                    limit = ROOM,
                    "there is no room to remember what this object leads to: where it leads to a protected endpoint, it is open"
                );
            } else {
                self.size += cost(&facts);
                self.objects.insert(key, facts);
            }
        }
        before
    }
}

/// An object without addresses takes room too.
fn cost<F: Projection>(facts: &F) -> usize {
    facts.size() + 1
}

impl<F: Projection> ObjectCache<F> {
    /// Takes an event in.
    pub(super) fn take(&mut self, event: watcher::Event<F::Object>) -> Change<F> {
        let (key, facts) = match event {
            watcher::Event::Init => {
                self.coming = Kept::default();
                return Change::Nothing;
            }
            watcher::Event::InitApply(object) => {
                self.coming.put(F::key(&object), F::read(&object));
                return Change::Nothing;
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.coming));
                let first = !std::mem::replace(&mut self.whole, true);
                let changed = first || before.objects != self.known.objects;
                return if changed { Change::Many } else { Change::Nothing };
            }
            watcher::Event::Apply(object) => (F::key(&object), F::read(&object)),
            watcher::Event::Delete(object) => (F::key(&object), None),
        };
        let before = self.known.put(key.clone(), facts);
        if before.as_ref() == self.get(&key) {
            return Change::Nothing;
        }
        Change::One(key, before)
    }

    /// One object's facts.
    pub(super) fn get(&self, key: &Key) -> Option<&F> {
        self.known.objects.get(key)
    }

    /// All objects.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &F)> {
        self.known.objects.iter()
    }

    /// Whether a whole list has come in once.
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    /// How many objects there was no room for since the last list.
    pub(super) fn omitted(&self) -> usize {
        self.known.omitted
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::super::projections::SliceProjection;
    use super::*;

    fn slice(name: &str, addresses: &[String], version: u32) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "x", "name": name, "resourceVersion": version.to_string(),
                         "labels": {"kubernetes.io/service-name": "api"}},
            "addressType": "IPv4", "endpoints": [{"addresses": addresses}], "ports": [{"port": 6443}],
        }))
        .unwrap()
    }

    fn key(name: &str) -> Key {
        ("x".into(), name.into())
    }

    #[test]
    fn the_old_list_stands_until_the_new_one_is_whole() {
        let one = ["10.0.0.1".to_owned()];
        let mut listed = ObjectCache::<SliceProjection>::default();
        listed.take(Event::Init);
        listed.take(Event::InitApply(slice("a", &one, 1)));
        listed.take(Event::InitApply(slice("b", &one, 1)));
        assert!(!listed.whole() && listed.get(&key("a")).is_none());
        assert_eq!(listed.take(Event::InitDone), Change::Many);
        assert!(listed.whole() && listed.get(&key("a")).is_some());
        listed.take(Event::Init);
        listed.take(Event::InitApply(slice("b", &one, 2)));
        assert!(listed.get(&key("a")).is_some());
        assert_eq!(listed.take(Event::InitDone), Change::Many);
        assert!(listed.get(&key("a")).is_none());
    }

    #[test]
    fn a_change_that_means_nothing_is_none() {
        let one = ["10.0.0.1".to_owned()];
        let mut listed = ObjectCache::<SliceProjection>::default();
        assert_eq!(
            listed.take(Event::Apply(slice("a", &one, 1))),
            Change::One(key("a"), None)
        );
        assert_eq!(listed.take(Event::Apply(slice("a", &one, 2))), Change::Nothing);
        let Change::One(_, Some(before)) = listed.take(Event::Apply(slice("a", &["10.0.0.2".to_owned()], 3)))
        else {
            panic!("no change");
        };
        assert_eq!(
            *before.addresses,
            ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
        );
        assert!(matches!(
            listed.take(Event::Delete(slice("a", &one, 4))),
            Change::One(_, Some(_))
        ));
        assert_eq!(listed.take(Event::Delete(slice("a", &one, 4))), Change::Nothing);
    }

    #[test]
    fn there_is_an_end_to_the_room() {
        let many: Vec<String> = (0..60_000_u32)
            .map(|number| std::net::Ipv4Addr::from(number + 1).to_string())
            .collect();
        let mut listed = ObjectCache::<SliceProjection>::default();
        for number in 0..20 {
            listed.take(Event::Apply(slice(&number.to_string(), &many, 1)));
        }
        assert_eq!((listed.iter().count(), listed.omitted()), (16, 4));
        listed.take(Event::Delete(slice("0", &many, 2)));
        listed.take(Event::Apply(slice("19", &many, 2)));
        assert!(
            listed.get(&key("19")).is_some(),
            "room that was given back is used"
        );
    }
}
