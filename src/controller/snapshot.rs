//! What the operator knows of the objects of one kind, in memory: fed by one watch per namespace, and by
//! the answers to its own writes, which come before the watch tells of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;

use super::names::ObjectName;

/// The namespace that a watch covers; `None`: all.
pub type Scope = Option<String>;

/// The objects of one kind, each projected to what is read of it.
#[derive(Debug)]
pub struct Snapshot<T>(RwLock<Objects<T>>);

#[derive(Debug)]
struct Objects<T> {
    held: BTreeMap<ObjectName, Held<T>>,
    /// Lists under way, with the names that they showed.
    listing: HashMap<Scope, HashSet<ObjectName>>,
    /// Scopes of which a whole list arrived.
    listed: HashSet<Scope>,
    /// Lists that began or ended.
    lists: u64,
    /// Versions up to which nothing is taken of objects that are gone: an answer may come after the watch told that.
    deleted: HashMap<ObjectName, u64>,
    changes: u64,
}

/// Deletions remembered; an answer comes within seconds.
const DELETIONS: usize = 4096;

#[derive(Debug)]
struct Held<T> {
    version: u64,
    value: Arc<T>,
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self(RwLock::new(Objects {
            held: BTreeMap::new(),
            listing: HashMap::new(),
            listed: HashSet::new(),
            lists: 0,
            deleted: HashMap::new(),
            changes: 0,
        }))
    }
}

/// A resourceVersion as a number: versions of one kind are comparable so (KEP-5504). One that is no number
/// is newer than none and older than any.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

fn covers(scope: &Scope, name: &ObjectName) -> bool {
    scope.as_ref().is_none_or(|namespace| *namespace == name.namespace)
}

impl<T: PartialEq> Objects<T> {
    fn put(&mut self, name: &ObjectName, version: u64, value: T) -> bool {
        let is_old = |known: u64| version <= known && version != 0;
        if self.deleted.get(name).is_some_and(|deleted| is_old(*deleted)) {
            return false;
        }
        let differs = match self.held.get(name) {
            Some(held) if is_old(held.version) => return false,
            Some(held) => *held.value != value,
            None => true,
        };
        self.deleted.remove(name);
        let value = Arc::new(value);
        self.held.insert(name.clone(), Held { version, value });
        self.changes += u64::from(differs);
        differs
    }
}

impl<T: PartialEq> Snapshot<T> {
    /// A list of the scope begins.
    pub fn list_begins(&self, scope: &Scope) {
        let mut objects = self.0.write();
        objects.lists += 1;
        objects.listing.insert(scope.clone(), HashSet::new());
    }

    /// The list is complete: what it did not show is gone. Which.
    pub fn list_ends(&self, scope: &Scope) -> Vec<(ObjectName, Arc<T>)> {
        let mut objects = self.0.write();
        objects.lists += 1;
        objects.listed.insert(scope.clone());
        let Some(shown) = objects.listing.remove(scope) else {
            return Vec::new();
        };
        let gone = objects
            .held
            .extract_if(.., |name, _| covers(scope, name) && !shown.contains(name));
        let gone: Vec<_> = gone.collect();
        for (name, held) in &gone {
            // One that is younger than the list comes back by the watch, which may tell of older versions first.
            objects.deleted.insert(name.clone(), held.version.saturating_sub(1));
        }
        objects.changes += u64::try_from(gone.len()).unwrap_or(1);
        gone.into_iter().map(|(name, held)| (name, held.value)).collect()
    }

    /// The scope cannot be listed now, and nobody waits for that.
    pub fn list_fails(&self, scope: &Scope) {
        self.0.write().listed.insert(scope.clone());
    }

    /// What is so counts no more.
    pub fn drop_where(&self, is_so: impl Fn(&ObjectName, &T) -> bool) {
        let mut objects = self.0.write();
        let before = objects.held.len();
        objects.held.retain(|name, held| !is_so(name, &held.value));
        let dropped = before - objects.held.len();
        objects.changes += u64::try_from(dropped).unwrap_or(1);
    }

    /// Takes in an object from a list or a watch. Whether that is news: it is not older than what is known, and
    /// what is read of it differs.
    pub fn see(&self, name: &ObjectName, version: &str, value: T) -> bool {
        let mut objects = self.0.write();
        for (scope, shown) in &mut objects.listing {
            if covers(scope, name) {
                shown.insert(name.clone());
            }
        }
        objects.put(name, number(version), value)
    }

    /// How many lists began or ended; to be asked before a write.
    pub fn lists(&self) -> u64 {
        self.0.read().lists
    }

    /// Takes in the answer to a write that was sent at that count of lists. Where there was a list since, the object
    /// may be gone again unseen: the watch that follows the list tells of it. Whether there was none.
    pub fn answered(&self, name: &ObjectName, version: &str, value: T, lists: u64) -> bool {
        let mut objects = self.0.write();
        let in_time = objects.lists == lists;
        if in_time {
            objects.put(name, number(version), value);
        }
        in_time
    }

    /// The watch tells that an object was deleted in that version. Whether it was known, and not made anew
    /// since.
    pub fn gone(&self, name: &ObjectName, version: &str) -> bool {
        let mut objects = self.0.write();
        let version = number(version);
        if objects
            .held
            .get(name)
            .is_some_and(|held| version < held.version && version != 0)
        {
            return false;
        }
        if objects.deleted.len() >= DELETIONS {
            objects.deleted.clear();
        }
        // A list may have shown that a younger one is gone.
        let gone = objects.deleted.entry(name.clone()).or_default();
        *gone = version.max(*gone);
        let known = objects.held.remove(name).is_some();
        objects.changes += u64::from(known);
        known
    }

    /// How often something changed.
    pub fn changes(&self) -> u64 {
        self.0.read().changes
    }

    /// Whether each of the scopes was listed once.
    pub fn is_complete(&self, scopes: &[Scope]) -> bool {
        let objects = self.0.read();
        scopes.iter().all(|scope| objects.listed.contains(scope))
    }

    pub fn get(&self, name: &ObjectName) -> Option<Arc<T>> {
        self.0.read().held.get(name).map(|held| Arc::clone(&held.value))
    }

    /// Those of that namespace whose names begin so.
    pub fn beginning_with(&self, prefix: &ObjectName) -> Vec<Arc<T>> {
        let objects = self.0.read();
        let following = objects.held.range(prefix..);
        following
            .take_while(|(name, _)| name.namespace == prefix.namespace && name.name.starts_with(&prefix.name))
            .map(|(_, held)| Arc::clone(&held.value))
            .collect()
    }

    /// All of them with their names.
    pub fn named(&self) -> Vec<(ObjectName, Arc<T>)> {
        let objects = self.0.read();
        let named = objects.held.iter();
        named
            .map(|(name, held)| (name.clone(), Arc::clone(&held.value)))
            .collect()
    }

    /// The names of those of which that holds.
    pub fn names_of(&self, holds: impl Fn(&T) -> bool) -> Vec<ObjectName> {
        let objects = self.0.read();
        let found = objects.held.iter().filter(|(_, held)| holds(&held.value));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.0
            .read()
            .held
            .values()
            .map(|held| Arc::clone(&held.value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(namespace: &str, name: &str) -> ObjectName {
        ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_list_of_one_namespace_replaces_that_namespace_only() {
        let snapshot = Snapshot::default();
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        // Two watches start at once, and their lists come mixed.
        snapshot.list_begins(&a);
        snapshot.list_begins(&b);
        snapshot.see(&name("a", "one"), "1", 1);
        assert_eq!(snapshot.list_ends(&a), []);
        snapshot.see(&name("b", "two"), "2", 2);
        assert_eq!(snapshot.list_ends(&b), []);
        assert_eq!(snapshot.all().len(), 2);
        assert!(snapshot.is_complete(&[a.clone(), b.clone()]));
        // One of them is told that its version is too old, and lists anew.
        snapshot.list_begins(&a);
        let gone: Vec<ObjectName> = snapshot.list_ends(&a).into_iter().map(|(name, _)| name).collect();
        assert_eq!(gone, [name("a", "one")]);
        assert_eq!(*snapshot.get(&name("b", "two")).unwrap(), 2);
    }

    #[test]
    fn nobody_waits_for_a_list_that_fails_and_what_is_over_is_dropped() {
        let (snapshot, a) = (Snapshot::default(), Some("a".to_owned()));
        snapshot.list_fails(&a);
        assert!(snapshot.is_complete(&[a]));
        snapshot.see(&name("a", "one"), "1", 1);
        snapshot.see(&name("a", "two"), "2", 2);
        let before = snapshot.changes();
        snapshot.drop_where(|_, value| *value == 1);
        assert_eq!(snapshot.named().len(), 1);
        assert_eq!(snapshot.changes(), before + 1);
    }

    #[test]
    fn an_answer_that_comes_behind_a_list_waits_for_the_watch() {
        let snapshot = Snapshot::default();
        let sent = snapshot.lists();
        snapshot.list_begins(&None);
        snapshot.list_ends(&None);
        snapshot.answered(&name("a", "written"), "7", 7, sent);
        assert!(snapshot.get(&name("a", "written")).is_none());
        snapshot.answered(&name("a", "written"), "7", 7, snapshot.lists());
        assert!(snapshot.get(&name("a", "written")).is_some());
    }

    #[test]
    fn what_a_list_has_shown_to_be_gone_does_not_come_back_older() {
        let (snapshot, object) = (Snapshot::default(), name("a", "one"));
        snapshot.list_begins(&None);
        snapshot.answered(&object, "4", 4, snapshot.lists());
        snapshot.list_ends(&None);
        // The watch goes on from the list, and comes by what happened before the write.
        snapshot.gone(&object, "2");
        assert!(!snapshot.see(&object, "3", 3));
        assert!(snapshot.see(&object, "4", 4));
    }

    /// What happens between an API server, a watch per namespace, and an operator that writes.
    #[derive(Debug, Clone)]
    enum Step {
        /// Somebody writes (`true`) or deletes an object.
        Somebody(usize, usize, bool),
        /// The operator writes an object; its answer is under way.
        Operator(usize, usize),
        /// The oldest of these answers goes in.
        Answer,
        /// The watch of a namespace tells the next thing that happened there.
        Watch(usize),
        /// It lists anew (410), and the objects arrive at once or are still under way.
        Begin(usize),
        End(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..2_usize, 0..3_usize, any::<bool>()).prop_map(|(n, o, put)| Step::Somebody(n, o, put)),
            (0..2_usize, 0..3_usize).prop_map(|(n, o)| Step::Operator(n, o)),
            Just(Step::Answer),
            (0..2_usize).prop_map(Step::Watch),
            (0..2_usize).prop_map(Step::Watch),
            (0..2_usize).prop_map(Step::Begin),
            (0..2_usize).prop_map(Step::End),
        ];
        proptest::collection::vec(step, 1..80)
    }

    /// An API server with two namespaces, and what the watch of each has not told yet.
    #[derive(Default)]
    struct Server {
        version: u64,
        stored: HashMap<ObjectName, u64>,
        untold: [Vec<(ObjectName, u64, bool)>; 2],
        listed: [Option<Vec<(ObjectName, u64)>>; 2],
    }

    const NAMESPACES: [&str; 2] = ["a", "b"];

    impl Server {
        fn write(&mut self, namespace: usize, object: usize, put: bool) -> (ObjectName, u64) {
            let name = name(NAMESPACES[namespace], &object.to_string());
            if put || self.stored.contains_key(&name) {
                self.version += 1;
                if put {
                    self.stored.insert(name.clone(), self.version);
                } else {
                    self.stored.remove(&name);
                }
                self.untold[namespace].push((name.clone(), self.version, put));
            }
            (name, self.version)
        }

        fn tell(&mut self, snapshot: &Snapshot<u64>, namespace: usize) {
            if self.listed[namespace].is_none() && !self.untold[namespace].is_empty() {
                let (name, version, put) = self.untold[namespace].remove(0);
                if put {
                    snapshot.see(&name, &version.to_string(), version);
                } else {
                    snapshot.gone(&name, &version.to_string());
                }
            }
        }

        fn begin(&mut self, snapshot: &Snapshot<u64>, namespace: usize) {
            snapshot.list_begins(&Some(NAMESPACES[namespace].to_owned()));
            let mine = self
                .stored
                .iter()
                .filter(|(name, _)| name.namespace == NAMESPACES[namespace]);
            self.listed[namespace] = Some(mine.map(|(name, version)| (name.clone(), *version)).collect());
            // A watch goes on from the version of the list.
            self.untold[namespace].clear();
        }

        fn end(&mut self, snapshot: &Snapshot<u64>, namespace: usize) {
            for (name, version) in self.listed[namespace].take().unwrap_or_default() {
                snapshot.see(&name, &version.to_string(), version);
            }
            snapshot.list_ends(&Some(NAMESPACES[namespace].to_owned()));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_order_nothing_goes_back_and_the_end_is_what_is_stored(steps in steps()) {
            let (mut server, snapshot) = (Server::default(), Snapshot::default());
            let mut newest: HashMap<ObjectName, u64> = HashMap::new();
            let mut answers: Vec<(ObjectName, u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Somebody(namespace, object, put) => {
                        server.write(namespace, object, put);
                    }
                    Step::Operator(namespace, object) => {
                        let sent = snapshot.lists();
                        let (name, version) = server.write(namespace, object, true);
                        answers.push((name, version, sent));
                    }
                    Step::Answer if answers.is_empty() => {}
                    Step::Answer => {
                        let (name, version, sent) = answers.remove(0);
                        snapshot.answered(&name, &version.to_string(), version, sent);
                    }
                    Step::Watch(namespace) => server.tell(&snapshot, namespace),
                    Step::Begin(namespace) => {
                        if server.listed[namespace].is_none() {
                            server.begin(&snapshot, namespace);
                        }
                    }
                    Step::End(namespace) => {
                        if server.listed[namespace].is_some() {
                            server.end(&snapshot, namespace);
                        }
                    }
                }
                for object in 0..3 {
                    for namespace in NAMESPACES {
                        let name = name(namespace, &object.to_string());
                        if let Some(version) = snapshot.get(&name) {
                            let before = newest.insert(name, *version).unwrap_or(0);
                            prop_assert!(*version >= before, "{} after {before}", *version);
                        }
                    }
                }
            }
            for namespace in 0..NAMESPACES.len() {
                if server.listed[namespace].is_some() {
                    server.end(&snapshot, namespace);
                }
                while !server.untold[namespace].is_empty() {
                    server.tell(&snapshot, namespace);
                }
            }
            for (name, version, sent) in answers {
                snapshot.answered(&name, &version.to_string(), version, sent);
            }
            for object in 0..3 {
                for namespace in NAMESPACES {
                    let name = name(namespace, &object.to_string());
                    let (known, stored) = (snapshot.get(&name), server.stored.get(&name));
                    prop_assert_eq!(known.as_deref(), stored);
                }
            }
        }
    }
}
