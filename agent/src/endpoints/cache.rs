//! The objects of one kind, as the API server's watch gives them.
//!
//! In: events of a watch. Out: the facts of every object, and what each event changed. While a new list comes in the old one
//! stands. Objects that are not in the new list go with its end.
//!
//! Agents may be able to make such objects. So what is kept is bounded, for all namespaces and for each. At the bound, what
//! leads to a protected endpoint is still kept, and what is known is never given up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube::runtime::watcher;

use super::derive::is_own;
use super::projections::{Key, Projection};

/// Addresses, ports and names kept of one kind of object, of all objects together: several times what the largest
/// clusters have (150,000 pods), and tens of megabytes. Whoever may make objects could otherwise fill the node's memory.
const CAPACITY: usize = 1_000_000;

/// The same of one namespace's objects, so that who fills one takes no room from the others.
const NAMESPACE_CAPACITY: usize = CAPACITY / 4;

/// The same with what leads to a protected endpoint.
const ESSENTIAL_CAPACITY: usize = 2 * CAPACITY;

/// Objects without room that are known by name, so that their number follows their updates and ends: some megabytes.
const OMITTED_NAMED: usize = 10_000;

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
    by_namespace: HashMap<String, usize>,
    omitted: Omitted,
}

/// Which objects there was no room for, and is none yet.
#[derive(Debug, Default)]
struct Omitted {
    objects: BTreeSet<Key>,
    /// Events of objects beyond [`OMITTED_NAMED`], which cannot be told apart; they count until the next list.
    others: usize,
}

impl Omitted {
    fn add(&mut self, key: Key) {
        if self.objects.len() < OMITTED_NAMED || self.objects.contains(&key) {
            self.objects.insert(key);
        } else {
            self.others += 1;
        }
    }

    /// What is known of the object is current again, or the object is gone.
    fn remove(&mut self, key: &Key) {
        self.objects.remove(key);
    }

    fn len(&self) -> usize {
        self.objects.len() + self.others
    }
}

impl<F> Default for Kept<F> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            size: 0,
            by_namespace: HashMap::new(),
            omitted: Omitted::default(),
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
    /// Replaces the facts of an object; gives what they were. Where there is no room, `essential` says what must be kept of
    /// them all the same; where that is nothing, what was known stands.
    fn put(&mut self, key: Key, facts: Option<F>, essential: impl Fn(&Key, &F) -> Option<F>) -> Option<F> {
        let Some(facts) = facts else {
            self.omitted.remove(&key);
            return self.replace(key, None);
        };
        if self.fits(&key, &facts) {
            self.omitted.remove(&key);
            return self.replace(key, Some(facts));
        }
        let essential = essential(&key, &facts);
        // The API server's own two objects always have room, whatever others bring.
        let has_room = |essential: &F| {
            is_own(&key.0, &key.1)
                || self.size - self.objects.get(&key).map_or(0, cost) + cost(essential) <= ESSENTIAL_CAPACITY
        };
        if let Some(essential) = essential
            && has_room(&essential)
        {
            self.omitted.remove(&key);
            return self.replace(key, Some(essential));
        }
        tracing::error!(
            namespace = key.0,
            name = key.1,
            limit = CAPACITY,
            namespace_limit = NAMESPACE_CAPACITY,
            "the agent has no room for an object's addresses: enforced pods can reach a protected endpoint through the object once it \
             leads to one"
        );
        let before = self.objects.get(&key).cloned();
        self.omitted.add(key);
        before
    }

    /// Whether there is room for an object, in the place of what is known of it.
    fn fits(&self, key: &Key, facts: &F) -> bool {
        let before = self.objects.get(key).map_or(0, cost);
        let of_namespace = self.by_namespace.get(&key.0).copied().unwrap_or_default();
        // Objects without a namespace are nodes, which no agent makes.
        let shared = key.0.is_empty() || of_namespace - before + cost(facts) <= NAMESPACE_CAPACITY;
        shared && self.size - before + cost(facts) <= CAPACITY
    }

    fn replace(&mut self, key: Key, facts: Option<F>) -> Option<F> {
        let more = facts.as_ref().map_or(0, cost);
        let before = match facts {
            Some(facts) => self.objects.insert(key.clone(), facts),
            None => self.objects.remove(&key),
        };
        let less = before.as_ref().map_or(0, cost);
        self.size = self.size + more - less;
        let of_namespace = self.by_namespace.get(&key.0).copied().unwrap_or_default() + more - less;
        if of_namespace == 0 {
            self.by_namespace.remove(&key.0);
        } else {
            self.by_namespace.insert(key.0, of_namespace);
        }
        before
    }
}

/// An object without addresses takes room too.
fn cost<F: Projection>(facts: &F) -> usize {
    facts.size() + 1
}

impl<F: Projection> ObjectCache<F> {
    /// Takes an event in. `essential` says what must be kept of an object that there is no room for.
    pub(super) fn take(
        &mut self,
        event: watcher::Event<F::Object>,
        essential: impl Fn(&Key, &F) -> Option<F>,
    ) -> Change<F> {
        let (key, facts) = match event {
            watcher::Event::Init => {
                self.coming = Kept::default();
                return Change::Nothing;
            }
            watcher::Event::InitApply(object) => {
                self.coming.put(F::key(&object), F::read(&object), essential);
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
        let before = self.known.put(key.clone(), facts, essential);
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

    /// How many objects there is no room for; of more than [`OMITTED_NAMED`] at least so many.
    pub(super) fn omitted(&self) -> usize {
        self.known.omitted.len()
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

    /// Nothing is essential.
    fn nothing(_: &Key, _: &SliceProjection) -> Option<SliceProjection> {
        None
    }

    #[test]
    fn the_old_list_stands_until_the_new_one_is_whole() {
        let one = ["10.0.0.1".to_owned()];
        let mut listed = ObjectCache::<SliceProjection>::default();
        listed.take(Event::Init, nothing);
        listed.take(Event::InitApply(slice("a", &one, 1)), nothing);
        listed.take(Event::InitApply(slice("b", &one, 1)), nothing);
        assert!(!listed.whole() && listed.get(&key("a")).is_none());
        assert_eq!(listed.take(Event::InitDone, nothing), Change::Many);
        assert!(listed.whole() && listed.get(&key("a")).is_some());
        listed.take(Event::Init, nothing);
        listed.take(Event::InitApply(slice("b", &one, 2)), nothing);
        assert!(listed.get(&key("a")).is_some());
        assert_eq!(listed.take(Event::InitDone, nothing), Change::Many);
        assert!(listed.get(&key("a")).is_none());
    }

    #[test]
    fn a_change_that_means_nothing_is_none() {
        let one = ["10.0.0.1".to_owned()];
        let mut listed = ObjectCache::<SliceProjection>::default();
        assert_eq!(
            listed.take(Event::Apply(slice("a", &one, 1)), nothing),
            Change::One(key("a"), None)
        );
        assert_eq!(
            listed.take(Event::Apply(slice("a", &one, 2)), nothing),
            Change::Nothing
        );
        let Change::One(_, Some(before)) =
            listed.take(Event::Apply(slice("a", &["10.0.0.2".to_owned()], 3)), nothing)
        else {
            panic!("no change");
        };
        assert_eq!(
            *before.addresses,
            ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
        );
        assert!(matches!(
            listed.take(Event::Delete(slice("a", &one, 4)), nothing),
            Change::One(_, Some(_))
        ));
        assert_eq!(
            listed.take(Event::Delete(slice("a", &one, 4)), nothing),
            Change::Nothing
        );
    }

    fn many(namespace: &str, name: &str, count: u32) -> EndpointSlice {
        let addresses: Vec<String> = (0..count)
            .map(|number| std::net::Ipv4Addr::from(number + 1).to_string())
            .collect();
        let mut slice = slice(name, &addresses, 1);
        slice.metadata.namespace = Some(namespace.to_owned());
        slice
    }

    #[test]
    fn there_is_an_end_to_the_room_and_to_each_namespaces() {
        let mut listed = ObjectCache::<SliceProjection>::default();
        let mut kept = [0; 6];
        for (number, kept) in kept.iter_mut().enumerate() {
            for name in 0..5 {
                let namespace = format!("n{number}");
                listed.take(Event::Apply(many(&namespace, &name.to_string(), 60_000)), nothing);
                *kept += usize::from(listed.get(&(namespace, name.to_string())).is_some());
            }
        }
        assert_eq!((kept, listed.omitted()), ([4, 4, 4, 4, 0, 0], 14));
        listed.take(Event::Delete(many("n0", "0", 60_000)), nothing);
        listed.take(Event::Apply(many("n4", "0", 60_000)), nothing);
        assert_eq!(listed.omitted(), 13, "one of them has room now");
        assert!(
            listed.get(&("n4".into(), "0".into())).is_some(),
            "room that was given back is used"
        );
    }

    #[test]
    fn the_number_of_objects_without_room_follows_the_present_state() {
        let mut listed = ObjectCache::<SliceProjection>::default();
        for name in ["a", "b", "c", "d"] {
            listed.take(Event::Apply(many("n", name, 60_000)), nothing);
        }
        for _ in 0..3 {
            listed.take(Event::Apply(many("n", "e", 60_000)), nothing);
            listed.take(Event::Apply(many("n", "f", 60_000)), nothing);
        }
        assert_eq!(
            listed.omitted(),
            2,
            "an object counts once, however often it is updated"
        );
        listed.take(Event::Delete(many("n", "e", 60_000)), nothing);
        assert_eq!(listed.omitted(), 1, "one is gone");
        listed.take(Event::Apply(many("n", "f", 10)), nothing);
        assert_eq!(listed.omitted(), 0, "the other is smaller, and fits");
    }

    #[test]
    fn objects_without_room_take_no_memory_without_end() {
        let mut omitted = Omitted::default();
        for number in 0..OMITTED_NAMED + 5 {
            omitted.add(key(&number.to_string()));
        }
        omitted.add(key("0"));
        assert_eq!(
            (omitted.objects.len(), omitted.len()),
            (OMITTED_NAMED, OMITTED_NAMED + 5)
        );
        omitted.remove(&key("0"));
        assert_eq!(omitted.len(), OMITTED_NAMED + 4);
    }

    #[test]
    fn what_is_known_stays_and_what_is_essential_comes_in() {
        let mut listed = ObjectCache::<SliceProjection>::default();
        let own = || ("n0".to_owned(), "own".to_owned());
        listed.take(Event::Apply(many("n0", "own", 1)), nothing);
        for name in 0..5 {
            listed.take(Event::Apply(many("n0", &name.to_string(), 49_999 - 1)), nothing);
        }
        assert_eq!(listed.omitted(), 1);
        // An update that does not fit takes nothing away.
        assert_eq!(
            listed.take(Event::Apply(many("n0", "own", 60_000)), nothing),
            Change::Nothing
        );
        assert_eq!(listed.get(&own()).map(|slice| slice.addresses.len()), Some(1));
        // One that leads to a protected endpoint is kept as far as it does.
        let first_two = |_: &Key, slice: &SliceProjection| {
            Some(SliceProjection {
                addresses: slice.addresses[..2].into(),
                ..slice.clone()
            })
        };
        let Change::One(..) = listed.take(Event::Apply(many("n0", "own", 60_000)), first_two) else {
            panic!("no change");
        };
        assert_eq!(listed.get(&own()).map(|slice| slice.addresses.len()), Some(2));
    }
}
