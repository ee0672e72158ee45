//! Every fault that the simulator knows, at the steps of the operator's work where it strikes: what
//! the condition says, how many requests were struck until it was over, how many restarts were
//! commanded, and that everything ends well once it is.

use std::time::{Duration, Instant};

use testkit_simulator::{FAULT_NAMES, FaultForm, FaultOptions, ImpConfig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use xmpp_federation_core::Activation;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason as R;
use xmpp_federation_imp::report::{Report, Status, Verdict};
use xmpp_federation_imp::timings::Timings;

use crate::support::{Bench, SUBSCRIBER, id, quick, quick_timings, secret};

/// One row.
#[derive(Debug)]
struct Row {
    /// What it shows.
    what: &'static str,
    /// Name of the fault.
    fault: &'static str,
    when: When,
    times: Times,
    with: With,
    /// Where it is said, and the reason.
    says: Says,
    /// What the message contains.
    contains: &'static [&'static str],
    /// Requests struck until the fault is over, at most; one at least.
    struck: u64,
    /// Routers restarted by command until then.
    restarts: usize,
    recovery: Recovery,
}

/// Rows in columns.
macro_rules! rows {
    ($(Row($what:expr, $fault:expr, $when:expr, $times:expr, $with:expr, $says:expr, $contains:expr, $struck:expr,
        $restarts:expr, $recovery:expr $(,)?)),* $(,)?) => {
        &[$(Row {
            what: $what,
            fault: $fault,
            when: $when,
            times: $times,
            with: $with,
            says: $says,
            contains: $contains,
            struck: $struck,
            restarts: $restarts,
            recovery: $recovery,
        }),*]
    };
}

/// When the fault strikes; what is not about the router's restart is played with the mode Manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Whatever is asked over the interface (or connected), from the first request on.
    Login,
    NodeRead,
    TableDetection,
    RowRead,
    FirstInsert,
    SecondInsert,
    ReadBack,
    Delete,
    /// All status requests, from the first on.
    StatusBefore,
    Restart,
    /// All status requests after the first restart command.
    StatusAfter,
    /// All along, with a restart of both routers.
    Throughout,
    /// The same, at the subscriber only.
    AtSubscriber,
}
use When::{
    AtSubscriber, Delete, FirstInsert, Login, NodeRead, ReadBack, Restart, RowRead, SecondInsert, StatusAfter,
    StatusBefore, TableDetection, Throughout,
};

#[derive(Debug, Clone, Copy)]
enum Times {
    Once,
    Always,
}
use Times::{Always, Once};

#[derive(Debug, Clone, Copy)]
enum With {
    Nothing,
    Code(i64),
    Text(&'static str),
    Seconds(u64),
    Fault(FaultForm, i64, &'static str),
}
use With::{Code, Fault, Nothing, Seconds, Text};

#[derive(Debug, Clone, Copy)]
enum Says {
    /// `AxlAuthenticated` is False.
    Axl(R),
    /// `ComponentsRegistered` is False.
    Rows(R),
    /// `ComponentsRegistered` is Unknown.
    RowsUnknown(R),
    /// `RoutersInSync` is False.
    Routers(R),
    /// `ComponentsRegistered` is True: it makes no difference.
    NothingOfRows,
    /// `RoutersInSync` is True: it makes no difference.
    NothingOfRouters,
}
use Says::{Axl, NothingOfRouters, NothingOfRows, Routers, Rows, RowsUnknown};

/// What ends it, after the fault is gone.
#[derive(Debug, Clone, Copy)]
enum Recovery {
    /// Nothing else.
    Itself,
    /// A new version of the Secret.
    NewSecret,
    /// The annotation `refresh`.
    Refresh,
    /// The annotation `restart-routers`.
    Token,
    /// Routers are restarted by hand.
    ByHand,
}
use FaultForm::{Bare, Qualified, Unqualified};
use Recovery::{ByHand, Itself, NewSecret, Refresh, Token};

const MEMORY: &str = "Maximum AXL Memory Allocation Consumed. Please retry when requests in progress have completed";
const TOO_LARGE: &str =
    "Query request too large. Total rows matched: 9999999 rows. Suggested row fetch: less than 9999 rows";
/// Stands for 10 000 letters.
const LONG: &str = "<10 kB>";

#[rustfmt::skip]
const TABLE: &[Row] = rows![
    //  what                                            fault                when            times   with                                says                              message contains                          calls restarts recovery
    // The web server.
    Row("401 to the first call",                        "axl-401",           Login,          Always, Nothing,                            Axl(R::Unauthorized),             &["AXL", "401", "not tried again before"], 1, 0, NewSecret),
    Row("401 to the read of rows",                      "axl-401",           RowRead,        Always, Nothing,                            Axl(R::Unauthorized),             &["AXL", "401"],                          1, 0, NewSecret),
    Row("401 to the first insert",                      "axl-401",           FirstInsert,    Always, Nothing,                            Rows(R::Unauthorized),            &["AXL", "401"],                          1, 0, NewSecret),
    Row("403 to the first call",                        "axl-403",           Login,          Always, Nothing,                            Axl(R::Forbidden),                &["AXL", "Standard AXL API Access"],      1, 0, Itself),
    Row("403 to the second insert",                     "axl-403",           SecondInsert,   Always, Nothing,                            Rows(R::Forbidden),               &["Standard AXL API Access"],             1, 0, Itself),
    Row("404 of a stale session is asked again at once", "axl-404",          NodeRead,       Once,   Nothing,                            NothingOfRows,                    &[],                                      1, 0, Itself),
    Row("404 again and again",                          "axl-404",           Login,          Always, Nothing,                            Axl(R::BadAnswer),                &["404", "Cisco AXL Web Service"],        4, 0, Itself),
    Row("500 with a web page",                          "axl-500",           NodeRead,       Always, Nothing,                            Axl(R::BadAnswer),                &["HTTP 500", "proxy"],                   2, 0, Itself),
    Row("500 to the first insert",                      "axl-500",           FirstInsert,    Always, Nothing,                            Rows(R::BadAnswer),               &["HTTP 500"],                            2, 0, Itself),
    Row("503 with seconds",                             "axl-503",           RowRead,        Once,   Seconds(2),                         Axl(R::Throttled),                &["slow down"],                           1, 0, Itself),
    Row("503 to inserts",                               "axl-503",           FirstInsert,    Always, Nothing,                            Rows(R::Throttled),               &["slow down"],                           1, 0, Itself),
    Row("503 to the delete",                            "axl-503",           Delete,         Once,   Seconds(1),                         Axl(R::Throttled),                &["slow down"],                           1, 0, Itself),
    Row("no version is taken",                          "axl-599",           Login,          Always, Nothing,                            Axl(R::AxlVersionUnsupported),    &["15.0 to 9.1"],                         9, 0, Itself),
    Row("another version from the second insert on",    "axl-599",           SecondInsert,   Once,   Nothing,                            NothingOfRows,                    &[],                                      1, 0, Itself),
    // Faults.
    Row("memory, at the node list",                     "axl-fault",         NodeRead,       Always, Fault(Unqualified, -1, MEMORY),     Axl(R::Throttled),                &["slow down"],                           1, 0, Itself),
    Row("memory, with a qualified axlError",            "axl-fault",         RowRead,        Always, Fault(Qualified, -1, MEMORY),       Axl(R::Throttled),                &["slow down"],                           1, 0, Itself),
    Row("memory, without detail, at the insert",        "axl-fault",         FirstInsert,    Always, Fault(Bare, -1, MEMORY),            Rows(R::Throttled),               &["slow down"],                           1, 0, Itself),
    Row("a read that is too large",                     "axl-fault",         RowRead,        Always, Fault(Qualified, 5, TOO_LARGE),     Axl(R::SoapFault),                &["too large", "axlcode 5"],              2, 0, Itself),
    Row("a table that is gone is looked for",           "axl-fault",         ReadBack,       Once,   Fault(Unqualified, -206, "The specified table (xmpps2snodes) is not in the database."), Axl(R::SoapFault),                &["-206", "xmpps2snodes"], 1, 0, Itself),
    Row("a fault at the table's name",                  "axl-fault",         TableDetection, Always, Fault(Bare, 0, "The database is busy"), Axl(R::SoapFault),                &["The database is busy"],                2, 0, Itself),
    Row("a busy database is not one without roles",     "axl-fault",         NodeRead,       Always, Fault(Unqualified, -1, "The database is busy"), Axl(R::SoapFault),                &["The database is busy"],                2, 0, Itself),
    Row("a fault at the delete",                        "axl-fault",         Delete,         Always, Fault(Unqualified, -1, "Locked"),   Axl(R::SoapFault),                &["Locked"],                              2, 0, Itself),
    Row("10 kB of a fault",                             "axl-fault",         NodeRead,       Always, Fault(Unqualified, -1, LONG),       Axl(R::SoapFault),                &["aaaa…"],                               2, 0, Itself),
    // Answers that do not come.
    Row("no answer to the node list",                   "axl-timeout",       NodeRead,       Always, Nothing,                            Axl(R::Unreachable),              &["did not answer in time"],              2, 0, Itself),
    Row("no answer to the first insert",                "axl-timeout",       FirstInsert,    Once,   Nothing,                            Rows(R::Unreachable),             &["did not answer in time"],              1, 0, Itself),
    Row("an insert that is executed late",              "axl-late",          FirstInsert,    Once,   Seconds(3),                         Rows(R::Unreachable),             &["did not answer in time"],              1, 0, Itself),
    Row("a lost answer to the second insert",           "axl-reply-lost",    SecondInsert,   Once,   Nothing,                            Axl(R::Unreachable),              &["broke before the answer"],             1, 0, Itself),
    Row("a lost answer to the delete",                  "axl-reply-lost",    Delete,         Once,   Nothing,                            Axl(R::Unreachable),              &["broke before the answer"],             1, 0, Itself),
    Row("an answer that breaks off",                    "axl-reset",         ReadBack,       Always, Nothing,                            Axl(R::Unreachable),              &["broke before the answer"],             2, 0, Itself),
    Row("an answer by single bytes",                    "axl-drip",          RowRead,        Always, Nothing,                            Axl(R::Unreachable),              &["did not answer in time"],              2, 0, Itself),
    // Answers that are none.
    Row("100 MB",                                       "axl-huge",          RowRead,        Always, Nothing,                            Axl(R::BadAnswer),                &["larger than 4 MiB"],                   2, 0, Itself),
    Row("a web page",                                   "axl-html",          Login,          Always, Nothing,                            Axl(R::BadAnswer),                &["is not well-formed XML", "proxy"],     2, 0, Itself),
    Row("a web page to an insert that was executed",    "axl-html",          FirstInsert,    Once,   Nothing,                            Axl(R::BadAnswer),                &["is not well-formed XML"],              1, 0, Itself),
    Row("half an answer",                               "axl-truncated",     NodeRead,       Always, Nothing,                            Axl(R::BadAnswer),                &["ends early"],                          2, 0, Itself),
    Row("a DTD with entities",                          "axl-dtd",           TableDetection, Always, Nothing,                            Axl(R::BadAnswer),                &["document type declaration"],           2, 0, Itself),
    Row("other namespaces",                             "axl-namespaces",    Login,          Always, Nothing,                            NothingOfRows,                    &[],                                     99, 0, Itself),
    Row("other prefixes and CDATA",                     "axl-prefixes",      Login,          Always, Nothing,                            NothingOfRows,                    &[],                                     99, 0, Itself),
    // Answers that say odd things.
    Row("further columns",                              "axl-columns",       Login,          Always, Nothing,                            NothingOfRows,                    &[],                                     99, 0, Itself),
    Row("no node",                                      "axl-empty-return",  NodeRead,       Always, Nothing,                            Axl(R::BadAnswer),                &["no IM and Presence node"],             2, 0, Itself),
    Row("neither table",                                "axl-empty-return",  TableDetection, Always, Nothing,                            Axl(R::BadAnswer),                &["neither a table", "publisher"],        2, 0, Itself),
    Row("rows that are not read back once",             "axl-empty-return",  ReadBack,       Once,   Nothing,                            RowsUnknown(R::RowsVanished),     &["read once more"],                      1, 0, Itself),
    Row("a row that is not read back once",             "axl-rows-missing",  ReadBack,       Once,   Nothing,                            RowsUnknown(R::RowsVanished),     &["read once more"],                      1, 0, Itself),
    Row("a node named with control characters",         "axl-names",         NodeRead,       Always, Text("e\u{1b}[2Jcup"),              Axl(R::BadAnswer),                &["neither a host name"],                 2, 0, Itself),
    Row("a node named with quotes",                     "axl-names",         NodeRead,       Always, Text("a' or 'b"),                   Axl(R::BadAnswer),                &["neither a host name"],                 2, 0, Itself),
    Row("a node with a name of 10 kB",                  "axl-names",         NodeRead,       Always, Text(LONG),                         Axl(R::BadAnswer),                &["neither a host name"],                 2, 0, Itself),
    Row("an insert of no row",                          "axl-rows-updated",  FirstInsert,    Once,   Code(0),                            Axl(R::BadAnswer),                &["rowsUpdated 0 instead of 1"],          1, 0, Itself),
    Row("a delete of many rows",                        "axl-rows-updated",  Delete,         Once,   Code(7),                            Axl(R::BadAnswer),                &["rowsUpdated 7 instead of 1"],          1, 0, Itself),
    Row("the other table",                              "axl-other-table",   Login,          Always, Nothing,                            NothingOfRows,                    &[],                                     99, 0, Refresh),
    // Below.
    Row("closed connections",                           "tcp-closed",        Login,          Always, Nothing,                            Axl(R::Unreachable),              &["no connection to AXL", "utils network capture"], 2, 0, Itself),
    Row("TLS 1.0 only",                                 "tls-old",           Login,          Always, Nothing,                            Axl(R::TlsHandshakeFailed),       &["releases before 11.5"],                2, 0, Itself),
    Row("a certificate that has expired",               "tls-expired",       Login,          Always, Nothing,                            Axl(R::CertificateRefused),       &["it has expired"],                      2, 0, Itself),
    Row("the certificate of another host",              "tls-other-name",    Login,          Always, Nothing,                            Axl(R::CertificateRefused),       &["another name", "another-host.example"], 2, 0, Itself),
    Row("a certificate that is its own authority",         "tls-self-signed",   Login,          Always, Nothing,                            Axl(R::CertificateRefused),       &["CA:true", "pinnedSha256"],       2, 0, Itself),

    // Control Center: before a restart.
    Row("401 to the first status",                      "cc-401",            StatusBefore,   Always, Nothing,                            Axl(R::Unauthorized),             &["401"],                                 1, 0, NewSecret),
    Row("403 to the first status",                      "cc-403",            StatusBefore,   Always, Nothing,                            Axl(R::Forbidden),                &["Control Center", "SERVICEABILITY"],    2, 0, Itself),
    Row("404 to the first status",                      "cc-404",            StatusBefore,   Always, Nothing,                            Routers(R::NodeNotHealthy),       &["404", "Control Center Services"],      9, 0, Itself),
    Row("a fault to the status",                        "cc-fault",          StatusBefore,   Always, Text("Error: the service cannot be reached"), Routers(R::NodeNotHealthy),       &["the service cannot be reached"], 18, 0, Itself),
    Row("no answer to the status",                      "cc-timeout",        StatusBefore,   Always, Nothing,                            Routers(R::NodeNotHealthy),       &["did not answer in time"],              9, 0, Itself),
    Row("a DTD in the status",                          "cc-dtd",            StatusBefore,   Always, Nothing,                            Routers(R::NodeNotHealthy),       &["document type declaration"],           9, 0, Itself),
    Row("a negative UpTime",                            "cc-up-time",        StatusBefore,   Always, Text("-5"),                         Routers(R::NodeNotHealthy),       &["without an UpTime"],                   9, 0, Itself),
    Row("an UpTime of text",                            "cc-up-time",        StatusBefore,   Always, Text("a while"),                    Routers(R::NodeNotHealthy),       &["without an UpTime"],                   9, 0, Itself),
    Row("a router that is down",                        "router-down",       AtSubscriber,   Always, Nothing,                            Routers(R::NodeNotHealthy),       &[SUBSCRIBER],                            0, 0, Itself),
    // The command.
    Row("403 to the command",                           "cc-403",            Restart,        Always,  Nothing,                            Routers(R::Unreachable),          &["403", "tried again later"],            2, 0, Itself),
    Row("503 to the command",                           "cc-503",            Restart,        Always,  Seconds(1),                         Routers(R::Unreachable),          &["slow down"],                           4, 0, Itself),
    Row("the rate is exceeded by the command",          "cc-rate",           Restart,        Always,  Nothing,                            Routers(R::Unreachable),          &["slow down"],                           4, 0, Itself),
    Row("another operation is pending",                 "restart-refused",   Restart,        Always,  Code(-1029),                        Routers(R::Unreachable),          &["-1029"],                               2, 0, Itself),
    Row("the command is refused",                       "restart-refused",   Restart,        Always, Code(-1045),                        Routers(R::RestartRefused),       &["-1045", "Control Center - Network Services", "utils service restart Cisco XCP Router"], 2, 0, ByHand),
    Row("the command timed out on the node",            "restart-refused",   Restart,        Once,   Code(-1031),                        Routers(R::RestartOutcomeUnknown), &["-1031", "restart-routers"],         1, 0, Token),
    Row("a fault to the command",                       "cc-fault",          Restart,        Once,   Nothing,                            Routers(R::RestartOutcomeUnknown), &["is not known", "restart-routers"],  1, 0, Token),
    Row("a node that takes its name for another's",     "cc-fault",          Restart,        Once,   Text("Invalid node name"),          Routers(R::RestartOutcomeUnknown), &["Invalid node name", "restart-routers"], 1, 0, Token),
    Row("a code to the command that nobody described",  "restart-refused",   Restart,        Once,   Code(-1999),                        Routers(R::RestartOutcomeUnknown), &["-1999", "restart-routers"],         1, 0, Token),
    Row("a command that is accepted and not executed",  "restart-refused",   Restart,        Once,   Code(-1),                           Routers(R::RestartHangs),         &["is not over", "Started", "restart-routers"], 1, 0, Token),
    Row("500 to the command",                           "cc-500",            Restart,        Once,   Nothing,                            Routers(R::RestartOutcomeUnknown), &["HTTP 500", "restart-routers"],      1, 0, Token),
    Row("a lost answer to the command",                 "cc-reply-lost",     Restart,        Once,   Nothing,                            Routers(R::Restarting),           &["is not known; it is watched"],         1, 1, Itself),
    Row("a command that is executed late",              "cc-late",           Restart,        Once,   Seconds(3),                         Routers(R::Restarting),           &["is not known; it is watched"],         1, 0, Itself),
    Row("an answer to the command that breaks off",     "cc-reset",          Restart,        Once,   Nothing,                            Routers(R::Restarting),           &["is not known; it is watched"],         1, 1, Itself),
    Row("100 MB to the command",                        "cc-huge",           Restart,        Once,   Nothing,                            Routers(R::Restarting),           &["is not known; it is watched"],         1, 1, Itself),
    Row("a web page to the command",                    "cc-html",           Restart,        Once,   Nothing,                            Routers(R::Restarting),           &["is not known; it is watched"],         1, 1, Itself),
    Row("a restart that hangs",                         "restart-hangs",     Restart,        Always, Nothing,                            Routers(R::RestartHangs),         &["is not over", "Stopping"],             1, 1, Refresh),
    // After it.
    Row("401 after the command",                        "cc-401",            StatusAfter,    Always, Nothing,                            Axl(R::Unauthorized),             &["401"],                                 1, 1, NewSecret),
    Row("half a status after the command",              "cc-truncated",      StatusAfter,    Always, Nothing,                            Routers(R::Restarting),           &["is restarting"],                       3, 1, Itself),
    Row("a status by single bytes after the command",   "cc-drip",           StatusAfter,    Always, Nothing,                            Routers(R::Restarting),           &["is restarting"],                       3, 1, Itself),
    Row("an UpTime of 2^63 after the command",          "cc-up-time",        StatusAfter,    Always, Text("9223372036854775808"),        Routers(R::Restarting),           &["is restarting"],                       3, 1, Itself),
    // All along.
    Row("other namespaces all along",                   "cc-namespaces",     Throughout,     Always, Nothing,                            NothingOfRouters,                 &[],                                     99, 2, Itself),
    Row("other prefixes and CDATA all along",           "cc-prefixes",       Throughout,     Always, Nothing,                            NothingOfRouters,                 &[],                                     99, 2, Itself),
];

/// For how long a fault stays after the condition named it: longer than the first back-off of
/// most errors, shorter than that of those that ask for patience.
const HOLD: Duration = Duration::from_millis(900);
/// The longest that is taken of a huge answer per try: the bound, and what the sockets hold.
const HUGE_TAKEN: usize = 16_000_000;

fn timings() -> Timings {
    Timings {
        call: Duration::from_secs(1),
        back_off_unit: Duration::from_millis(100),
        ambiguous_deadline: Duration::from_secs(6),
        restart_deadline: Duration::from_secs(10),
        ..quick_timings()
    }
}

impl Row {
    fn restarts_routers(&self) -> bool {
        matches!(
            self.when,
            StatusBefore | Restart | StatusAfter | Throughout | AtSubscriber
        )
    }

    fn options(&self) -> FaultOptions {
        let (operation, after) = match self.when {
            Login | Throughout | AtSubscriber => (None, 0),
            NodeRead => (Some("SELECT processnode"), 0),
            TableDetection => (Some("SELECT systables"), 0),
            RowRead => (Some("SELECT xmpps2snodes"), 0),
            FirstInsert => (Some("INSERT"), 0),
            SecondInsert => (Some("INSERT"), 1),
            ReadBack => (Some("SELECT xmpps2snodes"), 1),
            Delete => (Some("DELETE"), 0),
            StatusBefore | StatusAfter => (Some("soapGetServiceStatus"), 0),
            Restart => (Some("Restart"), 0),
        };
        let mut options = FaultOptions {
            node: (self.when == AtSubscriber).then(|| SUBSCRIBER.to_owned()),
            operation: operation.map(str::to_owned),
            after,
            count: match self.times {
                Once => Some(1),
                Always => None,
            },
            ..FaultOptions::default()
        };
        let text = |text: &str| {
            Some(if text == LONG {
                "a".repeat(10_000)
            } else {
                text.to_owned()
            })
        };
        match self.with {
            Nothing => {}
            Code(code) => options.code = Some(code),
            Text(message) => options.message = text(message),
            Seconds(seconds) => options.seconds = Some(seconds),
            Fault(form, code, message) => {
                options.form = form;
                options.code = Some(code);
                options.message = text(message);
            }
        }
        options
    }

    fn said(&self, report: &Report) -> bool {
        let (verdict, status, reason): (&Verdict, Status, Option<R>) = match self.says {
            Axl(reason) => (&report.axl_authenticated, Status::False, Some(reason)),
            Rows(reason) => (&report.components_registered, Status::False, Some(reason)),
            RowsUnknown(reason) => (&report.components_registered, Status::Unknown, Some(reason)),
            Routers(reason) => (&report.routers_in_sync, Status::False, Some(reason)),
            NothingOfRows => (&report.components_registered, Status::True, None),
            NothingOfRouters => (&report.routers_in_sync, Status::True, None),
        };
        verdict.status == status
            && reason.is_none_or(|reason| verdict.reason == reason)
            && self.contains.iter().all(|part| verdict.message.contains(part))
    }

    /// Plays it.
    async fn play(&self) {
        let config = if self.restarts_routers() {
            quick()
        } else {
            let mut config = ImpConfig {
                users: Vec::new(),
                ..quick()
            };
            config.nodes.truncate(1);
            config
        };
        let mut bench = Bench::timed(config, timings()).await;
        bench.desired.component_ids = vec![id(0), id(1)];
        if !self.restarts_routers() {
            bench.desired.restart.mode = RestartMode::Manual;
        }
        match self.when {
            Delete => {
                bench.until(30, "registered", registered).await;
                bench.fault(self.fault, self.options());
                bench.desired.activation = Activation::Prepared;
            }
            StatusAfter => {
                while bench.restart_commands().is_empty() {
                    bench.until(30, "one turn", |_| true).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                bench.fault(self.fault, self.options());
            }
            _ => bench.fault(self.fault, self.options()),
        }
        let sim = bench.sim.clone();
        let struck = || self.struck == 0 || sim.struck(self.fault) > 0;
        let report = bench.until(40, "said", |report| struck() && self.said(report)).await;
        for verdict in [
            &report.axl_authenticated,
            &report.components_registered,
            &report.routers_in_sync,
        ] {
            let message = &verdict.message;
            assert!(message.len() < 2_000, "{} bytes: {message}", message.len());
            assert!(!message.chars().any(char::is_control), "{message:?}");
        }
        if matches!(self.says, NothingOfRows | NothingOfRouters) {
            assert_eq!(report.axl_authenticated.status, Status::True, "{report:#?}");
        }
        bench.keep_on(HOLD.as_secs_f64()).await;
        let struck = bench.sim.struck(self.fault);
        assert!(
            struck >= u64::from(self.struck > 0) && struck <= self.struck,
            "{struck} requests struck instead of {}: {:#?}",
            self.struck,
            bench.sim.calls(0)
        );
        let nodes = bench.sim.state().nodes;
        let commanded = nodes.iter().flat_map(|node| &node.router.restarts);
        let commanded = commanded.filter(|restart| restart.by == "control-center");
        assert_eq!(commanded.count(), self.restarts, "routers restarted by command");
        assert!(
            bench.sim.huge_bytes() <= HUGE_TAKEN * usize::try_from(struck).unwrap(),
            "{} bytes taken",
            bench.sim.huge_bytes()
        );
        bench.sim.clear_fault(self.fault);
        match self.recovery {
            Itself => {}
            NewSecret => bench.desired.target.axl = secret("2", "axlpassword"),
            Refresh => {
                // When the router is back: it is looked at once a minute only.
                bench.keep_on(2.0).await;
                bench.desired.requests.refresh = Some("now".into());
            }
            Token => bench.desired.requests.restart_routers = Some("now".into()),
            ByHand => {
                for node in bench.sim.nodes() {
                    bench.sim.restart_router(&node.name).unwrap();
                }
                bench.keep_on(3.0).await;
                bench.desired.requests.refresh = Some("now".into());
            }
        }
        self.ends_well(&mut bench).await;
    }

    async fn ends_well(&self, bench: &mut Bench) {
        if self.when == Delete {
            bench
                .until(40, "removed", |report| {
                    report.components_registered.reason == R::Prepared
                })
                .await;
            assert!(bench.rows().is_empty());
            return;
        }
        let expected = if self.restarts_routers() {
            bench.until_ready(100).await;
            vec![1, 1]
        } else {
            bench.until(40, "registered", registered).await;
            vec![0]
        };
        // What is late has come by then.
        let late = self.fault.ends_with("-late");
        bench.keep_on(if late { 3.0 } else { 0.3 }).await;
        assert_eq!(bench.restarts(), expected, "each router once, or none");
        let mut ids: Vec<String> = bench.rows().into_iter().map(|(_, id)| id).collect();
        ids.sort();
        assert_eq!(ids, [id(1).to_string(), id(0).to_string()]);
    }
}

fn registered(report: &Report) -> bool {
    report.components_registered.status == Status::True
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_named_bounded_and_recovered_from() {
    // They wait, most of the time.
    let places = std::sync::Arc::new(Semaphore::new(12));
    let mut running = JoinSet::new();
    let only = std::env::var("FAULT").unwrap_or_default();
    let mut names = std::collections::BTreeMap::new();
    for row in TABLE.iter().filter(|row| row.what.contains(&only)) {
        let places = places.clone();
        let handle = running.spawn(async move {
            let _place = places.acquire().await;
            let started = Instant::now();
            row.play().await;
            println!("{:>5.1} s  {}", started.elapsed().as_secs_f32(), row.what);
        });
        names.insert(handle.id(), row.what);
    }
    let mut failed = Vec::new();
    while let Some(outcome) = running.join_next_with_id().await {
        if let Err(error) = outcome {
            let name = names[&error.id()];
            println!("FAILED  {name}");
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "rows that failed: {failed:#?}");
}

#[test]
fn the_table_has_every_fault_and_enough_rows() {
    assert!(TABLE.len() >= 40, "{}", TABLE.len());
    for name in FAULT_NAMES {
        assert!(TABLE.iter().any(|row| row.fault == name), "{name} is missing");
    }
    for (at, row) in TABLE.iter().enumerate() {
        let twice = TABLE[at + 1..].iter().any(|other| other.what == row.what);
        assert!(!twice, "two rows are called {:?}", row.what);
    }
    // Every step of the work is struck.
    for when in [
        Login,
        NodeRead,
        TableDetection,
        RowRead,
        FirstInsert,
        SecondInsert,
        ReadBack,
        Delete,
        StatusBefore,
        Restart,
        StatusAfter,
    ] {
        assert!(TABLE.iter().any(|row| row.when == when), "{when:?}");
    }
}
