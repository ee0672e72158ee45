//! Control Center Services: state of a node's services and their restart, each node for itself alone.

use super::cluster::{Cluster, Node};
use super::config::Federation;
use super::distort::distort;
use super::message::{Answer, Request};
use super::router::{Control, FEDERATION, ROUTER, Service, Status};
use super::soap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit_base::xml::{Element, escape};

const NS: &str = "http://schemas.cisco.com/ast/soap";

/// Answers one request to the service.
pub fn answer(cluster: &Arc<Cluster>, node: &Arc<Node>, request: &mut Request) -> Answer {
    request.service = "control-center";
    let parsed = soap::operation(&request.body);
    let mut kind = String::new();
    if let Ok(operation) = &parsed {
        request.operation.clone_from(&operation.name);
        if let Some(control) = operation.child("ControlServiceRequest") {
            kind = control.child("ControlType").map(Element::text).unwrap_or_default();
        }
        request.detail = describe(operation);
    }
    let operations = [request.operation.clone(), kind];
    let operations = [operations[0].as_str(), operations[1].as_str()];
    let strike = |name: &str| cluster.faults.strike(name, &node.name, &operations);

    if let Some(refusal) = request.refused(cluster, node, "cc", &operations) {
        return refusal;
    }
    let limit = cluster.config.control_center_per_minute;
    if strike("cc-rate").is_some() || exceeded(node, limit) {
        return fault(
            "Server",
            &format!(
                "Exceeded allowed rate for Control Center. Current allowed rate for Control Center is {limit} requests per minute."
            ),
        );
    }
    if let Some(options) = strike("cc-fault") {
        return fault(
            "Server",
            &options
                .message
                .unwrap_or_else(|| "Error: the service cannot be reached".into()),
        );
    }
    let operation = match parsed {
        Ok(operation) => operation,
        Err(text) => return fault("Client", &text),
    };
    if request.header("soapaction").map(|value| value.trim_matches('"')) != Some(operation.name.as_str()) {
        return fault("Client", &format!("SOAPAction is not {}", operation.name));
    }
    if !qualified(&operation) {
        return fault(
            "Client",
            &format!("{} and all inside it belong into {NS}", operation.name),
        );
    }
    if let Some(options) = strike("cc-late") {
        let (cluster, node) = (cluster.clone(), node.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(options.seconds.unwrap_or(1))).await;
            if operation.name == "soapDoControlServices" {
                control(&cluster, &node, &operation);
            }
        });
        return Answer::never();
    }
    let answer = match operation.name.as_str() {
        "soapGetServiceStatus" => status(cluster, node, &operation),
        "soapGetStaticServiceList" => list(cluster, node),
        "soapDoControlServices" => control(cluster, node, &operation),
        other => return fault("Client", &format!("No such operation '{other}'")),
    };
    if strike("cc-reply-lost").is_some() {
        return Answer::lost();
    }
    distort(answer, "cc", strike)
}

/// Whether one more request is beyond the allowed number per minute; one that is refused does not count.
fn exceeded(node: &Node, limit: usize) -> bool {
    let mut times = node.control_center_times.lock();
    times.retain(|at| at.elapsed() < Duration::from_mins(1));
    if times.len() >= limit {
        return true;
    }
    times.push(Instant::now());
    false
}

fn qualified(element: &Element) -> bool {
    element.ns == NS && element.elements().all(qualified)
}

fn describe(operation: &Element) -> String {
    let mut words = Vec::new();
    collect(operation, &mut words);
    words.join(" ")
}

fn collect(element: &Element, words: &mut Vec<String>) {
    let text = element.text();
    if !text.trim().is_empty() {
        words.push(text.trim().into());
    }
    for child in element.elements() {
        collect(child, words);
    }
}

fn status(cluster: &Cluster, node: &Node, operation: &Element) -> Answer {
    let federation = cluster.settings().federation;
    let mut services = node.router.services(federation);
    for (name, service) in &mut services {
        if cluster.config.absent_as_stopped.iter().any(|absent| absent == name) {
            *service = Service {
                status: Status::Stopped,
                started_at_ms: None,
            };
        }
    }
    let asked: Vec<String> = operation
        .elements()
        .map(|element| element.text().trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    let names = if asked.is_empty() {
        services.keys().map(ToString::to_string).collect()
    } else {
        asked
    };
    let items: String = names
        .iter()
        .map(|name| {
            let code = match services.get(name.as_str()) {
                None => -1010,
                Some(_) if name == FEDERATION && federation == Federation::Off => -1068,
                Some(_) if cluster.config.not_activated.contains(name) => -1068,
                Some(_) => -1,
            };
            item(name, services.get(name.as_str()), code)
        })
        .collect();
    reply("soapGetServiceStatus", 0, -1, "", &items)
}

/// All services; where a restart of the router is refused, the list says so too.
fn list(cluster: &Cluster, node: &Node) -> Answer {
    let refused = cluster.faults.is_on("restart-refused", &node.name);
    let items: Vec<String> = node
        .router
        .services(cluster.settings().federation)
        .keys()
        .filter(|name| !cluster.config.absent_as_stopped.iter().any(|absent| absent == *name))
        .map(|name| {
            format!(
                "<ns1:item><ns1:ServiceName>{}</ns1:ServiceName><ns1:ServiceType>Service</ns1:ServiceType>\
                 <ns1:Deployable>{}</ns1:Deployable><ns1:GroupName>IM and Presence Services</ns1:GroupName>\
                 <ns1:DependentServices/></ns1:item>",
                escape(name),
                !(refused && *name == ROUTER)
            )
        })
        .collect();
    let items = items.concat();
    Answer::xml(
        200,
        soap::envelope(&format!(
            "<ns1:soapGetStaticServiceListResponse xmlns:ns1=\"{NS}\"><ns1:soapGetStaticServiceListReturn>\
             <ns1:Services>{items}</ns1:Services>\
             </ns1:soapGetStaticServiceListReturn></ns1:soapGetStaticServiceListResponse>"
        )),
    )
}

fn control(cluster: &Arc<Cluster>, node: &Arc<Node>, operation: &Element) -> Answer {
    let request = operation.child("ControlServiceRequest");
    let part = |name: &str| {
        request
            .and_then(|request| request.child(name))
            .map(|element| element.text().trim().to_string())
            .unwrap_or_default()
    };
    let name = part("NodeName");
    if !name.eq_ignore_ascii_case(&node.name) {
        return fault("Client", &format!("Invalid node name '{name}': not this node"));
    }
    let control = match part("ControlType").as_str() {
        "Start" => Control::Start,
        "Stop" => Control::Stop,
        "Restart" => Control::Restart,
        other => return fault("Client", &format!("Invalid ControlType '{other}'")),
    };
    let services: Vec<String> = request
        .and_then(|request| request.child("ServiceList"))
        .map(|list| list.elements().map(|item| item.text().trim().to_string()).collect())
        .unwrap_or_default();
    if services.is_empty() {
        return fault("Client", "ServiceList is empty");
    }
    let mut items = String::new();
    let mut worst = -1;
    for service in &services {
        let refused = (service == ROUTER && control == Control::Restart)
            .then(|| cluster.faults.strike("restart-refused", &node.name, &["Restart"]))
            .flatten();
        let code = match refused {
            Some(options) => options.code.unwrap_or(-1045),
            None => cluster.control(node, service, control, "control-center"),
        };
        if code != -1 {
            worst = code;
        }
        let services = node.router.services(cluster.settings().federation);
        items.push_str(&item(service, services.get(service.as_str()), code));
    }
    let failed = i64::from(worst != -1);
    reply("soapDoControlServices", failed, worst, reason(worst), &items)
}

fn reason(code: i64) -> &'static str {
    match code {
        -1 => "",
        -1010 => "No such service",
        -1011 => "The service is reserved for the platform",
        -1029 => "An operation is pending for the service",
        -1031 => "The operation timed out",
        -1039 => "The service is started already",
        -1042 => "The transition is not allowed",
        -1045 => "The operation is not supported for the service",
        -1068 => "Service Not Activated",
        _ => "The service cannot be controlled",
    }
}

fn item(name: &str, service: Option<&Service>, code: i64) -> String {
    let status = service.map_or("Unknown".into(), |service| format!("{:?}", service.status));
    let up_time = service
        .and_then(Service::up_time_s)
        .map_or("-1".into(), |seconds| seconds.to_string());
    let start_time = service
        .and_then(|service| service.started_at_ms)
        .and_then(|at| jiff::Timestamp::from_millisecond(i64::try_from(at).ok()?).ok())
        .map(|at| {
            at.to_zoned(jiff::tz::TimeZone::UTC)
                .strftime("%a %b %e %H:%M:%S %Y")
                .to_string()
        })
        .unwrap_or_default();
    format!(
        "<ns1:item><ns1:ServiceName>{}</ns1:ServiceName><ns1:ServiceStatus>{status}</ns1:ServiceStatus>\
         <ns1:ReasonCode>{code}</ns1:ReasonCode><ns1:ReasonCodeString>{}</ns1:ReasonCodeString>\
         <ns1:StartTime>{start_time}</ns1:StartTime><ns1:UpTime>{up_time}</ns1:UpTime></ns1:item>",
        escape(name),
        escape(reason(code))
    )
}

fn reply(operation: &str, code: i64, reason_code: i64, text: &str, items: &str) -> Answer {
    Answer::xml(
        200,
        soap::envelope(&format!(
            "<ns1:{operation}Response xmlns:ns1=\"{NS}\"><ns1:{operation}Return><ns1:ReturnCode>{code}</ns1:ReturnCode>\
             <ns1:ReasonCode>{reason_code}</ns1:ReasonCode><ns1:ReasonString>{}</ns1:ReasonString>\
             <ns1:ServiceInfoList>{items}</ns1:ServiceInfoList></ns1:{operation}Return></ns1:{operation}Response>",
            escape(text)
        )),
    )
}

fn fault(code: &str, text: &str) -> Answer {
    Answer::xml(500, soap::fault(code, text, ""))
}
