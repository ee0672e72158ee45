//! What is written before and after each act: pure, so that a crash between any two writes can be
//! played through in tests.

use std::collections::BTreeMap;

use xmpp_federation_core::ComponentId;

use super::{Ledger, Restart};
use crate::clock::Stamp;
use crate::control_center::RestartAnswer;
use crate::observation::Observation;
use crate::pkid::Pkid;
use crate::records::{Baseline, RowRecord, RowState, UpTimeMark};

impl Ledger {
    /// Before an INSERT: pkid and id are ours from now on, whatever becomes of the call.
    pub fn intend_insert(&mut self, pkid: Pkid, id: &ComponentId) {
        self.rows.entry(pkid).or_insert_with(|| RowRecord {
            component_id: id.clone(),
            state: RowState::Planned,
            asks_restart: true,
        });
    }

    /// Before a DELETE.
    pub fn intend_delete(&mut self, pkid: Pkid) {
        if let Some(row) = self.rows.get_mut(&pkid) {
            row.state = RowState::Deleting;
            let id = row.component_id.clone();
            let standing = self.standing();
            self.unclaim(&id, &standing);
        }
    }

    /// A row of somebody else becomes ours; it asks for nothing. Where it was ours before, this
    /// ledger is not the first one.
    pub fn adopt(&mut self, pkid: Pkid, id: &ComponentId) {
        self.commands_lost = true;
        self.rows.insert(
            pkid,
            RowRecord {
                component_id: id.clone(),
                state: RowState::Present,
                asks_restart: false,
            },
        );
    }

    /// Before a restart command: with this written, the command may have been sent.
    pub fn intend_restart(&mut self, node: &str, reason: &str, id: String, planned: Stamp, seen: &Observation) {
        let up_times: BTreeMap<String, UpTimeMark> = seen
            .services
            .iter()
            .filter_map(|(name, services)| {
                let mark = UpTimeMark {
                    seconds: services.value.up_time?,
                    asked: services.asked,
                };
                Some((name.clone(), mark))
            })
            .collect();
        let made_canary = !self.canary_passed && self.canary.is_none();
        if made_canary {
            self.canary = Some(node.to_owned());
        }
        let ids = self
            .readable
            .as_ref()
            .map(|readable| readable.ids.clone())
            .unwrap_or_default();
        let rounds = self
            .rounds
            .iter()
            .filter(|round| round.pending.contains(node))
            .map(|round| round.cause.clone())
            .collect();
        let record = self.node_mut(node);
        record.restart = Some(Restart {
            id,
            reason: reason.to_owned(),
            planned,
            baseline: Baseline { at: planned, up_times },
            ids,
            rounds,
            answer: None,
            previous: record.last_restart,
            previous_on_its_way: record.on_its_way,
            made_canary,
        });
        record.last_restart = Some(planned);
        record.on_its_way = Some(planned);
    }

    /// After a restart command: its answer, or `None` where it certainly was not carried out.
    pub fn restart_answered(&mut self, node: &str, answer: Option<RestartAnswer>) {
        let record = self.node_mut(node);
        let Some(restart) = &mut record.restart else {
            return;
        };
        let carried_out = matches!(answer, Some(RestartAnswer::Accepted | RestartAnswer::Ambiguous(_)));
        let unmake_canary = !carried_out && restart.made_canary;
        if !carried_out {
            record.last_restart = restart.previous;
        }
        if !matches!(answer, Some(RestartAnswer::Ambiguous(_))) {
            record.on_its_way = restart.previous_on_its_way;
        }
        match answer {
            Some(answer) => restart.answer = Some(answer),
            None => record.restart = None,
        }
        if unmake_canary {
            self.canary = None;
        }
    }
}
