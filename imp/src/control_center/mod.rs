//! Control Center Services: the state of one node's services, and the one command there is:
//! restart of `Cisco XCP Router`. There is no way to say anything else.

pub mod beside;
pub mod listing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Stamp;
use super::error::{CallError, CallErrorKind, Interface};
use super::http::{Call, Caller};
use super::soap::{self, Element};
use super::timings::Timings;
use crate::access::Credentials;

use beside::Down;

const PATH: &str = "/controlcenterservice2/services/ControlCenterServices";
const NAMESPACE: &str = "http://schemas.cisco.com/ast/soap";
/// The service that is restarted.
const ROUTER: &str = "Cisco XCP Router";
/// The service that shows whether IM&P's own federation is on.
const FEDERATION: &str = "Cisco XCP XMPP Federation Connection Manager";
/// Reason code "successful".
const SUCCESS: i64 = -1;
/// Up times beyond ten years are no up times.
const MAX_UP_TIME: i64 = 10 * 366 * 86_400;

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// Running.
    Started,
    /// Not running.
    Stopped,
    /// Coming.
    Starting,
    /// Going.
    Stopping,
    /// Anything else.
    Unknown,
}

/// State of the XCP router.
pub type RouterState = ServiceState;

/// IM&P's own XMPP federation, as one node shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImpFederation {
    /// Its connection manager is started.
    On,
    /// Its connection manager is not activated (-1068).
    Off,
    /// Neither is proven: a stopped service may be started.
    Unknown,
}

/// What a restart command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandOutcome {
    /// To be written into the ledger.
    Answered(RestartAnswer),
    /// It certainly was not carried out and may be repeated later.
    NotDone(CommandFailure),
}

/// Why a command was certainly not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandFailure {
    /// Another operation is pending (-1029 and its like).
    Busy(String),
    /// The call failed.
    Failed(CallError),
}

/// Which services are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The router, IM&P's own federation, and all XCP services beside them.
    All,
    /// The first two: for a node that answers a fault where it does not know a name.
    Needed,
}

/// Control Center of one node.
pub struct ControlCenter<'a> {
    /// Who calls.
    pub caller: &'a Caller,
    /// `https://node:8443`.
    pub server: String,
    /// The node's name, as in `processnode`.
    pub node: &'a str,
    /// The account.
    pub account: &'a Credentials,
}

fn status_request(which: Which) -> String {
    let beside: &[&str] = match which {
        Which::All => &beside::NAMES,
        Which::Needed => &[],
    };
    let names: Vec<String> = [ROUTER, FEDERATION]
        .iter()
        .chain(beside)
        .map(|name| format!("<soap:ServiceStatus>{name}</soap:ServiceStatus>"))
        .collect();
    let names = names.concat();
    soap::envelope(
        "soap",
        NAMESPACE,
        &format!("<soap:soapGetServiceStatus>{names}</soap:soapGetServiceStatus>"),
    )
}

fn restart_request(node: &str) -> String {
    soap::envelope(
        "soap",
        NAMESPACE,
        &format!(
            "<soap:soapDoControlServices><soap:ControlServiceRequest><soap:NodeName>{}</soap:NodeName><soap:ControlType>Restart</soap:ControlType><soap:ServiceList><soap:item>{ROUTER}</soap:item></soap:ServiceList></soap:ControlServiceRequest></soap:soapDoControlServices>",
            soap::escape(node)
        ),
    )
}

impl ControlCenter<'_> {
    /// The state of the node's services.
    pub async fn services(&self, which: Which) -> Result<Services, CallError> {
        let answer = self.call("soapGetServiceStatus", &status_request(which), None).await?;
        read_services(&answer).map_err(|what| self.unexpected(what))
    }

    /// Commands the restart of the node's `Cisco XCP Router`; not sent at that time or later.
    pub async fn restart_router(&self, not_after: Stamp) -> CommandOutcome {
        let request = restart_request(self.node);
        match self.call("soapDoControlServices", &request, Some(not_after)).await {
            Ok(answer) => read_commanded(&answer),
            Err(error) if error.may_have_arrived() || from_the_middle(&error) => {
                CommandOutcome::Answered(RestartAnswer::Ambiguous(error.to_string()))
            }
            Err(error) => CommandOutcome::NotDone(CommandFailure::Failed(error)),
        }
    }

    async fn call(&self, operation: &'static str, body: &str, not_after: Option<Stamp>) -> Result<Element, CallError> {
        let soap_action = format!("\"{operation}\"");
        self.caller
            .call(Call {
                interface: Interface::ControlCenter,
                server: &self.server,
                path: PATH,
                function: operation,
                soap_action: &soap_action,
                body,
                account: self.account,
                not_after,
            })
            .await
    }

    fn unexpected(&self, what: String) -> CallError {
        CallError {
            interface: Interface::ControlCenter,
            server: self.server.clone(),
            secret: self.account.secret.to_string(),
            kind: CallErrorKind::Unexpected(what),
        }
    }
}

/// Whether it is a fault that does not say that nothing was done: the service manager behind the
/// interface may have taken the command nevertheless.
fn from_the_middle(error: &CallError) -> bool {
    matches!(&error.kind, CallErrorKind::Fault(fault) if !fault.refuses_request())
}

fn number(element: &Element, name: &str) -> Option<i64> {
    element.child_text(name)?.parse().ok()
}

/// The entry of a service in an answer's list.
fn item<'a>(answer: &'a Element, service: &str) -> Option<&'a Element> {
    answer
        .find("ServiceInfoList")?
        .children
        .iter()
        .find(|item| item.child_text("ServiceName") == Some(service))
}

fn state(item: &Element) -> ServiceState {
    match item.child_text("ServiceStatus") {
        Some("Started") => ServiceState::Started,
        Some("Stopped") => ServiceState::Stopped,
        Some("Starting") => ServiceState::Starting,
        Some("Stopping") => ServiceState::Stopping,
        _ => ServiceState::Unknown,
    }
}

fn read_services(answer: &Element) -> Result<Services, String> {
    let router = item(answer, ROUTER)
        .ok_or_else(|| format!("soapGetServiceStatus was answered without the service {ROUTER}"))?;
    if number(router, "ReasonCode") == Some(-1010) {
        return Err(format!(
            "there is no service {ROUTER} (-1010); check that it is an IM and Presence node"
        ));
    }
    let federation = match item(answer, FEDERATION) {
        Some(item) if number(item, "ReasonCode") == Some(-1068) => ImpFederation::Off,
        Some(item) if state(item) == ServiceState::Started => ImpFederation::On,
        _ => ImpFederation::Unknown,
    };
    let up_time = up_time(router);
    let (down, youngest) = beside::read(answer);
    Ok(Services {
        router: state(router),
        up_time,
        federation,
        down,
        youngest: youngest.into_iter().chain(up_time).min(),
    })
}

/// Seconds since a service started; `None` where the answer is 0, negative or absurd.
fn up_time(item: &Element) -> Option<u64> {
    number(item, "UpTime")
        .filter(|seconds| (1..=MAX_UP_TIME).contains(seconds))
        .and_then(|seconds| u64::try_from(seconds).ok())
}

/// HTTP 200 proves nothing: the codes of the whole and of the item have to say success.
fn read_commanded(answer: &Element) -> CommandOutcome {
    let whole = answer.find("ReturnCode").map(|code| code.text.clone());
    let item = item(answer, ROUTER);
    let code = item
        .and_then(|item| number(item, "ReasonCode"))
        .filter(|code| *code != SUCCESS)
        .or_else(|| top_reason(answer));
    let text = item
        .and_then(|item| item.child_text("ReasonCodeString"))
        .filter(|text| !text.is_empty())
        .or_else(|| answer.find("ReasonString").map(|reason| reason.text.as_str()))
        .unwrap_or_default();
    let said = |code: i64| {
        if text.is_empty() {
            format!("reason code {code}")
        } else {
            format!("reason code {code}: {}", soap::plain(text))
        }
    };
    match code {
        Some(SUCCESS) if whole.as_deref() == Some("0") => CommandOutcome::Answered(RestartAnswer::Accepted),
        // Something is going on already: not ours, and not carried out.
        Some(code @ (-1029 | -1041 | -1048 | -1049 | -1050)) => {
            CommandOutcome::NotDone(CommandFailure::Busy(said(code)))
        }
        // No such service, platform's own, transition not allowed, not supported, not activated.
        Some(code @ (-1010 | -1011 | -1042 | -1045 | -1068)) => {
            CommandOutcome::Answered(RestartAnswer::Refused(said(code)))
        }
        // Timed out on the node: it may still happen. And what nobody described.
        Some(code) => CommandOutcome::Answered(RestartAnswer::Ambiguous(said(code))),
        None => CommandOutcome::Answered(RestartAnswer::Ambiguous("an answer without a reason code".to_owned())),
    }
}

/// The reason code of the whole answer, which stands outside the list.
fn top_reason(answer: &Element) -> Option<i64> {
    number(answer, "ReasonCode").or_else(|| {
        answer
            .children
            .iter()
            .filter(|child| child.name != "ServiceInfoList")
            .find_map(|child| number(child, "ReasonCode"))
    })
}

/// A node's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// The XCP router.
    pub router: ServiceState,
    /// Seconds since the XCP router started; `None` where the answer is 0, negative or absurd.
    pub up_time: Option<u64>,
    /// IM&P's own federation, as this node shows it.
    pub federation: ImpFederation,
    /// The activated XCP services that do not run.
    pub down: Vec<Down>,
    /// Seconds since the last start of the router or an activated XCP service, where it is known.
    pub youngest: Option<u64>,
}

impl Services {
    /// Whether that service will not start without help: the router has been up for long enough.
    pub fn stays_down(&self, down: &Down, timings: &Timings) -> bool {
        let up = self.up_time.map(Duration::from_secs);
        self.router == ServiceState::Started
            && up.is_some_and(|up| up >= timings.services_deadline)
            && down.state == ServiceState::Stopped
    }
}

/// What IM&P said to a restart command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartAnswer {
    /// It is under way.
    Accepted,
    /// It will not do it over this interface: a human has to.
    Refused(String),
    /// No answer, or none that tells.
    Ambiguous(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[test]
    fn the_restart_is_the_facts_sample_byte_for_byte() {
        assert_eq!(
            restart_request("ecup10.coluc.com"),
            include_str!("../testdata/control_center_restart.xml").trim_end()
        );
    }

    fn answer(operation: &str, code: i64, reason: i64, items: &str) -> Element {
        let text = format!(
            "<s:Envelope xmlns:s='x'><s:Body><n:{operation}Response xmlns:n='y'><n:{operation}Return><n:ReturnCode>{code}</n:ReturnCode><n:ReasonCode>{reason}</n:ReasonCode><n:ReasonString></n:ReasonString><n:ServiceInfoList>{items}</n:ServiceInfoList></n:{operation}Return></n:{operation}Response></s:Body></s:Envelope>"
        );
        match soap::answer(text.as_bytes()).unwrap() {
            soap::Answer::Response(element) => element,
            soap::Answer::Fault(fault) => panic!("{fault}"),
        }
    }

    fn entry(name: &str, state: &str, code: i64, up_time: &str) -> String {
        format!(
            "<n:item><n:ServiceName>{name}</n:ServiceName><n:ServiceStatus>{state}</n:ServiceStatus><n:ReasonCode>{code}</n:ReasonCode><n:ReasonCodeString/><n:StartTime>x</n:StartTime><n:UpTime>{up_time}</n:UpTime></n:item>"
        )
    }

    #[rstest]
    #[case::started("Started", -1, ImpFederation::On)]
    #[case::not_activated("Stopped", -1068, ImpFederation::Off)]
    #[case::stopped_proves_nothing("Stopped", -1, ImpFederation::Unknown)]
    #[case::starting("Starting", -1, ImpFederation::Unknown)]
    fn imps_own_federation(#[case] state: &str, #[case] code: i64, #[case] expected: ImpFederation) {
        let items = entry(ROUTER, "Started", -1, "5") + &entry(FEDERATION, state, code, "5");
        let services = read_services(&answer("soapGetServiceStatus", 0, -1, &items)).unwrap();
        assert_eq!(services.federation, expected);
    }

    #[rstest]
    #[case::all_run(&[("Cisco XCP Connection Manager", "Started", -1, "70"), ("Cisco XCP Authentication Service", "Started", -1, "30")], &[], Some(30))]
    #[case::one_is_stopped(&[("Cisco XCP Connection Manager", "Stopped", -1, "-1")], &["Cisco XCP Connection Manager"], Some(50))]
    #[case::one_comes_and_one_goes(&[("Cisco XCP Directory Service", "Starting", -1, "0"), ("Cisco XCP Web Connection Manager", "Stopping", -1, "9")], &["Cisco XCP Directory Service", "Cisco XCP Web Connection Manager"], Some(50))]
    #[case::not_activated(&[("Cisco XCP Message Archiver", "Stopped", -1068, "-1")], &[], Some(50))]
    #[case::no_such_service(&[("Cisco XCP Message Archiver", "Unknown", -1010, "-1")], &[], Some(50))]
    #[case::a_state_that_nobody_described(&[("Cisco XCP Message Archiver", "Resting", -1, "-1")], &[], Some(50))]
    #[case::not_ours_to_judge(&[("Cisco SIP Proxy", "Stopped", -1, "-1")], &[], Some(50))]
    fn services_beside_the_router(
        #[case] entries: &[(&str, &str, i64, &str)],
        #[case] down: &[&str],
        #[case] youngest: Option<u64>,
    ) {
        let mut items = entry(ROUTER, "Started", -1, "50");
        for (name, state, code, up_time) in entries {
            items += &entry(name, state, *code, up_time);
        }
        let services = read_services(&answer("soapGetServiceStatus", 0, -1, &items)).unwrap();
        let names: Vec<_> = services.down.iter().map(|down| down.name).collect();
        assert_eq!((names.as_slice(), services.youngest), (down, youngest));
    }

    #[rstest]
    #[case("86400", Some(86_400))]
    #[case::zero_is_unknown("0", None)]
    #[case::negative_is_unknown("-1", None)]
    #[case::absurd("99999999999", None)]
    #[case::beyond_numbers("99999999999999999999999", None)]
    #[case::text("x", None)]
    fn up_times(#[case] text: &str, #[case] expected: Option<u64>) {
        let items = entry(ROUTER, "Started", -1, text);
        let services = read_services(&answer("soapGetServiceStatus", 0, -1, &items)).unwrap();
        assert_eq!(services.up_time, expected);
    }

    #[rstest]
    #[case::without_router("")]
    #[case::no_such_service(&entry(ROUTER, "Unknown", -1010, "0"))]
    fn a_node_without_router_is_an_error(#[case] items: &str) {
        assert!(read_services(&answer("soapGetServiceStatus", 0, -1, items)).is_err());
    }

    #[rstest]
    #[case::client("soapenv:Client", false)]
    #[case::client_of_axis("soapenv:Client.NoSOAPAction", false)]
    #[case::server("soapenv:Server", true)]
    #[case::server_of_axis("soapenv:Server.userException", true)]
    #[case::none("", true)]
    fn only_a_fault_of_the_request_proves_that_nothing_was_done(#[case] code: &str, #[case] may_be_done: bool) {
        let error = CallError {
            interface: Interface::ControlCenter,
            server: String::new(),
            secret: String::new(),
            kind: CallErrorKind::Fault(soap::Fault {
                code: code.to_owned(),
                ..soap::Fault::default()
            }),
        };
        assert_eq!(from_the_middle(&error), may_be_done);
    }

    #[rstest]
    #[case::success(0, -1, -1, "Accepted")]
    #[case::http_200_proves_nothing(1, -1, -1, "Ambiguous")]
    #[case::pending(1, -1029, -1029, "Busy")]
    #[case::no_such_service(1, -1010, -1010, "Refused")]
    #[case::not_supported(1, -1045, -1045, "Refused")]
    #[case::not_supported_only_at_the_item(0, -1, -1045, "Refused")]
    #[case::timed_out(1, -1031, -1031, "Ambiguous")]
    #[case::unknown_code(1, -1999, -1999, "Ambiguous")]
    fn answers_to_the_command(
        #[case] code: i64,
        #[case] reason: i64,
        #[case] item_reason: i64,
        #[case] expected: &str,
    ) {
        let items = entry(ROUTER, "Started", item_reason, "5");
        let commanded = read_commanded(&answer("soapDoControlServices", code, reason, &items));
        assert!(format!("{commanded:?}").contains(expected), "{commanded:?}");
    }
}
