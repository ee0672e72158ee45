//! What tests of this crate and of the operator share.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use xmpp_federation_core::{Activation, ForeignComponents, SecretBytes};

use crate::access::{Credentials, SecretVersion, ServerTrust, Target};
use crate::desired::{Desired, Owner, Place, Requests, RestartMode, RestartPolicy, SlotSource};
use crate::guard::Guard;
use crate::ledger::file::publisher_of;
use crate::store::{LedgerStore, MemoryStore, StoreError, StoredText};

/// ConfigMaps in memory, whose writes are counted and can be made to fail.
#[derive(Default)]
pub struct TestStore {
    store: MemoryStore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    writes: u64,
    ledger_writes: u64,
    dead: bool,
}

impl TestStore {
    /// How many writes there were.
    pub fn writes(&self) -> u64 {
        self.state.lock().unwrap().writes
    }

    /// How many of them were into a cluster's ledger; the others note the use of accounts.
    pub fn ledger_writes(&self) -> u64 {
        self.state.lock().unwrap().ledger_writes
    }

    /// Writes fail from now on, as those of a process that died, or work again.
    pub fn set_dead(&self, dead: bool) {
        self.state.lock().unwrap().dead = dead;
    }

    /// Loses everything, as a cluster rebuilt from Git does.
    pub fn lose(&self) {
        self.store.clear();
    }

    /// All texts, by name.
    pub fn all(&self) -> Vec<(String, Arc<StoredText>)> {
        self.store.all()
    }

    /// Everything in it, for looking for secrets.
    pub fn text(&self) -> String {
        format!("{:?}", self.store)
    }
}

impl LedgerStore for TestStore {
    fn get(&self, name: &str) -> Result<Option<Arc<StoredText>>, StoreError> {
        self.store.get(name)
    }

    fn changed(&self, since: u64) -> Result<(u64, Vec<Arc<str>>), StoreError> {
        self.store.changed(since)
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<StoredText>, StoreError>> {
        self.store.read(name)
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        data: String,
        expected: Option<&'a str>,
    ) -> BoxFuture<'a, Result<StoredText, StoreError>> {
        Box::pin(async move {
            if self.state.lock().unwrap().dead {
                return Err(StoreError::Unavailable("the process is gone".into()));
            }
            let written = self.store.write(name, data, expected).await;
            let mut state = self.state.lock().unwrap();
            state.writes += 1;
            state.ledger_writes += u64::from(written.is_ok() && publisher_of(name).is_some());
            written
        })
    }

    fn key(&self) -> BoxFuture<'_, Result<[u8; 32], StoreError>> {
        self.store.key()
    }
}

/// Everything may be done.
pub struct Unguarded;

impl Guard for Unguarded {
    fn ask<'a>(&'a self, _: &'a Desired, _: bool) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// A cluster as a resource wants it: an active one, without component ids, addresses and links.
pub fn desired() -> Desired {
    let owner = Owner {
        namespace: "federation".to_owned(),
        name: "coluc".to_owned(),
        uid: "r-1".to_owned(),
    };
    Desired {
        generation: None,
        live_owners: [owner.uid.clone()].into(),
        owner,
        target: Target {
            name: "main".to_owned(),
            publisher: "cups.ciscotac.net".to_owned(),
            port: 8443,
            axl_version: None,
            addresses: BTreeMap::new(),
            axl: credentials("cups-axl", "7", "axluser", "hunter2"),
            control_center: None,
            tls: ServerTrust::Insecure,
        },
        component_ids: Vec::new(),
        slots: SlotSource::Spec,
        activation: Activation::Active,
        restart: RestartPolicy {
            mode: RestartMode::Automatic,
            propagation_delay: Duration::from_secs(1),
            min_interval: Duration::ZERO,
        },
        foreign_components: ForeignComponents::Refuse,
        federation_check: None,
        maintenance: false,
        hold_acts: false,
        poll_interval: Duration::from_mins(5),
        requests: Requests::default(),
        announces: false,
        place: Place::default(),
        links: Vec::new(),
    }
}

/// An account of a Secret in the namespace `federation`.
pub fn credentials(secret: &str, version: &str, username: &str, password: &str) -> Credentials {
    Credentials {
        secret: SecretVersion {
            namespace: "federation".to_owned(),
            name: secret.to_owned(),
            uid: secret.to_owned(),
            resource_version: version.to_owned(),
        },
        username: username.to_owned(),
        password: SecretBytes::new(password.as_bytes().to_vec()),
    }
}
