//! Whose key is verified next. Verifications are bounded in all and per network; a key beyond that
//! waits for its turn. Networks take turns, so that the thousands of keys of one do not hold up the
//! one key of another. Configured partners go first, and a part of the places is theirs alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::network::network_of;
use crate::observe::metrics::TurnCounts;
use crate::partners::Standing;

impl Standing {
    /// In the order in which they are served.
    const ALL: [Self; 3] = [Self::Partner, Self::Claimed, Self::Stranger];

    /// Places of `all` that it may take together with those served after it.
    const fn share(self, all: usize) -> usize {
        match self {
            Self::Partner => all,
            Self::Claimed => all - all / 4,
            Self::Stranger => all.div_ceil(2),
        }
    }

    /// Places of one network. A quarter for one that nobody knows: it cannot keep the others from
    /// being verified.
    const fn of_network(self, all: usize) -> usize {
        match self {
            Self::Partner => all.div_ceil(2),
            Self::Claimed | Self::Stranger => all.div_ceil(4),
        }
    }

    /// Keys of one network that may wait: a partner may bring thousands of domains at once.
    const fn waiting_of_network(self, all: usize) -> usize {
        match self {
            Self::Partner => all.saturating_mul(12),
            Self::Claimed => all.saturating_mul(8),
            Self::Stranger => all,
        }
    }

    /// Keys that may wait in all.
    const fn waiting(self, all: usize) -> usize {
        match self {
            Self::Partner => all.saturating_mul(12),
            Self::Claimed => all.saturating_mul(8),
            Self::Stranger => all.saturating_mul(4),
        }
    }
}

/// One value for each [`Standing`].
#[derive(Debug, Default)]
struct Each<T> {
    partner: T,
    claimed: T,
    stranger: T,
}

impl<T> Each<T> {
    const fn of(&self, standing: Standing) -> &T {
        match standing {
            Standing::Partner => &self.partner,
            Standing::Claimed => &self.claimed,
            Standing::Stranger => &self.stranger,
        }
    }

    const fn of_mut(&mut self, standing: Standing) -> &mut T {
        match standing {
            Standing::Partner => &mut self.partner,
            Standing::Claimed => &mut self.claimed,
            Standing::Stranger => &mut self.stranger,
        }
    }
}

/// Why a key is not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum NoTurn {
    /// Too many keys wait already.
    NoRoom,
    /// Its time was over before its turn came.
    TooLate,
}

impl NoTurn {
    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The same for the log.
    pub const fn why(self) -> &'static str {
        match self {
            Self::NoRoom => "too many keys wait for their turn",
            Self::TooLate => "its turn did not come in time",
        }
    }
}

/// All turns.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
}

/// One verification; another one's turn comes when it is dropped.
#[derive(Debug)]
pub struct VerificationTurn {
    of: Arc<Turns>,
    network: IpAddr,
    standing: Standing,
}

#[derive(Debug)]
struct State {
    all: usize,
    next: u64,
    running: Each<usize>,
    waiting: Each<usize>,
    /// Networks with keys that wait and with a place for one more, each once.
    ready: Each<VecDeque<IpAddr>>,
    networks: HashMap<IpAddr, Network>,
}

#[derive(Debug, Default)]
struct Network {
    running: usize,
    keys: Each<Keys>,
}

/// What waits of one network, in the order in which it came.
#[derive(Debug, Default)]
struct Keys {
    waiting: BTreeMap<u64, oneshot::Sender<VerificationTurn>>,
    ready: bool,
}

/// A key that waits; leaves the queue if it is dropped before its turn.
struct WaitingKey<'a> {
    of: &'a Turns,
    network: IpAddr,
    standing: Standing,
    number: u64,
}

impl Drop for WaitingKey<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.leave(self.network, self.standing, self.number);
    }
}

impl Drop for VerificationTurn {
    fn drop(&mut self) {
        self.of.state.lock().end(self.network, self.standing);
        self.of.serve();
    }
}

impl Turns {
    /// At most `all` at once.
    pub fn new(all: usize) -> Self {
        Self {
            state: Mutex::new(State {
                all: all.max(1),
                next: 0,
                running: Each::default(),
                waiting: Each::default(),
                ready: Each::default(),
                networks: HashMap::new(),
            }),
        }
    }

    /// From now on at most `all` at once. What runs beyond that goes on to its end.
    pub fn resize(self: &Arc<Self>, all: usize) {
        self.state.lock().resize(all);
        self.serve();
    }

    /// How many there are now.
    pub fn counts(&self) -> TurnCounts {
        let state = self.state.lock();
        let all = |each: &Each<usize>| each.partner + each.claimed + each.stranger;
        TurnCounts {
            running: all(&state.running),
            waiting: all(&state.waiting),
        }
    }

    /// Waits for a turn until then.
    pub async fn turn(
        self: &Arc<Self>,
        address: IpAddr,
        standing: Standing,
        until: Instant,
    ) -> Result<VerificationTurn, NoTurn> {
        let network = network_of(address);
        let (sender, turn) = oneshot::channel();
        let number = self.state.lock().enter(network, standing, sender)?;
        let _waiting = WaitingKey {
            of: self,
            network,
            standing,
            number,
        };
        self.serve();
        match timeout_at(until, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(NoTurn::TooLate),
        }
    }

    /// Gives turns while there are places.
    fn serve(self: &Arc<Self>) {
        loop {
            let next = self.state.lock().next();
            let Some((network, standing, waiting)) = next else {
                return;
            };
            let turn = VerificationTurn {
                of: self.clone(),
                network,
                standing,
            };
            // The turn of a key that is gone comes back and ends here.
            drop(waiting.send(turn));
        }
    }
}

impl State {
    fn resize(&mut self, all: usize) {
        self.all = all.max(1);
        let networks: Vec<_> = self.networks.keys().copied().collect();
        for network in networks {
            self.make_ready(network);
        }
    }

    fn enter(
        &mut self,
        network: IpAddr,
        standing: Standing,
        waiting: oneshot::Sender<VerificationTurn>,
    ) -> Result<u64, NoTurn> {
        let known = self.networks.get(&network);
        let here = known.map_or(0, |known| known.keys.of(standing).waiting.len());
        let everywhere = *self.waiting.of(standing);
        if here >= standing.waiting_of_network(self.all) || everywhere >= standing.waiting(self.all) {
            return Err(NoTurn::NoRoom);
        }
        let number = self.next;
        self.next += 1;
        let keys = &mut self.networks.entry(network).or_default().keys;
        keys.of_mut(standing).waiting.insert(number, waiting);
        *self.waiting.of_mut(standing) += 1;
        self.make_ready(network);
        Ok(number)
    }

    fn leave(&mut self, network: IpAddr, standing: Standing, number: u64) {
        let Some(known) = self.networks.get_mut(&network) else {
            return;
        };
        let keys = known.keys.of_mut(standing);
        if keys.waiting.remove(&number).is_some() {
            *self.waiting.of_mut(standing) -= 1;
        }
        if keys.waiting.is_empty() && keys.ready {
            keys.ready = false;
            self.ready.of_mut(standing).retain(|ready| *ready != network);
        }
        self.forget(network);
    }

    /// The network takes its place among those whose turn may come.
    fn make_ready(&mut self, network: IpAddr) {
        let Some(known) = self.networks.get_mut(&network) else {
            return;
        };
        for standing in Standing::ALL {
            let keys = known.keys.of_mut(standing);
            let may_run = known.running < standing.of_network(self.all);
            if may_run && !keys.ready && !keys.waiting.is_empty() {
                keys.ready = true;
                self.ready.of_mut(standing).push_back(network);
            }
        }
    }

    /// Whether one more of this standing may run: it counts to its own share and to the shares of
    /// all that are served before it.
    fn has_place(&self, standing: Standing) -> bool {
        let mut running = self.running.partner + self.running.claimed + self.running.stranger;
        for before in Standing::ALL {
            if running >= before.share(self.all) {
                return false;
            }
            if before == standing {
                break;
            }
            running -= self.running.of(before);
        }
        true
    }

    fn next(&mut self) -> Option<(IpAddr, Standing, oneshot::Sender<VerificationTurn>)> {
        for standing in Standing::ALL {
            while self.has_place(standing) {
                let Some(network) = self.ready.of_mut(standing).pop_front() else {
                    break;
                };
                let Some(known) = self.networks.get_mut(&network) else {
                    continue;
                };
                let keys = known.keys.of_mut(standing);
                keys.ready = false;
                if known.running >= standing.of_network(self.all) {
                    continue;
                }
                let Some((_, waiting)) = keys.waiting.pop_first() else {
                    continue;
                };
                known.running += 1;
                *self.running.of_mut(standing) += 1;
                *self.waiting.of_mut(standing) -= 1;
                self.make_ready(network);
                return Some((network, standing, waiting));
            }
        }
        None
    }

    fn end(&mut self, network: IpAddr, standing: Standing) {
        *self.running.of_mut(standing) -= 1;
        if let Some(known) = self.networks.get_mut(&network) {
            known.running -= 1;
        }
        self.make_ready(network);
        self.forget(network);
    }

    fn forget(&mut self, network: IpAddr) {
        let idle = self.networks.get(&network).is_some_and(|known| {
            known.running == 0
                && Standing::ALL
                    .iter()
                    .all(|standing| known.keys.of(*standing).waiting.is_empty())
        });
        if idle {
            self.networks.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use Standing::{Claimed, Partner, Stranger};

    fn network(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// Starts to wait, in the order of the calls.
    async fn wait(turns: &Arc<Turns>, from: IpAddr, standing: Standing) -> tokio::task::JoinHandle<VerificationTurn> {
        let before = turns.counts();
        let waiting = turns.clone();
        let task = tokio::spawn(async move { waiting.turn(from, standing, later()).await.unwrap() });
        while turns.counts() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test]
    async fn networks_take_turns_and_each_has_its_places() {
        let turns = Arc::new(Turns::new(8));
        let (one, other) = (network(1), network(2));
        let mut of_one = Vec::new();
        for _ in 0..6 {
            of_one.push(wait(&turns, one, Stranger).await);
        }
        // A quarter of all runs.
        assert_eq!((turns.counts().running, turns.counts().waiting), (2, 4));
        let first = of_one.remove(0).await.unwrap();
        let second = of_one.remove(0).await.unwrap();
        let of_other = wait(&turns, other, Stranger).await.await.unwrap();
        let third = wait(&turns, network(3), Stranger).await.await.unwrap();
        // Strangers have half of all.
        let fourth = wait(&turns, network(4), Stranger).await;
        assert_eq!((turns.counts().running, turns.counts().waiting), (4, 5));
        // The first network has had its turns and came first nevertheless.
        drop(third);
        drop(fourth.await.unwrap());
        drop((first, second, of_other));
        for task in of_one {
            drop(task.await.unwrap());
        }
        assert_eq!(turns.counts(), TurnCounts::default());
        assert!(turns.state.lock().networks.is_empty());
        assert!(turns.state.lock().ready.stranger.is_empty());
    }

    #[tokio::test]
    async fn strangers_leave_places_to_those_who_name_partners_and_these_to_partners() {
        let turns = Arc::new(Turns::new(8));
        let mut held = Vec::new();
        for n in 0..10 {
            held.push(wait(&turns, network(n), Stranger).await);
        }
        assert_eq!(turns.counts().running, 4);
        for n in 10..20 {
            held.push(wait(&turns, network(n), Claimed).await);
        }
        assert_eq!(turns.counts().running, 6);
        for _ in 0..3 {
            held.push(wait(&turns, network(20), Partner).await);
        }
        assert_eq!(turns.counts().running, 8);
        assert_eq!(turns.counts().waiting, 15);
        // The next place is a partner's, even if a stranger came first.
        drop(held.remove(0).await.unwrap());
        assert_eq!(turns.state.lock().running.partner, 3);
    }

    #[tokio::test]
    async fn a_key_that_is_gone_or_late_leaves_nothing_behind() {
        let turns = Arc::new(Turns::new(1));
        let running = turns.turn(network(1), Stranger, later()).await.unwrap();
        let gone = wait(&turns, network(2), Stranger).await;
        gone.abort();
        assert!(gone.await.is_err());
        let soon = Instant::now() + Duration::from_millis(10);
        let late = turns.turn(network(3), Stranger, soon).await;
        assert_eq!(late.unwrap_err(), NoTurn::TooLate);
        assert_eq!(turns.counts().waiting, 0);
        assert!(turns.state.lock().ready.stranger.is_empty());
        drop(running);
        assert!(turns.state.lock().networks.is_empty());
        assert!(turns.turn(network(2), Stranger, later()).await.is_ok());
    }

    #[tokio::test]
    async fn the_keys_that_may_wait_are_bounded_and_more_of_partners() {
        let turns = Arc::new(Turns::new(4));
        let mut held = Vec::new();
        for _ in 0..=4 {
            held.push(wait(&turns, network(1), Stranger).await);
        }
        let more = turns.turn(network(1), Stranger, later()).await;
        assert_eq!(more.unwrap_err(), NoTurn::NoRoom);
        for _ in 0..32 {
            held.push(wait(&turns, network(1), Claimed).await);
        }
        let more = turns.turn(network(1), Claimed, later()).await;
        assert_eq!(more.unwrap_err(), NoTurn::NoRoom);
        // Others have room.
        held.push(wait(&turns, network(2), Stranger).await);
    }
}
