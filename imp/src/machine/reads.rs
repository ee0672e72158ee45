//! What is asked of IM&P, and what its answers mean.

use super::{Machine, Reply};
use crate::clock::Stamp;
use crate::control_center::Services;
use crate::error::{CallError, CallErrorKind};
use crate::observation::{CheckReading, Failure, Read, Reading};

impl Machine {
    pub(super) fn read(&mut self, now: Stamp, asked: Stamp, read: &Read, answer: Result<Reply, CallError>) {
        match (read, answer) {
            (Read::Services(node), Ok(Reply::Services(value))) => {
                let reading = Reading {
                    value,
                    asked,
                    answered: now,
                };
                return self.read_services(now, node, Ok(reading));
            }
            (Read::Services(node), Err(error)) => return self.read_services(now, node, Err(error)),
            (Read::Redundancy, Err(error)) if matches!(error.kind, CallErrorKind::Fault(_)) => {
                tracing::info!(%error, "states in redundancy groups cannot be read here; they say nothing");
                self.seen.redundancy_unreadable = true;
            }
            (_, Err(error)) => {
                if matches!(error.kind, CallErrorKind::Fault(_)) {
                    // An upgrade may have renamed the table.
                    self.seen.due.insert(Read::Table);
                }
                return self.axl_failed(now, error);
            }
            (_, Ok(reply)) => self.take_in(now, asked, reply),
        }
        self.seen.due.remove(read);
        self.seen.axl_failure = None;
    }

    fn take_in(&mut self, answered: Stamp, asked: Stamp, reply: Reply) {
        let seen = &mut self.seen;
        match reply {
            Reply::Nodes(value) => {
                let listed = |name: &String| value.iter().any(|node| node.name == *name);
                seen.services.retain(|name, _| listed(name));
                seen.control_center_failures.retain(|name, _| listed(name));
                seen.ask_for_all();
                seen.nodes = Some(Reading { value, asked, answered });
            }
            Reply::Table(table) => seen.table = Some(table),
            Reply::Rows(value) => {
                let ours = self.ledger.as_ref().map(|ledger| ledger.rows.clone());
                seen.saw_rows(Reading { value, asked, answered }, &ours.unwrap_or_default());
            }
            Reply::Federation(check, value) => {
                let seen_then = Reading { value, asked, answered };
                seen.federation_check = Some(CheckReading { check, seen: seen_then });
            }
            Reply::Redundancy(value) => seen.redundancy = Some(Reading { value, asked, answered }),
            Reply::Services(_) => {}
        }
    }

    pub(super) fn axl_failed(&mut self, now: Stamp, error: CallError) {
        let seen = &mut self.seen;
        let reads = seen.axl_failure.as_ref().map_or(0, |failure| failure.count);
        let count = reads.max(seen.write_failures.saturating_sub(1)) + 1;
        let retry_at = now.plus(error.back_off(count, now.wall, seen.timings.back_off_unit));
        seen.axl_failure = Some(Failure { error, count, retry_at });
    }

    fn read_services(&mut self, now: Stamp, node: &str, answer: Result<Reading<Services>, CallError>) {
        let seen = &mut self.seen;
        let which = seen.services_to_ask(node);
        seen.due.remove(&Read::Services(node.to_owned()));
        if let Err(error) = &answer
            && matches!(error.kind, CallErrorKind::Fault(_))
            && seen.suspect_names(node, which)
        {
            tracing::info!(node, %error, "perhaps a service has another name here: those that are needed are asked for alone");
            return;
        }
        seen.services_answered(node, which, answer.is_ok());
        let failures = &mut seen.control_center_failures;
        match answer {
            Ok(reading) => {
                failures.remove(node);
                seen.services.insert(node.to_owned(), reading);
            }
            Err(error) => {
                let count = failures.get(node).map_or(0, |failure| failure.count) + 1;
                let retry_at = now.plus(error.back_off(count, now.wall, seen.timings.back_off_unit));
                failures.insert(node.to_owned(), Failure { error, count, retry_at });
            }
        }
    }
}
