//! Links to XCP routers, as they are seen.

use parking_lot::Mutex;

use tokio::sync::watch;
use tokio::time::Instant;
use xmpp_federation_core::ComponentId;
use xmpp_federation_core::edge_status::{LastUp, LinkState, LinkStatus, RouterAnnouncement, Sighting};

use super::returned::ReturnCounts;

/// Where a link stands among those of its cluster; of those that are up, the least one takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPlace {
    /// The router was seen to announce us without `<default-gateway/>`: any other link is better.
    pub not_gateway: bool,
    /// Its place among the endpoints of the configuration.
    pub rank: usize,
}

impl From<usize> for LinkPlace {
    fn from(rank: usize) -> Self {
        Self {
            not_gateway: false,
            rank,
        }
    }
}

/// One link to an XCP router, up or not.
#[derive(Debug)]
pub struct LinkEntry {
    pub(super) status: Mutex<LinkStatus>,
    returned: Mutex<ReturnCounts>,
    /// When the router accepted the handshake.
    opened: Mutex<Option<Instant>>,
    /// Its place among the links of its cluster, for the link itself to follow.
    place: watch::Sender<LinkPlace>,
}

impl LinkEntry {
    /// A link that is not open yet.
    pub(super) fn new(status: LinkStatus) -> Self {
        Self {
            status: Mutex::new(status),
            returned: Mutex::default(),
            opened: Mutex::new(None),
            place: watch::Sender::new(LinkPlace::default()),
        }
    }

    /// Records a change of state; `reason` is kept until the link is up.
    pub fn set(&self, state: LinkState, reason: Option<String>) {
        let mut status = self.status.lock();
        if status.state != state {
            let until = jiff::Timestamp::now().to_string();
            let from = std::mem::replace(&mut status.since, until.clone());
            if status.state == LinkState::Up {
                status.last_up = Some(LastUp { from, until });
            } else if state == LinkState::Up {
                status.last_up = None;
            }
            status.state = state.into();
            // What a router did before says nothing about what it does now.
            *self.returned.lock() = ReturnCounts::default();
        }
        if reason.is_some() || state == LinkState::Up {
            status.reason = reason;
        }
    }

    /// The router accepted the handshake; nothing is known of announcements yet.
    pub fn opened(&self) {
        *self.opened.lock() = Some(Instant::now());
        self.forget_announcements();
    }

    /// The link is closed or broken; what was announced of it and over it is over.
    pub fn closed(&self) {
        *self.opened.lock() = None;
        self.forget_announcements();
    }

    fn forget_announcements(&self) {
        self.status.lock().sightings.clear();
        self.announce(None);
    }

    /// Records how the router announced the component; `None`: it does not any more.
    pub(super) fn announce(&self, announced: Option<RouterAnnouncement>) {
        let without = announced.as_ref().is_some_and(|found| !found.gateway);
        self.status.lock().announced = announced;
        self.move_to(|place| place.not_gateway = without);
    }

    /// Records what came over this link about a component; `None`: it is gone.
    pub(super) fn sight(&self, component_id: &ComponentId, announced: Option<RouterAnnouncement>) {
        let mut status = self.status.lock();
        let sightings = &mut status.sightings;
        sightings.retain(|known| known.component_id != component_id.as_str());
        sightings.extend(announced.map(|announced| Sighting {
            component_id: component_id.to_string(),
            announced,
        }));
    }

    /// Gives the link another place among those of its cluster.
    pub(crate) fn move_to(&self, change: impl FnOnce(&mut LinkPlace)) {
        self.place.send_if_modified(|place| {
            let before = *place;
            change(place);
            *place != before
        });
    }

    /// The link's place, and its changes.
    pub(crate) fn place(&self) -> watch::Receiver<LinkPlace> {
        self.place.subscribe()
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.lock().is_some()
    }

    /// The link as it is now.
    pub fn status(&self) -> LinkStatus {
        let returned = self.returned.lock().told(Instant::now());
        let opened = *self.opened.lock();
        LinkStatus {
            returned,
            open_seconds: opened.map(|at| at.elapsed().as_secs()),
            ..self.status.lock().clone()
        }
    }

    /// Notes what the router did with what it was sent.
    pub(crate) fn returned<T>(&self, note: impl FnOnce(&mut ReturnCounts) -> T) -> T {
        note(&mut self.returned.lock())
    }
}
