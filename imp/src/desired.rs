//! What the controller wants of one IM&P cluster: the validated form of one entry of `spec.imp`,
//! with the Secrets read.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use xmpp_federation_core::{Activation, ComponentId, ForeignComponents};

use crate::access::{NodeAddress, Target};
use crate::clock::Stamp;
use crate::window::Window;

/// One IM&P cluster as one resource wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The resource.
    pub owner: Owner,
    /// The generation of the resource that this was made from.
    pub generation: Option<i64>,
    /// UIDs of all `XmppFederation` resources that exist, to tell a live claim on a cluster from
    /// one left behind. Empty: unknown, no claim is taken over.
    pub live_owners: LiveOwners,
    /// How to reach the cluster.
    pub target: Target,
    /// Component ids in slot order, slot 0 first. Ignored while `activation` is Prepared.
    pub component_ids: Vec<ComponentId>,
    /// Who says how many slots there are.
    pub slots: SlotSource,
    /// Active, or everything except rows and restarts.
    pub activation: Activation,
    /// Restart policy.
    pub restart: RestartPolicy,
    /// What other systems' rows mean.
    pub foreign_components: ForeignComponents,
    /// What tells whether IM&P's own federation is off where its services do not.
    pub federation_check: Option<FederationCheck>,
    /// No writes and no restarts.
    pub maintenance: bool,
    /// The next write or restart is only announced ([`super::report::Report::wants_to_act`]), not
    /// done: the caller has to put something in place first.
    pub hold_acts: bool,
    /// How often a cluster in order is looked at.
    pub poll_interval: Duration,
    /// Values of the annotations.
    pub requests: Requests,
    /// Routers of profile Xcp: they take the link of any component, and their announcements count.
    pub announces: bool,
    /// Where it stands among the resource's clusters.
    pub place: Place,
    /// Router links as the running edge pods report them, just read; empty where no pod answered.
    pub links: Vec<Link>,
}

/// Who says how many slots a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotSource {
    /// The spec. Only then may there be more than the ledger records: each further row needs a restart of all routers.
    Spec,
    /// A record of the first registration.
    Record,
    /// Nobody: it is the default of a new resource.
    Default,
}

impl Desired {
    /// The same with no more slots than are recorded, unless the spec asks for them.
    pub fn within(&self, recorded: Option<u16>) -> Cow<'_, Self> {
        let recorded = recorded.map_or(usize::MAX, usize::from);
        if self.slots == SlotSource::Spec || self.component_ids.len() <= recorded {
            return Cow::Borrowed(self);
        }
        let mut within = self.clone();
        within.component_ids.truncate(recorded);
        Cow::Owned(within)
    }

    /// Whether the cluster may be taken from that resource: it is gone, or a person says so where it would not be seen.
    pub fn may_take_from(&self, other: &Owner) -> bool {
        let named = self.requests.adopt_rows.as_ref() == Some(&other.to_string());
        other.uid != self.owner.uid && (!self.live_owners.may_exist(other) || (named && !self.live_owners.sees(other)))
    }

    /// The component ids that are to stand in the table.
    pub fn wanted(&self) -> &[ComponentId] {
        match self.activation {
            Activation::Active => &self.component_ids,
            Activation::Prepared => &[],
        }
    }

    /// Whether both ask for the same. Who else exists, the resource's generation and how old a link is are facts
    /// for the answer, which change all the time.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let comparable = |desired: &Self| {
            let mut desired = desired.clone();
            desired.generation = None;
            for link in &mut desired.links {
                link.opened = None;
            }
            desired
        };
        let opened = |desired: &Self| -> Vec<bool> { desired.links.iter().map(|link| link.opened.is_some()).collect() };
        comparable(self) == comparable(other) && opened(self) == opened(other)
    }
}

/// The resources that exist now: one view for all that ask, so that it is today's when it is asked, and is not
/// copied for each of them.
#[derive(Clone, Default)]
pub struct LiveOwners(Arc<RwLock<Existing>>);

#[derive(Default)]
struct Existing {
    uids: BTreeSet<String>,
    /// Where resources are seen; none: everywhere.
    namespaces: BTreeSet<String>,
}

impl LiveOwners {
    /// Exactly those with these UIDs exist.
    pub fn set(&self, uids: BTreeSet<String>) {
        self.0.write().uids = uids;
    }

    /// Those in these namespaces alone are seen; none: in all.
    pub fn see_only(&self, namespaces: &[String]) {
        self.0.write().namespaces = namespaces.iter().cloned().collect();
    }

    /// The one with that UID exists too.
    pub fn insert(&self, uid: &str) {
        self.0.write().uids.insert(uid.to_owned());
    }

    /// Whether a resource exists; nobody is known to be gone where none is known, or where none is seen.
    pub fn may_exist(&self, owner: &Owner) -> bool {
        let existing = self.0.read();
        existing.uids.is_empty() || existing.uids.contains(&owner.uid) || !existing.sees(owner)
    }

    /// Whether a resource would be seen where it is, if it exists.
    pub fn sees(&self, owner: &Owner) -> bool {
        self.0.read().sees(owner)
    }
}

impl Existing {
    fn sees(&self, owner: &Owner) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(&owner.namespace)
    }
}

impl<S: Into<String>, I: IntoIterator<Item = S>> From<I> for LiveOwners {
    fn from(uids: I) -> Self {
        let owners = Self::default();
        owners.set(uids.into_iter().map(Into::into).collect());
        owners
    }
}

impl std::fmt::Debug for LiveOwners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} resources", self.0.read().uids.len())
    }
}

impl PartialEq for LiveOwners {
    /// Who exists is a fact for the answer, and no part of what is asked.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The resource on whose behalf something is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a resource applied anew is another one.
    pub uid: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a cluster stands among those of its resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Entries before this one, and all where rows are removed. One that leads to the same publisher has the cluster.
    pub earlier: Vec<Sibling>,
    /// Kept in the ledger while the resource is active there, for the controller alone: how to
    /// reach the cluster once the spec does not say it any more. No secrets.
    pub reach: Option<String>,
    /// The publisher's pkid, where nothing may be done at any other one: names are given to new
    /// machines.
    pub only: Option<String>,
}

/// An entry of `spec.imp` and where it leads: a change may mean another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Its name.
    pub entry: String,
    /// Its publisher, lower case.
    pub publisher: String,
    /// HTTPS port of AXL.
    pub port: u16,
    /// What its publisher's name is overridden with.
    pub address: Option<NodeAddress>,
}

impl Sibling {
    /// The entry that a target was made from.
    pub fn of(target: &Target) -> Self {
        Self {
            entry: target.name.clone(),
            publisher: target.publisher.clone(),
            port: target.port,
            address: target.addresses.get(&target.publisher).cloned(),
        }
    }
}

/// When routers may be restarted.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    /// By whom.
    pub mode: RestartMode,
    /// From the rows' read-back to the earliest restart.
    pub propagation_delay: Duration,
    /// Between two restarts of one node.
    pub min_interval: Duration,
}

/// Who restarts routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartMode {
    /// The operator, as soon as the rules allow it.
    Automatic,
    /// The operator, while this is open.
    Window(Box<Window>),
    /// A human; the operator says which nodes and how.
    Manual,
}

/// A query of the administrator's own, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationCheck {
    /// One SELECT that answers one row with one column.
    pub query: String,
    /// The value that means Off; every other means On.
    pub off_value: String,
}

/// Values of the annotations; each value is served once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// `xmppfederation.io/refresh`: read everything again now.
    pub refresh: Option<String>,
    /// `xmppfederation.io/restart-routers`: restart every router once; also a human's decision
    /// after an ambiguous call.
    pub restart_routers: Option<String>,
    /// `xmppfederation.io/adopt-rows`: identical rows of others become ours. With the name of a resource in a namespace that
    /// is not watched, as in `federation/coluc`: its cluster does.
    pub adopt_rows: Option<String>,
}

/// One edge pod's link to one node's XCP router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Node name as in `processnode` (as the edge's configuration names it).
    pub node: String,
    /// The slot's component id.
    pub component_id: ComponentId,
    /// Whether the router accepted the handshake and the link stands.
    pub up: bool,
    /// While everything that is sent over the link comes back as an error: the condition it comes
    /// back with, as in `remote-server-not-found`. `None`: something was taken, or nothing sent.
    pub bouncing: Option<String>,
    /// How long the link had been open when the edge was asked; `None` while it is not.
    pub opened: Option<LinkAge>,
    /// Profile Xcp: what the node's router announced of components, as far as the edge that has
    /// this link could see it.
    pub announced: Vec<Announcement>,
}

/// How long a link has been open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAge {
    /// When the edge was asked.
    pub asked: Stamp,
    /// Whole seconds for which the link had been open then.
    pub seconds: u64,
}

/// How a router announced a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Whom.
    pub component_id: ComponentId,
    /// As its gateway.
    pub gateway: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    /// A reader that takes the lock again waits behind a writer that waits for the reader.
    #[test]
    fn asking_who_exists_never_waits_for_itself_while_the_list_changes() {
        let owners = LiveOwners::from(["other"]);
        owners.see_only(&["federation".to_owned()]);
        let gone = Owner {
            namespace: "federation".to_owned(),
            name: "coluc".to_owned(),
            uid: "gone".to_owned(),
        };
        let (done, finished) = mpsc::channel();
        let writer = owners.clone();
        let told = done.clone();
        thread::spawn(move || {
            for _ in 0..100_000 {
                writer.set(BTreeSet::from(["other".to_owned()]));
            }
            told.send(()).unwrap();
        });
        thread::spawn(move || {
            for _ in 0..100_000 {
                assert!(!owners.may_exist(&gone));
            }
            done.send(()).unwrap();
        });
        for _ in 0..2 {
            let limit = Duration::from_secs(20);
            let ended = finished.recv_timeout(limit);
            assert!(ended.is_ok(), "reader and writer wait for each other");
        }
    }
}
