//! What the cluster answers, and what calls do to it.

use super::super::mutants::Mutant;
use super::super::operations::Fault;
use super::{Entry, NAMES, RESTART_MS, World};
use crate::axl::{Node, Row, Table};
use crate::control_center::{CommandFailure, CommandOutcome, RestartAnswer};
use crate::error::{CallError, CallErrorKind, Interface};
use crate::machine::{Answer, Reply};
use crate::observation::Read;
use crate::pkid::Pkid;
use crate::soap;

pub fn node_of(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}

fn failed(interface: Interface, kind: CallErrorKind) -> CallError {
    CallError {
        interface,
        server: String::new(),
        secret: String::new(),
        kind,
    }
}

impl World {
    pub fn read(&mut self, process: usize, read: &Read) -> Answer {
        self.pass(10);
        Answer::Read(Ok(match read {
            Read::Nodes => {
                let listed = NAMES.iter().zip([0, 1]).filter(|(_, node)| self.lists(*node));
                let node = |(name, node): (&&str, usize)| Node {
                    pkid: Pkid::from_u128(node as u128),
                    name: (*name).to_owned(),
                    publisher: node == 0,
                };
                Reply::Nodes(listed.map(node).collect())
            }
            Read::Table => Reply::Table(Table::Xmpps2snodes),
            Read::Federation => unreachable!("no check is wanted"),
            Read::Rows => {
                let row = |row: &Entry| Row {
                    pkid: row.pkid.to_string(),
                    cp_id: row.id.to_string(),
                };
                Reply::Rows(self.rows().map(row).collect())
            }
            Read::Redundancy => {
                let Some(states) = self.redundancy() else {
                    let kind = CallErrorKind::Fault(soap::Fault::default());
                    return Answer::Read(Err(failed(Interface::Axl, kind)));
                };
                Reply::Redundancy(states)
            }
            Read::Services(name) => {
                self.called_control_center(process);
                Reply::Services(self.services(node_of(name)))
            }
        }))
    }

    /// Writes a row; `none`: that there was nothing to do is an answer too.
    pub fn write_row(&mut self, fault: Fault, none: bool, write: impl FnOnce(&mut Self) -> bool) -> Answer {
        self.pass(10);
        let done = !matches!(fault, Fault::NeverArrives | Fault::NotDone | Fault::Refused) && write(self);
        let kind = match fault {
            fault if !fault.spares_calls() && fault != Fault::Hangs => CallErrorKind::Timeout,
            _ if done || none => return Answer::Written(Ok(u64::from(done))),
            _ => CallErrorKind::Unexpected(String::new()),
        };
        Answer::Written(Err(failed(Interface::Axl, kind)))
    }

    /// A restart command reaches the node, or not.
    pub fn command(&mut self, process: usize, node: usize, fault: Fault) -> CommandOutcome {
        self.called_control_center(process);
        self.pass(10);
        match fault {
            Fault::ArrivesLate(ms) | Fault::CrashArrivesLate(ms) => self.arrives_later(node, ms),
            Fault::Hangs => self.stop(node, 3_600_000, true),
            Fault::NeverArrives | Fault::Refused | Fault::NotDone => {}
            _ => self.stop(node, RESTART_MS, true),
        }
        match fault {
            Fault::Hangs => CommandOutcome::Answered(RestartAnswer::Accepted),
            fault if fault.spares_calls() => CommandOutcome::Answered(RestartAnswer::Accepted),
            Fault::Refused => CommandOutcome::Answered(RestartAnswer::Refused("-1045".into())),
            Fault::NotDone => CommandOutcome::NotDone(CommandFailure::Busy("busy".into())),
            _ if self.mutant == Some(Mutant::TakesSilenceForNo) => {
                let error = failed(Interface::ControlCenter, CallErrorKind::Timeout);
                CommandOutcome::NotDone(CommandFailure::Failed(error))
            }
            _ => CommandOutcome::Answered(RestartAnswer::Ambiguous("no answer".into())),
        }
    }
}
