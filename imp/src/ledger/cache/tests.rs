#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::store::{ChangeOrder, MemoryStore};
use crate::testing::desired;
use futures::future::BoxFuture;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const PUBLISHER: &str = "055c13d9-943d-459d-a3c6-af1d1176936d";

type Texts = BTreeMap<String, Arc<StoredText>>;

/// What is known is what was there at the last look; before the first one nothing is.
#[derive(Default)]
struct Watched {
    texts: MemoryStore,
    known: Mutex<Option<Texts>>,
    changes: Mutex<ChangeOrder>,
    dead: Mutex<bool>,
}

impl Watched {
    fn look(&self) {
        let (mut known, mut changes) = (self.known.lock(), self.changes.lock());
        let now: Texts = self.texts.all().into_iter().collect();
        let before = known.replace(now.clone()).unwrap_or_default();
        let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
        for name in names.into_iter().filter(|name| before.get(*name) != now.get(*name)) {
            changes.note(name);
        }
    }

    fn known(&self) -> Result<Texts, StoreError> {
        let known = self.known.lock().clone();
        known.ok_or_else(|| StoreError::Unavailable("not listed yet".to_owned()))
    }
}

impl LedgerStore for Watched {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        Ok(self.known()?.remove(name))
    }

    fn changed(&self, since: u64) -> Result<(u64, Vec<Arc<str>>), StoreError> {
        self.known()?;
        Ok(self.changes.lock().since(since))
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        self.texts.read(name)
    }

    /// Where the process is dead, it is done and nobody hears of it.
    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>> {
        Box::pin(async move {
            let written = self.texts.write(name, data, expected).await;
            if *self.dead.lock() {
                return Err(StoreError::Unavailable("no answer".to_owned()));
            }
            self.look();
            written
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        self.texts.key()
    }
}

struct Bench {
    store: Arc<Watched>,
    cache: LedgerCache,
    file: Arc<LedgerFile>,
}

impl Bench {
    /// A ledger that somebody has.
    async fn new() -> Self {
        let store = Arc::new(Watched::default());
        store.look();
        let cache = LedgerCache::new(Arc::clone(&store) as Arc<dyn LedgerStore>);
        let mut bench = Self {
            file: cache.get(PUBLISHER).await.unwrap(),
            store,
            cache,
        };
        bench.save("one").await.unwrap();
        bench
    }

    fn named(&self, name: &str) -> Ledger {
        let mut ledger = self.file.ledger.clone();
        ledger.owner = Some(desired().owner);
        ledger.known_as = BTreeSet::from([name.to_owned()]);
        ledger
    }

    async fn save(&mut self, name: &str) -> Result<(), StoreError> {
        let ledger = self.named(name);
        self.cache.save(&mut self.file, ledger).await
    }

    /// Somebody else writes.
    async fn edit(&self, text: &str) {
        let name = ledger_name(PUBLISHER);
        let stored = self.store.texts.get(&name).unwrap().unwrap();
        let text = if text.is_empty() {
            stored.data.replace("one", "two")
        } else {
            text.to_owned()
        };
        self.store
            .texts
            .write(&name, text, Some(&stored.version))
            .await
            .unwrap();
        self.store.look();
    }

    fn ledgers(&self) -> ResourceLedgers {
        self.cache.of(&desired().owner.uid).unwrap()
    }

    async fn is_distrusted(&self) -> bool {
        self.cache.get(PUBLISHER).await.unwrap().ledger.restored
    }

    async fn names(&self) -> Vec<String> {
        let file = self.cache.get(PUBLISHER).await.unwrap();
        file.ledger.known_as.iter().cloned().collect()
    }
}

#[tokio::test]
async fn nothing_is_taken_for_absent_before_all_is_known() {
    let cache = LedgerCache::new(Arc::new(Watched::default()));
    assert!(cache.get(PUBLISHER).await.is_err());
    assert!(cache.of("r-1").is_err());
}

#[tokio::test]
async fn what_a_person_writes_into_a_ledger_is_seen_at_once() {
    let bench = Bench::new().await;
    let newer = bench.cache.newer(PUBLISHER, Some(&bench.file)).await.unwrap();
    assert!(newer.is_none());
    bench.edit("").await;
    let newer = bench.cache.newer(PUBLISHER, Some(&bench.file)).await.unwrap();
    let mut strange = bench.named("two");
    strange.distrust();
    assert_eq!(newer.unwrap().ledger, strange);
    let change = bench.cache.changed(&ledger_name(PUBLISHER)).unwrap();
    assert_eq!(change.owners, BTreeSet::from([desired().owner]));
    assert!(change.known_as.contains("two") && !change.freed);

    bench.edit("{").await;
    let error = bench.cache.get(PUBLISHER).await.unwrap_err();
    assert!(error.to_string().contains("is not readable"), "{error}");
    // Who has it is known from before.
    let ledgers = bench.ledgers();
    assert!(ledgers.readable.is_empty() && !ledgers.unreadable.is_empty());
    assert!(bench.cache.of("another").unwrap().unreadable.is_empty());
    // Deleted, as the sentence says, it is unknown.
    bench.store.texts.clear();
    bench.store.look();
    assert_eq!(
        bench.cache.get(PUBLISHER).await.unwrap().ledger,
        Ledger::unknown(PUBLISHER)
    );
}

#[tokio::test]
async fn a_ledger_that_somebody_deletes_or_empties_is_made_again_at_the_next_look() {
    for empty in [false, true] {
        let bench = Bench::new().await;
        bench.store.texts.clear();
        if empty {
            let name = ledger_name(PUBLISHER);
            bench.store.texts.write(&name, String::new(), None).await.unwrap();
        }
        bench.store.look();
        assert_eq!(bench.ledgers().readable.len(), 1, "the claim stays");
        assert_eq!(bench.names().await, ["one"]);
        let stored = bench.store.texts.get(&ledger_name(PUBLISHER)).unwrap().unwrap();
        assert!(stored.data.contains("one"), "{stored:?}");
    }
}

#[tokio::test]
async fn a_ledger_that_nobody_has_is_forgotten_when_it_is_deleted() {
    let mut bench = Bench::new().await;
    let ledger = Ledger {
        owner: None,
        ..bench.named("one")
    };
    bench.cache.save(&mut bench.file, ledger).await.unwrap();
    bench.store.texts.clear();
    bench.store.look();
    assert!(bench.ledgers().readable.is_empty());
    assert_eq!(bench.names().await, [""; 0]);
}

#[tokio::test]
async fn after_a_write_without_an_answer_the_ledger_is_read_anew() {
    let mut bench = Bench::new().await;
    *bench.store.dead.lock() = true;
    assert!(bench.save("two").await.is_err());
    *bench.store.dead.lock() = false;
    // The watch does not tell of it yet.
    assert_eq!(bench.names().await, ["two"]);
    assert!(!bench.is_distrusted().await);
}

#[tokio::test]
async fn an_older_text_that_is_put_back_proves_nothing_and_asks_for_nothing() {
    for broken in [false, true] {
        let mut bench = Bench::new().await;
        let older = bench.store.texts.get(&ledger_name(PUBLISHER)).unwrap().unwrap();
        bench.save("two").await.unwrap();
        assert!(!bench.is_distrusted().await);
        if broken {
            bench.edit("{").await;
            assert!(bench.cache.get(PUBLISHER).await.is_err());
        }
        bench.edit(&older.data).await;
        assert_eq!(bench.names().await, ["one"]);
        assert!(bench.is_distrusted().await);
    }
}

#[tokio::test]
async fn a_ledger_whose_text_nobody_changed_is_trusted() {
    let bench = Bench::new().await;
    let same = bench.store.texts.get(&ledger_name(PUBLISHER)).unwrap().unwrap();
    bench.edit(&same.data).await;
    assert!(!bench.is_distrusted().await);
    let other = LedgerCache::new(Arc::clone(&bench.store) as Arc<dyn LedgerStore>);
    assert!(
        !other.get(PUBLISHER).await.unwrap().ledger.restored,
        "what a process finds"
    );
}

/// What somebody does to the ledger of one of three publishers.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// This process writes that it is of that resource; it may not hear the answer.
    Save(usize, Option<&'static str>, bool),
    /// Somebody else writes that, …
    Edit(usize, Option<&'static str>),
    /// … or a text that is no ledger.
    Write(usize, &'static str),
    Delete(usize),
    /// The watch tells of it.
    Told(usize),
    /// The ledgers of all resources are asked for.
    Ask,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = || select(vec![None, Some("a"), Some("b")]);
    let step = prop_oneof![
        3 => (0..3_usize, owner(), any::<bool>()).prop_map(|(at, owner, heard)| Step::Save(at, owner, heard)),
        2 => (0..3_usize, owner()).prop_map(|(at, owner)| Step::Edit(at, owner)),
        2 => (0..3_usize, select(vec!["", "{"])).prop_map(|(at, text)| Step::Write(at, text)),
        2 => (0..3_usize).prop_map(Step::Delete),
        2 => (0..3_usize).prop_map(Step::Told),
        4 => Just(Step::Ask),
    ];
    vec(step, 1..40)
}

fn publisher(at: usize) -> String {
    format!("{at}55c13d9-943d-459d-a3c6-af1d1176936d")
}

fn of(publisher: &str, owner: Option<&str>) -> Ledger {
    Ledger {
        owner: owner.map(|uid| Owner {
            uid: uid.to_owned(),
            ..desired().owner
        }),
        ..Ledger::unknown(publisher)
    }
}

/// What is known of one ledger where each look goes through all texts.
#[derive(Debug, Clone, Default)]
struct Model {
    text: Option<Arc<StoredText>>,
    claim: Option<Claim>,
    broken: bool,
}

impl Model {
    fn look(&mut self, text: Option<Arc<StoredText>>) {
        if self.text == text {
            return;
        }
        self.text = text;
        match self.text.as_deref().filter(|text| !text.data.is_empty()) {
            None if !self.broken && matches!(self.claim, Some(Claim::Of(_))) => {}
            None => (self.claim, self.broken) = (None, false),
            Some(text) if text.data == "{" => self.broken = true,
            Some(text) => (self.claim, self.broken) = (Some(Claim::in_text(&text.data)), false),
        }
    }

    fn is_of(&self, uid: &str) -> bool {
        !self.broken && self.claim == Some(Claim::Of(uid.to_owned()))
    }

    fn may_be_of(&self, uid: &str) -> bool {
        let claim = self.claim.clone().unwrap_or(Claim::Unknown);
        self.broken && [Claim::Unknown, Claim::Of(uid.to_owned())].contains(&claim)
    }
}

async fn each_resource_gets_what_a_look_at_all_texts_gives(steps: Vec<Step>) {
    let store = Arc::new(Watched::default());
    store.look();
    let cache = LedgerCache::new(Arc::clone(&store) as Arc<dyn LedgerStore>);
    let mut models: [Model; 3] = Default::default();
    for step in steps {
        let text = |at: usize| store.texts.get(&ledger_name(&publisher(at))).unwrap();
        let write = async |at: usize, data: String| {
            let before = text(at);
            let version = before.as_ref().map(|text| text.version.as_str());
            let written = store.texts.write(&ledger_name(&publisher(at)), data, version).await;
            written.unwrap();
        };
        match step {
            Step::Save(at, owner, heard) => {
                models[at].look(text(at));
                let Ok(mut file) = cache.get(&publisher(at)).await else {
                    assert!(models[at].broken);
                    continue;
                };
                // One that vanished is made again.
                models[at].look(text(at));
                *store.dead.lock() = !heard;
                let saved = cache.save(&mut file, of(&publisher(at), owner)).await;
                *store.dead.lock() = false;
                assert_eq!(saved.is_ok(), heard);
                if heard {
                    models[at].look(text(at));
                }
            }
            Step::Edit(at, owner) => {
                let ledger = serde_json::json!({"uid": "", "ledger": of(&publisher(at), owner)});
                write(at, ledger.to_string()).await;
            }
            Step::Write(at, data) => write(at, data.to_owned()).await,
            Step::Delete(at) => store.texts.remove(&ledger_name(&publisher(at))),
            Step::Told(at) => {
                cache.changed(&ledger_name(&publisher(at))).unwrap();
                models[at].look(text(at));
            }
            Step::Ask => {
                for (at, model) in models.iter_mut().enumerate() {
                    model.look(text(at));
                }
                for uid in ["a", "b"] {
                    let ledgers = cache.of(uid).unwrap();
                    let all = |is_it: &dyn Fn(&Model) -> bool| -> Vec<String> {
                        let all = models.iter().enumerate().filter(|(_, model)| is_it(model));
                        all.map(|(at, _)| publisher(at)).collect()
                    };
                    let found = ledgers.readable.iter().map(|file| file.ledger.publisher.clone());
                    assert_eq!(found.collect::<Vec<_>>(), all(&|model| model.is_of(uid)), "{uid}");
                    let found = ledgers.unreadable.iter().map(|ledger| ledger.publisher.clone());
                    assert_eq!(found.collect::<Vec<_>>(), all(&|model| model.may_be_of(uid)), "{uid}");
                }
            }
        }
        store.look();
    }
}

proptest! {
    #[test]
    fn each_resource_gets_the_ledgers_that_a_look_at_all_texts_gives(steps in steps()) {
        futures::executor::block_on(each_resource_gets_what_a_look_at_all_texts_gives(steps));
    }
}

#[test]
fn a_text_is_told_once_to_each_that_asks_for_what_changed_since() {
    let mut order = ChangeOrder::default();
    for name in ["one", "two", "one"] {
        order.note(name);
    }
    assert_eq!(order.since(0), (3, vec!["two".into(), "one".into()]));
    assert_eq!(order.since(2), (3, vec!["one".into()]));
    assert_eq!(order.since(3), (3, Vec::new()));
}
