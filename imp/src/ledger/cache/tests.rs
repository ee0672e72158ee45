#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::store::MemoryStore;
use crate::testing::desired;
use futures::future::BoxFuture;

const PUBLISHER: &str = "055c13d9-943d-459d-a3c6-af1d1176936d";

type Texts = Vec<(String, Arc<StoredText>)>;

/// What is known is what was there at the last look; before the first one nothing is.
#[derive(Default)]
struct Watched {
    texts: MemoryStore,
    known: Mutex<Option<Texts>>,
    dead: Mutex<bool>,
}

impl Watched {
    fn look(&self) {
        *self.known.lock() = Some(self.texts.all().unwrap());
    }
}

impl LedgerStore for Watched {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        Ok(self
            .all()?
            .into_iter()
            .find_map(|(known, text)| (known == name).then_some(text)))
    }

    fn all(&self) -> Result<Vec<(String, Arc<StoredText>)>, StoreError> {
        let known = self.known.lock().clone();
        known.ok_or_else(|| StoreError::Unavailable("not listed yet".to_owned()))
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
    assert!(cache.all().is_err());
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
    let AllLedgers { readable, unreadable } = bench.cache.all().unwrap();
    assert!(readable.is_empty() && unreadable.iter().all(|ledger| !ledger.may_be_of("another")));
    assert!(unreadable.iter().any(|ledger| ledger.may_be_of(&desired().owner.uid)));
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
        assert_eq!(bench.cache.all().unwrap().readable.len(), 1, "the claim stays");
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
    assert!(bench.cache.all().unwrap().readable.is_empty());
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
