#![allow(clippy::unwrap_used, reason = "tests")]
use jiff::Timestamp;
use rstest::rstest;

use super::*;
use crate::axl::Node;
use crate::clock::{Clock as _, Stamp, SystemClock};
use crate::control_center::{ImpFederation, ServiceState, Services};
use crate::observation::{Failure, Observation, Reading};
use crate::pkid::Pkid;
use crate::plan::{NextStep, Wait, WaitReason};
use crate::report::Status;
use crate::testing::{self, credentials};

/// Which account Control Center is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    /// That of AXL, from one Secret.
    One,
    /// That of AXL, from a Secret of its own.
    TwoSecrets,
    Other,
}

fn desired(account: Account) -> Desired {
    let own = |secret, username| Some(credentials(secret, "7", username, "hunter2"));
    let mut desired = testing::desired();
    desired.target.control_center = match account {
        Account::One => None,
        Account::TwoSecrets => own("cups-cc", "axluser"),
        Account::Other => own("cups-cc", "ccuser"),
    };
    desired
}

fn failure(interface: Interface, status: u16, desired: &Desired, now: Stamp) -> Failure {
    let account = match (interface, &desired.target.control_center) {
        (Interface::ControlCenter, Some(own)) => own,
        _ => &desired.target.axl,
    };
    Failure {
        error: CallError {
            interface,
            server: match interface {
                Interface::Axl => "https://cups.ciscotac.net:8443".to_owned(),
                Interface::ControlCenter => "https://ecup10.coluc.com:8443".to_owned(),
            },
            secret: account.secret.to_string(),
            kind: match status {
                401 => CallErrorKind::Unauthorized {
                    retry_at: Timestamp::from_second(1_700_003_600).unwrap(),
                },
                403 => CallErrorKind::Forbidden,
                other => CallErrorKind::Http(other),
            },
        },
        count: 1,
        retry_at: now,
    }
}

/// AXL was asked for the nodes before; `known`: Control Center of the one node answered before.
fn told(account: Account, known: bool, failures: &[(Interface, u16)]) -> Verdict {
    let (desired, now) = (desired(account), SystemClock.now());
    let mut seen = Observation {
        nodes: Some(Reading {
            value: vec![Node {
                pkid: Pkid::random(),
                name: "ecup10.coluc.com".to_owned(),
                publisher: true,
            }],
            asked: now,
            answered: now,
        }),
        ..Observation::default()
    };
    if known {
        let services = Services {
            router: ServiceState::Started,
            up_time: Some(5),
            federation: ImpFederation::Off,
            down: Vec::new(),
            youngest: None,
        };
        seen.services.insert(
            "ecup10.coluc.com".to_owned(),
            Reading {
                value: services,
                asked: now,
                answered: now,
            },
        );
    }
    for (interface, status) in failures {
        let failure = failure(*interface, *status, &desired, now);
        match interface {
            Interface::Axl => seen.axl_failure = Some(failure),
            Interface::ControlCenter => {
                seen.control_center_failures
                    .insert("ecup10.coluc.com".to_owned(), failure);
            }
        }
    }
    let step = NextStep::Wait(Wait {
        why: WaitReason::Axl,
        until: now,
    });
    ReportInput {
        desired: &desired,
        seen: &seen,
        ledger: None,
        step: &step,
        setup_error: None,
        ledger_error: None,
        axl_version: None,
    }
    .axl_authenticated()
}

const AXL_ROLE: &str = "Standard AXL API Access (with Standard CCM Admin Users)";
const CC_ROLE: &str = "serviceability role (Standard SERVICEABILITY)";
const LOCKED: &str = "An account that IM&P has locked is answered 401 too";
const ONE_WAY: &str = "messages go one way only, although IM&P shows its side as active";
const NO_RESTARTS: &str = "the operator neither restarts routers";
const RIGHT: &str = "Name and password are right";

use Account::{One, Other, TwoSecrets};
use Interface::{Axl, ControlCenter};

#[rstest]
#[case(One, false, Axl, 401, Reason::Unauthorized, &["AXL at https://cups.ciscotac.net:8443", "Secret federation/cups-axl", "imp[].credentialsSecretRef", "/axl", LOCKED, ONE_WAY, "so it is not asked either"])]
#[case(One, true, Axl, 401, Reason::Unauthorized, &["cups-axl", "Control Center of ecup10.coluc.com accepted the same account before"])]
#[case(TwoSecrets, true, Axl, 401, Reason::Unauthorized, &["cups-axl", "accepted the same account before"])]
#[case(Other, true, Axl, 401, Reason::Unauthorized, &["cups-axl", "accepts its own account", ONE_WAY])]
#[case(Other, false, Axl, 401, Reason::Unauthorized, &["cups-axl", "Control Center has an account of its own"])]
#[case(One, true, Axl, 403, Reason::Forbidden, &["cups-axl", AXL_ROLE, RIGHT, ONE_WAY, "User Management"])]
#[case(Other, true, Axl, 403, Reason::Forbidden, &["cups-axl", AXL_ROLE, RIGHT])]
#[case(One, false, ControlCenter, 401, Reason::Unauthorized, &["Control Center at https://ecup10.coluc.com:8443", "cups-axl", "imp[].credentialsSecretRef", "AXL accepted the same account before", "replication", LOCKED, NO_RESTARTS])]
#[case(TwoSecrets, false, ControlCenter, 401, Reason::Unauthorized, &["cups-cc", "imp[].controlCenterCredentialsSecretRef", "AXL accepted the same account before"])]
#[case(Other, false, ControlCenter, 401, Reason::Unauthorized, &["cups-cc", "imp[].controlCenterCredentialsSecretRef", "AXL accepts its own account", LOCKED])]
#[case(One, false, ControlCenter, 403, Reason::Forbidden, &["cups-axl", CC_ROLE, RIGHT, NO_RESTARTS])]
#[case(Other, false, ControlCenter, 403, Reason::Forbidden, &["cups-cc", CC_ROLE, RIGHT, NO_RESTARTS])]
fn a_refusal_says_whose_account_and_what_is_right_with_it(
    #[case] account: Account,
    #[case] known: bool,
    #[case] interface: Interface,
    #[case] status: u16,
    #[case] reason: Reason,
    #[case] parts: &[&str],
) {
    let verdict = told(account, known, &[(interface, status)]);
    assert_eq!((verdict.status, verdict.reason), (Status::False, reason));
    for part in parts.iter().chain(&["keys username and password"]) {
        assert!(verdict.message.contains(part), "{part:?} is not in {}", verdict.message);
    }
    // What belongs to the other interface or status is not said.
    for (foreign, says) in [
        (interface == ControlCenter, ONE_WAY),
        (interface == Axl, NO_RESTARTS),
        (interface == ControlCenter || status == 401, AXL_ROLE),
        (interface == Axl || status == 401, CC_ROLE),
        (status == 403, LOCKED),
        (status == 401, RIGHT),
    ] {
        assert!(!(foreign && verdict.message.contains(says)), "{verdict:?}");
    }
    assert!(!verdict.message.contains("hunter2"));
}

#[test]
fn two_accounts_that_are_refused_are_both_told_and_one_is_told_once() {
    let both = [(Axl, 401), (ControlCenter, 403)];
    let message = told(Other, false, &both).message;
    for part in ["AXL at", "cups-axl", "Also: Control Center at", "cups-cc"] {
        assert!(message.contains(part), "{message}");
    }
    let message = told(One, false, &[(Axl, 401), (ControlCenter, 401)]).message;
    assert!(!message.contains("Also: "), "{message}");
}

#[test]
fn what_is_not_about_the_account_is_told_as_it_is() {
    let verdict = told(One, true, &[(Axl, 500)]);
    assert_eq!(verdict.reason, Reason::BadAnswer);
    assert!(!verdict.message.contains(LOCKED), "{}", verdict.message);
    // Control Center's other failures belong to the conditions that need it.
    let verdict = told(One, true, &[(ControlCenter, 500)]);
    assert_eq!(verdict.status, Status::True, "{}", verdict.message);
}
