//! What people, other writers and faults do to the cluster, and what a command leaves behind.

use xmpp_federation_core::Activation;

use super::{Command, Entry, NAMES, World};
use crate::control_center::ImpFederation;
use crate::desired::{RestartMode, SlotSource};
use crate::histories::operations::Edit;
use crate::ledger::{Ledger, Round, RoundCause};
use crate::pkid::Pkid;

impl World {
    /// Somebody else registers a component.
    pub fn insert_foreign(&mut self) {
        self.pkids += 1;
        self.table.push(Entry {
            pkid: Pkid::from_u128(1 << 100 | self.pkids),
            id: format!("cm-2_s2scp-1.expressway-{}", self.pkids).parse().unwrap(),
            foreign: true,
            written_ms: self.now_ms,
            deleted_ms: None,
        });
    }

    pub fn delete_foreign(&mut self) {
        let now_ms = self.now_ms;
        for row in self.table.iter_mut().filter(|row| row.foreign) {
            row.deleted_ms.get_or_insert(now_ms);
        }
    }

    /// The node list loses the second node, or has it again.
    pub fn hide(&mut self, hidden: bool) {
        if hidden {
            self.hidden_ms.get_or_insert(self.now_ms);
        } else if self.hidden_ms.take().is_some() {
            self.shown_ms = Some(self.now_ms);
        }
    }

    pub fn stop_service(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let router = &mut self.routers[node];
        // Between two polls nobody sees that it ran.
        let unseen = router.restarted_ms.is_some_and(|at| at + 600_000 > now_ms);
        router.stopped.get_or_insert((now_ms, unseen));
    }

    /// A human puts in order what keeps routers from being restarted.
    pub fn start_services(&mut self) {
        for router in &mut self.routers {
            if router.stopped.take().is_some() {
                router.restarted_ms = Some(self.now_ms);
            }
        }
        self.runs_for_the_other = None;
    }

    pub fn fail_over(&mut self, to: usize) {
        self.runs_for_the_other = Some((to, self.now_ms));
    }

    pub fn add_slot(&mut self) {
        let id = format!("cm-2_s2scp-1.slot-{}", self.slots);
        self.slots += 1;
        self.desired[0].component_ids.push(id.parse().unwrap());
    }

    /// The spec says nothing of slots any more, and no status remembers how many there are: more than the ledger has.
    pub fn leave_slots_open(&mut self) {
        let desired = &mut self.desired[0];
        if desired.slots == SlotSource::Spec && self.store.content().is_some_and(|ledger| ledger.slots.is_some()) {
            self.granted = Some(desired.component_ids.len());
        }
        desired.slots = SlotSource::Default;
        while self.desired[0].component_ids.len() < 3 {
            self.add_slot();
        }
    }

    /// A person asks for as many as there are by default.
    pub fn ask_for_slots(&mut self) {
        self.desired[0].slots = SlotSource::Spec;
        self.granted = None;
    }

    /// Where no record and no row tells of a registration, the next one is the first.
    pub fn forget_slots(&mut self) {
        let recorded = self.store.content().and_then(|ledger| ledger.slots);
        let mut ids = self.desired[0].component_ids.iter();
        if recorded.is_none() && !ids.any(|id| self.stands(id).is_some()) {
            self.granted = None;
        }
    }

    /// The spec is changed while a turn is under way.
    pub fn edit(&mut self, edit: Edit) {
        self.edits += 1;
        let desired = &mut self.desired[0];
        match edit {
            Edit::Anything => {}
            Edit::Maintenance => desired.maintenance = true,
            Edit::Prepared => desired.activation = Activation::Prepared,
            Edit::Manual => desired.restart.mode = RestartMode::Manual,
        }
    }

    /// A changed host name: other ids for the slots.
    pub fn rename(&mut self) {
        let slots = self.desired[0].component_ids.len();
        self.desired[0].component_ids.clear();
        for _ in 0..slots {
            self.add_slot();
        }
    }

    pub fn token(&mut self) {
        self.tokens += 1;
        self.desired[0].requests.restart_routers = Some(format!("t{}", self.tokens));
        self.cause();
        for router in &mut self.routers {
            router.asked = true;
            if let Some((_, asked)) = &mut router.stopped {
                *asked = true;
            }
            for command in &mut router.commands {
                command.human_since = true;
            }
        }
    }

    pub fn jump(&mut self, seconds: i64) {
        self.wall_ms += seconds * 1_000;
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.jumped_since = true;
            }
        }
    }

    /// IM&P's own federation is switched; going Off asks for a round.
    pub fn federate(&mut self, state: ImpFederation) {
        self.went_off |= self.federation == ImpFederation::On && state == ImpFederation::Off;
        self.federation = state;
    }

    /// It was seen to have gone Off, which is a cause where it did.
    pub fn saw_federation_off(&mut self) {
        if std::mem::take(&mut self.went_off) {
            self.cause();
        }
    }

    pub fn lose_ledger(&mut self) {
        self.store.lose();
        self.forget();
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.lost = true;
            }
        }
    }

    /// An operator without a record registers where no row of ours stands: as far as anybody can
    /// know, for the first time.
    pub fn first_registration(&mut self) {
        for router in &mut self.routers {
            if router.commands.iter().any(|command| command.lost) {
                router.commands.retain(|command| !command.lost);
                let late = std::mem::take(&mut router.late_ms);
                router.untraceable_ms.extend(late);
            }
        }
    }

    /// The first time a backup is made, then it is restored.
    pub fn back_up_or_restore(&mut self) {
        match self.backup.clone() {
            None => self.backup = self.store.content.clone(),
            Some((object, ledger)) => {
                self.store.restore(ledger, object);
                self.forget();
            }
        }
    }

    /// What stands in no ledger cannot count for `minInterval` and for the canary; a command that
    /// may still arrive counts all the same.
    fn forget(&mut self) {
        self.first_node = None;
        for router in &mut self.routers {
            for command in &mut router.commands {
                command.forgotten = true;
            }
        }
    }

    /// A command goes out, or its intent was written and nobody will know whether it did.
    pub fn commanded(&mut self, node: usize) {
        self.first_node.get_or_insert(node);
        let at_ms = self.now_ms;
        let router = &mut self.routers[node];
        router.since_cause += 1;
        router.asked = false;
        router.commands.push(Command {
            at_ms,
            told: false,
            human_since: false,
            forgotten: false,
            lost: false,
            jumped_since: false,
        });
    }

    /// The answer to the last command was recorded.
    pub fn told(&mut self, node: usize) {
        if let Some(command) = self.routers[node].commands.last_mut() {
            command.told = true;
        }
    }

    /// The request that was made last is known to be served where nothing of it is pending.
    pub fn served(&mut self, ledger: &Ledger) {
        if ledger.handled_restart_token != self.desired[0].requests.restart_routers {
            return;
        }
        for (router, name) in self.routers.iter_mut().zip(NAMES) {
            let pending =
                |round: &Round| matches!(round.cause, RoundCause::Requested(_)) && round.pending.contains(name);
            router.asked &= ledger.rounds.iter().any(pending);
        }
    }
}
