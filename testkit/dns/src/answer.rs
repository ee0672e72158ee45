//! From a query to its answer.

use std::collections::VecDeque;
use std::sync::Arc;

use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::Record;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::zones::{Found, Zones};

/// How many queries are remembered.
const QUERIES_KEPT: usize = 4000;

/// One query that came in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryRecord {
    /// Counts from 1.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Address of the asker.
    pub source: String,
    /// The name asked for, lower case, with a trailing dot.
    pub name: String,
    /// `A`, `SRV`, …
    #[serde(rename = "type")]
    pub record_type: String,
    /// `NoError`, `NXDomain`.
    pub answer: String,
}

/// Zones and the record of queries, shared by the server and its control.
#[derive(Debug)]
pub(super) struct Shared {
    zones: Mutex<Zones>,
    queries: Mutex<(u64, VecDeque<QueryRecord>)>,
}

impl Shared {
    pub(super) fn new(zones: Zones) -> Self {
        Self {
            zones: Mutex::new(zones),
            queries: Mutex::default(),
        }
    }

    pub(super) fn zones(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock()
    }

    pub(super) fn queries(&self, after: u64) -> Vec<QueryRecord> {
        let guard = self.queries.lock();
        guard.1.iter().filter(|query| query.seq > after).cloned().collect()
    }

    fn remember(&self, source: String, name: String, record_type: String, answer: String) {
        let mut guard = self.queries.lock();
        guard.0 += 1;
        let seq = guard.0;
        if guard.1.len() == QUERIES_KEPT {
            guard.1.pop_front();
        }
        guard.1.push_back(QueryRecord {
            seq,
            at_ms: testkit_base::now_ms(),
            source,
            name,
            record_type,
            answer,
        });
    }
}

/// The server's handler.
pub(super) struct Answerer(pub(super) Arc<Shared>);

/// Response code, authoritative or not, answer section, SOA for the authority section.
type Reply = (ResponseCode, bool, Vec<Record>, Option<Record>);

impl Answerer {
    fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return (ResponseCode::NotImp, false, Vec::new(), None);
        }
        let Ok(info) = request.request_info() else {
            return (ResponseCode::FormErr, false, Vec::new(), None);
        };
        let (name, kind) = (info.query.name(), info.query.query_type());
        let zones = self.0.zones();
        let reply = match zones.look_up(name, kind) {
            Found::NoName(aliases, soa) => (ResponseCode::NXDomain, true, aliases, Some(soa)),
            Found::Outside(aliases, soa) => (ResponseCode::NXDomain, false, aliases, Some(soa)),
            Found::Answer(records) => (ResponseCode::NoError, true, records, None),
            Found::NoData(aliases, soa) => (ResponseCode::NoError, true, aliases, Some(soa)),
        };
        drop(zones);
        let code = format!("{:?}", reply.0);
        let source = request.src().to_string();
        self.0.remember(source, name.to_string(), kind.to_string(), code);
        reply
    }
}

#[async_trait::async_trait]
impl RequestHandler for Answerer {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let (code, authoritative, answer, soa) = self.reply(request);
        metadata.response_code = code;
        metadata.authoritative = authoritative;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, 1232));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answer, [], soa.as_ref(), []);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::warn!(%error, "a DNS answer could not be sent");
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}
