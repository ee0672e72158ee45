//! Inbound connections by the network that they come from, and which one gives way at a bound.
//!
//! A host has a /64 of IPv6 to itself, a site a /56 or a /48 (RFC 6177): each has its bound, and one
//! address of IPv4 counts as a /64. At a bound the oldest connection on which nothing was proven
//! gives way, of the table that is full; a proven one never does. Addresses of configured partners
//! have wider bounds and room that nobody else gets, since who knows many networks could otherwise
//! fill everything.
//!
//! New connections of one network, and of all strangers together, wait for their turn when they are
//! too many in a second: each costs a TLS handshake.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::edge_config::Limits;

use crate::observe::metrics::Bound;

/// How much wider the bounds per network are for addresses of configured partners.
const WIDER: usize = 16;
/// Part of all connections that strangers do not get.
const RESERVED: usize = 8;
/// New connections of one network in a second, where it may have 256 at once.
const PER_SECOND: u32 = 50;
/// Networks whose new connections may come as fast at the same time: a handshake takes up to a
/// millisecond.
const AT_ONCE: u32 = 4;
/// Turns that one negotiation takes.
const TURNS: u32 = 10;
/// Connections that wait for their turn, at most.
const MOST_WAITING: usize = 4096;
/// So many may come at once before their rate counts.
const BURST: Duration = Duration::from_secs(1);

/// A network: the length of its prefix in bits and its first address.
type NetworkPrefix = (u8, IpAddr);

/// What a connection counts for, from the smallest network; IPv4 has one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Networks([Option<NetworkPrefix>; 3]);

impl Networks {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self([Some((32, address)), None, None]),
            IpAddr::V6(v6) => Self([64, 56, 48].map(|length| {
                let first = v6.to_bits() & (!0 << (128 - u32::from(length)));
                Some((length, Ipv6Addr::from_bits(first).into()))
            })),
        }
    }

    fn iter(&self) -> impl Iterator<Item = NetworkPrefix> {
        self.0.into_iter().flatten()
    }
}

/// The bounds that a connection is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionBounds {
    total: usize,
    /// By network, in the order of [`Networks`].
    networks: [usize; 3],
    per_second: u32,
    /// It comes from an address of a configured partner.
    partner: bool,
}

impl ConnectionBounds {
    pub(super) fn new(limits: &Limits, total: usize, partner: bool) -> Self {
        let networks = [
            limits.max_connections_per_address,
            limits.max_connections_per56,
            limits.max_connections_per48,
        ];
        Self {
            total,
            networks: networks.map(|most| most.saturating_mul(if partner { WIDER } else { 1 })),
            per_second: per_second(limits),
            partner,
        }
    }

    /// Whether they are those for a configured partner.
    pub(super) fn is_partners(&self) -> bool {
        self.partner
    }

    /// Connections that may wait for their turn.
    pub(super) fn room(&self) -> usize {
        self.total.min(MOST_WAITING)
    }
}

/// New connections of one network in a second.
fn per_second(limits: &Limits) -> u32 {
    limits.new_connections_per_second.unwrap_or_else(|| {
        let usual = limits.max_connections_per_address / 256;
        PER_SECOND.saturating_mul(u32::try_from(usual.max(1)).unwrap_or(u32::MAX))
    })
}

/// Turns at the socket in a second for all connections on which nothing is proven, on each processor:
/// as many as their negotiations need where they come as fast as they may.
pub(super) fn turns_per_second(limits: &Limits) -> usize {
    let connections = per_second(limits).saturating_mul(AT_ONCE);
    usize::try_from(connections.saturating_mul(TURNS)).unwrap_or(usize::MAX)
}

/// The bound that a connection met.
fn name((length, _): NetworkPrefix) -> Bound {
    match length {
        56 => Bound::Per56,
        48 => Bound::Per48,
        _ => Bound::PerAddress,
    }
}

/// All inbound connections.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<TableState>);

#[derive(Debug, Default)]
struct TableState {
    /// Grows with every connection.
    last: u64,
    open: HashMap<u64, TableEntry>,
    /// Those on which nothing is proven: strangers' before partners', each the oldest first.
    unproven: BTreeSet<(bool, u64)>,
    /// Of all, those that are no partner's.
    strangers: usize,
    networks: HashMap<NetworkPrefix, NetworkShare>,
    /// At this many networks, those that count no connection any more are removed.
    tidy_at: usize,
    /// When the next stranger's connection is due.
    strangers_due: Option<Instant>,
    waiting: usize,
}

#[derive(Debug)]
struct TableEntry {
    networks: Networks,
    partner: bool,
    give_way: CancellationToken,
}

/// What one network has.
#[derive(Debug, Default)]
struct NetworkShare {
    open: usize,
    unproven: BTreeSet<u64>,
    waiting: usize,
    /// When its next connection is due.
    due: Option<Instant>,
}

/// A connection's place; free when dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Table>,
    id: u64,
    /// Cancelled when the place is another's: the connection is to be closed without a word.
    pub(super) give_way: CancellationToken,
}

/// A connection waits for its turn; over when dropped.
#[derive(Debug)]
pub(super) struct WaitingTurn {
    table: Arc<Table>,
    networks: Networks,
    pub(super) due: Instant,
}

/// What a place cost.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) place: Place,
    /// The bounds at which another connection gave way.
    pub(super) gave_way: Vec<Bound>,
}

impl Table {
    /// A place for a connection of these networks; the bound that is met where nobody gives way.
    pub(super) fn admit(self: &Arc<Self>, networks: Networks, bounds: &ConnectionBounds) -> Result<Admission, Bound> {
        let mut inner = self.0.lock();
        let mut gave_way = inner.make_room_in(networks, bounds)?;
        gave_way.extend(inner.make_room(bounds)?);
        inner.last += 1;
        let id = inner.last;
        let token = CancellationToken::new();
        inner.open.insert(
            id,
            TableEntry {
                networks,
                partner: bounds.partner,
                give_way: token.clone(),
            },
        );
        inner.unproven.insert((bounds.partner, id));
        inner.strangers += usize::from(!bounds.partner);
        inner.count(id, networks);
        let place = Place {
            table: self.clone(),
            id,
            give_way: token,
        };
        Ok(Admission { place, gave_way })
    }

    /// When a connection of these networks may have a place; `None`: now. An error is that too many
    /// wait already or that it would wait longer than `longest`.
    pub(super) fn turn(
        self: &Arc<Self>,
        networks: Networks,
        bounds: &ConnectionBounds,
        longest: Duration,
        now: Instant,
    ) -> Result<Option<WaitingTurn>, Bound> {
        let mut inner = self.0.lock();
        let Some(due) = inner.book(networks, bounds, longest, now)? else {
            return Ok(None);
        };
        inner.waiting += 1;
        for network in networks.iter() {
            inner.share(network).waiting += 1;
        }
        Ok(Some(WaitingTurn {
            table: self.clone(),
            networks,
            due,
        }))
    }
}

impl TableState {
    fn share(&mut self, network: NetworkPrefix) -> &mut NetworkShare {
        self.networks.entry(network).or_default()
    }

    fn count(&mut self, id: u64, networks: Networks) {
        for network in networks.iter() {
            let share = self.share(network);
            share.open += 1;
            share.unproven.insert(id);
        }
    }

    /// Makes room for one more connection in each network.
    fn make_room_in(&mut self, networks: Networks, bounds: &ConnectionBounds) -> Result<Vec<Bound>, Bound> {
        let mut gave_way = Vec::new();
        for (network, most) in networks.iter().zip(bounds.networks) {
            let share = self.share(network);
            if share.open < most {
                continue;
            }
            let Some(oldest) = share.unproven.first().copied() else {
                return Err(name(network));
            };
            self.give_way(oldest);
            gave_way.push(name(network));
        }
        Ok(gave_way)
    }

    /// Makes room for one more connection among all.
    fn make_room(&mut self, bounds: &ConnectionBounds) -> Result<Option<Bound>, Bound> {
        let strangers = bounds.total - bounds.total / RESERVED;
        let full = self.open.len() >= bounds.total;
        if !full && (bounds.partner || self.strangers < strangers) {
            return Ok(None);
        }
        // A stranger takes no partner's place.
        let oldest = self.unproven.first().copied();
        let oldest = oldest.filter(|(partner, _)| bounds.partner || !partner);
        let (_, id) = oldest.ok_or(Bound::Total)?;
        self.give_way(id);
        Ok(Some(Bound::Total))
    }

    fn give_way(&mut self, id: u64) {
        if let Some(connection) = self.remove(id) {
            connection.give_way.cancel();
        }
    }

    fn remove(&mut self, id: u64) -> Option<TableEntry> {
        let connection = self.open.remove(&id)?;
        self.unproven.remove(&(connection.partner, id));
        self.strangers -= usize::from(!connection.partner);
        for network in connection.networks.iter() {
            if let Some(share) = self.networks.get_mut(&network) {
                share.open = share.open.saturating_sub(1);
                share.unproven.remove(&id);
                if share.is_idle(Instant::now()) {
                    self.networks.remove(&network);
                }
            }
        }
        Some(connection)
    }

    /// Books the next turn that the rates leave; `None`: it is now.
    fn book(
        &mut self,
        networks: Networks,
        bounds: &ConnectionBounds,
        longest: Duration,
        now: Instant,
    ) -> Result<Option<Instant>, Bound> {
        if bounds.partner {
            return Ok(None);
        }
        self.tidy(now);
        let each = Duration::from_secs(1) / bounds.per_second.max(1);
        let of_all = each / AT_ONCE;
        // A rate's next turn may be up to a burst in the future before anybody waits.
        let next = |due: Option<Instant>| due.map_or(now, |due| due.max(now));
        let mut latest = next(self.strangers_due) + of_all;
        let mut most = 0;
        for network in networks.iter() {
            let share = self.share(network);
            latest = latest.max(next(share.due) + each);
            most = most.max(share.waiting);
        }
        let turn = latest.checked_sub(BURST).filter(|turn| *turn > now);
        if let Some(turn) = turn {
            // No network has more of the room than is left of it.
            let left = bounds.room().saturating_sub(self.waiting);
            if most >= left || turn - now > longest {
                return Err(Bound::Rate);
            }
        }
        self.strangers_due = Some(next(self.strangers_due) + of_all);
        for network in networks.iter() {
            let share = self.share(network);
            share.due = Some(next(share.due) + each);
        }
        Ok(turn)
    }

    /// Forgets networks of which nothing is left.
    fn tidy(&mut self, now: Instant) {
        if self.networks.len() >= self.tidy_at.max(1024) {
            self.networks.retain(|_, share| !share.is_idle(now));
            self.tidy_at = 2 * self.networks.len();
        }
    }
}

impl NetworkShare {
    fn is_idle(&self, now: Instant) -> bool {
        self.open == 0 && self.waiting == 0 && self.due.is_none_or(|due| due <= now)
    }
}

impl Place {
    /// The connection, counted in total only so far, is one of these networks. An error is the
    /// bound that is met.
    pub(super) fn belongs_to(&self, networks: Networks, bounds: &ConnectionBounds) -> Result<Vec<Bound>, Bound> {
        let mut guard = self.table.0.lock();
        let inner = &mut *guard;
        let gave_way = inner.make_room_in(networks, bounds)?;
        // It may have given way meanwhile.
        if let Some(connection) = inner.open.get_mut(&self.id) {
            connection.networks = networks;
            if bounds.partner && !connection.partner {
                connection.partner = true;
                inner.strangers -= 1;
                inner.unproven.remove(&(false, self.id));
                inner.unproven.insert((true, self.id));
            }
            inner.count(self.id, networks);
        }
        Ok(gave_way)
    }

    /// Something was proven on the connection: it does not give way any more. `partner`: it was the
    /// name of a configured partner.
    pub(super) fn proven(&self, partner: bool) {
        let mut guard = self.table.0.lock();
        let inner = &mut *guard;
        let Some(connection) = inner.open.get_mut(&self.id) else {
            return;
        };
        inner.unproven.remove(&(connection.partner, self.id));
        let networks = connection.networks;
        if partner && !connection.partner {
            connection.partner = true;
            inner.strangers -= 1;
        }
        for network in networks.iter() {
            if let Some(share) = inner.networks.get_mut(&network) {
                share.unproven.remove(&self.id);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.0.lock().remove(self.id);
    }
}

impl Drop for WaitingTurn {
    fn drop(&mut self) {
        let mut inner = self.table.0.lock();
        inner.waiting = inner.waiting.saturating_sub(1);
        for network in self.networks.iter() {
            let share = inner.share(network);
            share.waiting = share.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
