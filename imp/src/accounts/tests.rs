#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use rstest::rstest;

use super::*;
use crate::testing::{self, TestStore};

fn stamp(process: u64, second: i64) -> Stamp {
    Stamp {
        wall: Timestamp::from_second(1_000_000 + second).unwrap(),
        process,
        mono_ms: u64::try_from(second).unwrap() * 1000,
    }
}

fn credentials(name: &str, resource_version: &str, password: &str) -> Credentials {
    testing::credentials(name, resource_version, "axluser", password)
}

fn used(name: &str, resource_version: &str, account: &str) -> Use {
    Use {
        secret: credentials(name, resource_version, "").secret,
        account: Some(account.into()),
    }
}

/// Second of the earliest next try, the other Secret's name, whether the 401 is known.
type Expected = Option<(i64, Option<&'static str>, bool)>;

const REJECTED: LoginState = LoginState::Rejected(Stamp {
    wall: Timestamp::constant(1_000_000, 0),
    process: 1,
    mono_ms: 0,
});
const TRYING: LoginState = LoginState::Trying(Stamp {
    wall: Timestamp::constant(1_000_000, 0),
    process: 1,
    mono_ms: 0,
});

#[rstest]
#[case::accepted(LoginState::Accepted, used("a", "7", "x"), stamp(1, 10), None)]
#[case::accepted_of_another_version(LoginState::Accepted, used("a", "8", "y"), stamp(1, 10), None)]
#[case::rejected(REJECTED, used("a", "7", "x"), stamp(1, 10), Some((3600, None, true)))]
#[case::rejected_in_another_process(REJECTED, used("a", "7", "x"), stamp(2, 10), Some((3600, None, true)))]
#[case::rejected_an_hour_ago(REJECTED, used("a", "7", "x"), stamp(1, 3600), None)]
#[case::rejected_of_another_version(REJECTED, used("a", "8", "y"), stamp(1, 10), None)]
#[case::the_same_account_under_another_name(REJECTED, used("b", "1", "x"), stamp(1, 10), Some((3600, Some("federation/a"), true)))]
#[case::another_account_under_another_name(REJECTED, used("b", "1", "y"), stamp(1, 10), None)]
#[case::died_while_trying(TRYING, used("a", "7", "x"), stamp(2, 10), Some((3610, None, false)))]
#[case::died_while_trying_another_name(TRYING, used("b", "7", "x"), stamp(2, 10), Some((3610, Some("federation/a"), false)))]
#[case::its_own_last_call(TRYING, used("a", "7", "x"), stamp(1, 10), None)]
#[case::nothing_told(LoginState::Untold, used("a", "7", "x"), stamp(2, 10), None)]
fn one_401_per_secret_version_and_account(
    #[case] state: LoginState,
    #[case] wanted: Use,
    #[case] now: Stamp,
    #[case] expected: Expected,
) {
    let record = LoginRecord {
        secrets: BTreeMap::from([("federation/a".to_owned(), used("a", "7", "x").login(state))]),
        rejected: BTreeMap::new(),
    };
    let expected = expected.map(|(second, other, told)| LoginHold {
        since: stamp(1, 0).wall,
        retry_at: stamp(1, second).wall,
        other: other.map(str::to_owned),
        told,
    });
    assert_eq!(rest(&record, &wanted, now), expected);
}

#[test]
fn secrets_that_are_in_order_do_not_fill_the_record_and_rejected_ones_stay() {
    let mut record = LoginRecord::default();
    record.note(&used("rejected", "1", "x"), REJECTED);
    for n in 0..2000 {
        let state = if n % 2 == 0 {
            LoginState::Accepted
        } else {
            LoginState::Untold
        };
        record.note(&used(&format!("s{n}"), "1", &n.to_string()), state);
    }
    assert!(record.secrets.len() <= KEPT, "{}", record.secrets.len());
    assert!(rest(&record, &used("rejected", "1", "x"), stamp(1, 10)).is_some());
    assert!(record.secrets.contains_key("federation/s1999"));
}

#[test]
fn a_digest_tells_accounts_apart_and_nothing_else() {
    let key = [7; 32];
    let one = digest(&key, &credentials("a", "1", "secret")).unwrap();
    assert_eq!(one, digest(&key, &credentials("b", "9", "secret")).unwrap());
    assert_ne!(one, digest(&key, &credentials("a", "1", "secret2")).unwrap());
    assert_ne!(one, digest(&[8; 32], &credentials("a", "1", "secret")).unwrap());
    let mut shifted = credentials("a", "1", "rsecret");
    shifted.username = "axluse".into();
    assert_ne!(one, digest(&key, &shifted).unwrap());
}

struct Process(u64);

impl Clock for Process {
    fn now(&self) -> Stamp {
        stamp(self.0, 10)
    }
}

fn process(store: &Arc<TestStore>, number: u64) -> Arc<Logins> {
    let store: Arc<dyn LedgerStore> = Arc::clone(store) as _;
    Arc::new(Logins::new(store, Arc::new(Process(number))))
}

#[tokio::test]
async fn an_operator_that_dies_before_it_records_a_401_costs_no_second_one() {
    let store = Arc::new(TestStore::default());
    let account = credentials("a", "1", "secret");
    let first = process(&store, 1);
    let permit = first.begin(&account).await.unwrap();
    permit.finish(LoginOutcome::Accepted).await;
    // The password changes at IM&P, and the process ends between the answer and its record.
    let permit = first.begin(&account).await.unwrap();
    store.set_dead(true);
    permit.finish(LoginOutcome::Rejected).await;
    store.set_dead(false);

    let second = process(&store, 2);
    let same_account = credentials("b", "1", "secret");
    for held in [&account, &same_account] {
        match second.begin(held).await {
            Err(CallErrorKind::Held(rest)) => assert!(!rest.told),
            _ => panic!("{} was used again", held.secret),
        }
    }
    // A human knows better; and who was accepted may be used again.
    second.ask_again(&account).await;
    let permit = second.begin(&account).await.unwrap();
    permit.finish(LoginOutcome::Accepted).await;
    second.finish().await;
    let third = process(&store, 3);
    assert!(third.begin(&same_account).await.is_ok());
}

#[tokio::test]
async fn a_human_does_not_lift_the_rest_after_a_401_that_was_told() {
    let store = Arc::new(TestStore::default());
    let account = credentials("a", "1", "secret");
    let logins = process(&store, 1);
    let permit = logins.begin(&account).await.unwrap();
    permit.finish(LoginOutcome::Rejected).await;
    logins.ask_again(&account).await;
    assert!(logins.begin(&account).await.is_err());
    // The edited Secret is tried, another one with what it held before is not.
    let permit = logins.begin(&credentials("a", "2", "right")).await.unwrap();
    permit.finish(LoginOutcome::Accepted).await;
    assert!(logins.begin(&credentials("b", "1", "secret")).await.is_err());
}

#[tokio::test]
async fn two_secrets_with_one_account_are_not_used_at_the_same_time() {
    let store = Arc::new(TestStore::default());
    let logins = process(&store, 1);
    let permit = logins.begin(&credentials("a", "1", "secret")).await.unwrap();
    let other = credentials("b", "1", "secret");
    let mut waiting = Box::pin(logins.begin(&other));
    assert!(futures::poll!(&mut waiting).is_pending());
    permit.finish(LoginOutcome::Rejected).await;
    match waiting.await {
        Err(CallErrorKind::Held(rest)) => assert_eq!(rest.other.as_deref(), Some("federation/a")),
        _ => panic!("the account was used again"),
    }
}

#[tokio::test]
async fn a_401_outlives_the_deletion_of_its_record() {
    let store = Arc::new(TestStore::default());
    let account = credentials("a", "1", "secret");
    let logins = process(&store, 1);
    let permit = logins.begin(&account).await.unwrap();
    permit.finish(LoginOutcome::Rejected).await;
    store.lose();
    // The next use of another account makes the record again, with all that this process knows.
    let permit = logins.begin(&credentials("b", "1", "another")).await.unwrap();
    permit.finish(LoginOutcome::Accepted).await;
    for number in [1, 2] {
        let logins = if number == 1 {
            logins.clone()
        } else {
            process(&store, 2)
        };
        match logins.begin(&account).await {
            Err(CallErrorKind::Held(rest)) => assert!(rest.told),
            _ => panic!("process {number} used the account again"),
        }
    }
}

#[tokio::test]
async fn calls_in_quick_succession_cost_two_writes_and_a_lost_answer_stays_visible() {
    let store = Arc::new(TestStore::default());
    let account = credentials("a", "1", "secret");
    let logins = process(&store, 1);
    for _ in 0..5 {
        let permit = logins.begin(&account).await.unwrap();
        assert_eq!(store.writes(), 1);
        // A process that ends now leaves a use of which nobody knows the answer.
        assert!(matches!(
            process(&store, 2).begin(&account).await,
            Err(CallErrorKind::Held(LoginHold { told: false, .. }))
        ));
        permit.finish(LoginOutcome::Accepted).await;
    }
    while store.writes() < 2 {
        tokio::time::sleep(PAUSE / 10).await;
    }
    assert!(process(&store, 2).check(&account).await.is_ok());
    // The next use is another one.
    let _permit = logins.begin(&account).await.unwrap();
    assert_eq!(store.writes(), 3);
}
