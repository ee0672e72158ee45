//! Files changed under a running reloader, as Kubernetes and as people change them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::format_collect,
    reason = "tests"
)]

use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use super::*;
use crate::config::fixture::{Folder, certificate, good, yaml};
use crate::observe::registry::Registry;

struct RunningReloader {
    live: watch::Receiver<Arc<Live>>,
    rejection: Arc<Rejection>,
    metrics: Arc<Metrics>,
}

/// Far beyond any test: only the watch can find a change.
const NEVER: Duration = Duration::from_hours(1);

fn start(path: &Path, poll: Duration) -> RunningReloader {
    let loader = Loader::new(path, 0);
    let (sender, live) = watch::channel(Arc::new(loader.load().unwrap()));
    let (rejection, metrics) = (Arc::<Rejection>::default(), Arc::<Metrics>::default());
    let reloader = Reloader::new(loader, sender, rejection.clone(), metrics.clone()).with_poll(poll);
    tokio::spawn(reloader.run());
    RunningReloader {
        live,
        rejection,
        metrics,
    }
}

impl RunningReloader {
    /// Waits for a snapshot that is as wanted.
    async fn until(&mut self, wanted: impl Fn(&Live) -> bool) -> Arc<Live> {
        let found = self.live.wait_for(|live| wanted(live));
        tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .unwrap()
            .unwrap()
            .clone()
    }

    async fn until_rejected(&self, wanted: bool) {
        let look = async {
            while self.rejection.get().is_some() != wanted {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.unwrap();
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics
            .render(&Registry::default())
            .lines()
            .any(|found| found == line)
    }
}

/// A volume as the kubelet makes it: entries are symlinks through `..data`, which is swapped.
fn publish(volume: &Folder, version: &str, files: &[(&str, &str)]) {
    for (name, text) in files {
        volume.write(&format!("..{version}/{name}"), text);
    }
    let (next, data) = (volume.path().join("..data_tmp"), volume.path().join("..data"));
    symlink(format!("..{version}"), &next).unwrap();
    std::fs::rename(&next, &data).unwrap();
    for (name, _) in files {
        let entry = name.split('/').next().unwrap();
        let link = volume.path().join(entry);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(entry), link).unwrap();
        }
    }
}

fn volume_files(volume: &Folder, yaml: &str, pair: &(String, String)) -> Vec<(&'static str, String)> {
    let here = volume.path().display().to_string();
    let yaml = yaml.replace(&format!("{here}/tls.crt"), &format!("{here}/tls/tls.crt"));
    let yaml = yaml.replace(&format!("{here}/tls.key"), &format!("{here}/tls/tls.key"));
    vec![
        ("edge.yaml", yaml),
        ("tls/tls.crt", pair.0.clone()),
        ("tls/tls.key", pair.1.clone()),
        ("dialback", "0123456789abcdef0123456789abcdef".to_owned()),
        ("router", "router-secret".to_owned()),
    ]
}

#[tokio::test]
async fn a_swapped_volume_is_taken_over_again_and_again() {
    let volume = Folder::new();
    let text = yaml(volume.path());
    let publish = |version: &str, text: &str, pair: &(String, String)| {
        let files = volume_files(&volume, text, pair);
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        publish(&volume, version, &files);
    };
    let pair = certificate(&["coluc.com"]);
    publish("v1", &text, &pair);
    let mut running = start(&volume.path().join("edge.yaml"), NEVER);
    let first = running.until(|_| true).await;

    // The configuration alone.
    let open = text.replace("mode: AllowList", "mode: AllowAll");
    publish("v2", &open, &pair);
    let second = running.until(|live| live.config_hash != first.config_hash).await;
    assert_eq!(second.tls.leaf_sha256, first.tls.leaf_sha256);

    // The certificate alone: the configuration's hash stays.
    let renewed = certificate(&["coluc.com"]);
    publish("v3", &open, &renewed);
    let third = running
        .until(|live| live.tls.leaf_sha256 != first.tls.leaf_sha256)
        .await;
    assert_eq!(third.config_hash, second.config_hash);

    // And after the folder of the first version is gone, as the kubelet does.
    std::fs::remove_dir_all(volume.path().join("..v1")).unwrap();
    publish("v4", &text, &renewed);
    running.until(|live| live.config_hash == first.config_hash).await;
    assert_eq!(running.rejection.get(), None);
}

#[tokio::test]
async fn a_file_edited_in_place_is_taken_over() {
    let folder = good();
    let mut running = start(&folder.path().join("edge.yaml"), NEVER);
    let text = yaml(folder.path()).replace("[vngtp.lab]", "[vngtp.lab, other.example]");
    folder.write("edge.yaml", &text);
    running.until(|live| live.config.privacy.domains.len() == 2).await;
}

#[tokio::test]
async fn without_events_the_poll_finds_the_change() {
    let folder = good();
    let loader = Loader::new(folder.path().join("edge.yaml"), 0);
    let (sender, mut live) = watch::channel(Arc::new(loader.load().unwrap()));
    let reloader = Reloader::new(loader, sender, Arc::default(), Arc::default());
    folder.write("router", "another-secret");
    // What run() does when the poll's time has come.
    reloader.reload();
    assert!(live.has_changed().unwrap());
    assert_eq!(live.borrow_and_update().router_secrets[0].expose(), b"another-secret");
    reloader.reload();
    assert!(!live.has_changed().unwrap(), "the same contents are not news");
}

#[tokio::test]
async fn a_bad_reload_leaves_the_old_configuration_in_force_until_a_good_one_comes() {
    let folder = good();
    let mut running = start(&folder.path().join("edge.yaml"), NEVER);
    let before = running.until(|_| true).await;
    let good_text = yaml(folder.path());

    folder.write("edge.yaml", &good_text.replace("mode: AllowList", "mode: Perhaps"));
    running.until_rejected(true).await;
    let rejected = running.rejection.get().unwrap();
    assert!(rejected.reason.contains("line 10: privacy.mode"), "{}", rejected.reason);
    assert_ne!(rejected.config_hash, before.config_hash);
    assert!(Arc::ptr_eq(&running.live.borrow(), &before));
    assert!(running.metric("xmpp_edge_configuration_refused 1"));

    // A key that does not fit is refused too.
    folder.write("edge.yaml", &good_text);
    running.until_rejected(false).await;
    let key = std::fs::read_to_string(folder.path().join("tls.key")).unwrap();
    folder.write("tls.key", &certificate(&["coluc.com"]).1);
    running.until_rejected(true).await;
    assert!(Arc::ptr_eq(&running.live.borrow(), &before));

    folder.write("tls.key", &key);
    running.until_rejected(false).await;
    assert!(running.metric("xmpp_edge_configuration_refused 0"));

    // A removed file is refused by name.
    std::fs::remove_file(folder.path().join("dialback")).unwrap();
    running.until_rejected(true).await;
    assert!(
        running
            .rejection
            .get()
            .unwrap()
            .reason
            .contains("dialback cannot be read")
    );
}

#[tokio::test]
async fn a_later_releases_file_is_taken_over_as_far_as_it_is_known_unless_it_requires_more() {
    let folder = good();
    let mut running = start(&folder.path().join("edge.yaml"), NEVER);
    let text = yaml(folder.path());
    folder.write("edge.yaml", &format!("writtenBy: 99.0.0\ngreeting: hello\n{text}"));
    let before = running.until(|live| live.ignored == ["greeting"]).await;
    assert!(
        before.warnings.iter().any(|warning| warning.contains("greeting")),
        "{:?}",
        before.warnings
    );

    folder.write(
        "edge.yaml",
        &format!("writtenBy: 99.0.0\nrequires: [quarantine]\n{text}"),
    );
    running.until_rejected(true).await;
    let rejected = running.rejection.get().unwrap();
    assert!(rejected.reason.contains("line 2: requires: "), "{}", rejected.reason);
    assert_ne!(rejected.config_hash, before.config_hash);
    assert!(Arc::ptr_eq(&running.live.borrow(), &before));
    assert!(running.metric("xmpp_edge_configuration_refused 1"));

    folder.write("edge.yaml", &format!("writtenBy: 99.0.0\n{text}"));
    running.until_rejected(false).await;
    running.until(|live| live.ignored.is_empty()).await;
}

#[test]
fn what_needs_a_new_process_keeps_its_running_value_and_is_named() {
    let folder = good();
    let load = || Loader::new(folder.path().join("edge.yaml"), 0).load().unwrap();
    let text = yaml(folder.path());
    folder.write("edge.yaml", &format!("{text}listen: {{directTls: '[::]:5270'}}\n"));
    let running = load();
    let text = yaml(folder.path())
        .replace("eft-xwye-a-coluc-com", "other-coluc-com")
        .replace("dialback:", "listen: {s2s: '127.0.0.1:6269'}\ndialback:");
    folder.write("edge.yaml", &text);
    let mut fresh = load();
    let kept = keep_what_needs_a_new_process(&running, &mut fresh, 0);
    assert_eq!(kept, ["listen", "routers[0].componentIds[0]"]);
    assert_eq!(fresh.config.listen, running.config.listen);
    let rules = &fresh.resolver.rules;
    let ours = |port| rules.check(SocketAddr::from(([127, 0, 0, 1], port)));
    for port in [5269, 5270, 8080] {
        let refused = ours(port).unwrap_err();
        assert_eq!(refused.class, "this edge itself", "port {port}");
    }
    assert_eq!(ours(6269).unwrap_err().class, "a loopback address");
    assert_eq!(fresh.config.routers, running.config.routers);
}

#[test]
fn changes_are_told_by_field_and_without_secrets() {
    let folder = good();
    let load = || Loader::new(folder.path().join("edge.yaml"), 0).load().unwrap();
    let before = load();
    folder.write(
        "edge.yaml",
        &yaml(folder.path())
            .replace("mode: AllowList", "mode: AllowAll")
            .replace("[vngtp.lab]", "[vngtp.lab, other.example]")
            .replace(
                "endpoints: []",
                "endpoints: [{name: ecup10.coluc.com, address: 'ecup10.coluc.com:7400'}]",
            ),
    );
    folder.write("router", "changed-secret");
    let lines = changes(&before, &load());
    let here = folder.path().display();
    for line in [
        "privacy.mode - changed from: AllowList to: AllowAll",
        "privacy.domains - changed from: [vngtp.lab] to: [vngtp.lab, other.example]",
        "routers[0].endpoints[0] - changed from: (none) to: {\"address\":\"ecup10.coluc.com:7400\",\"name\":\"ecup10.coluc.com\"}",
        &format!("{here}/router - contents changed"),
    ] {
        assert!(
            lines.iter().any(|found| found == line),
            "{line} is missing in {lines:#?}"
        );
    }
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(!lines.concat().contains("secret - "));
}

#[test]
fn a_partner_that_is_put_before_ten_thousand_others_is_the_only_change() {
    let folder = good();
    let load = |partners: &str| {
        let text = format!("{}partners:\n{partners}", yaml(folder.path()));
        folder.write("edge.yaml", &text);
        Loader::new(folder.path().join("edge.yaml"), 0).load().unwrap()
    };
    let many: String = (0..10_000)
        .map(|n| format!("- {{domain: d{n}.example, limits: {{messagesPerSecond: 5}}}}\n"))
        .collect();
    let before = load(&format!("{many}- {{domain: gone.example}}\n"));
    let changed = many.replace(
        "{domain: d7.example, limits: {messagesPerSecond: 5}}",
        "{domain: d7.example, tls: {mode: Optional}}",
    );
    let after = load(&format!("- {{domain: '*.new.example'}}\n{changed}"));
    assert_eq!(
        changes(&before, &after),
        [
            "partners[*.new.example] - changed from: (none) to: {\"domain\":\"*.new.example\"}",
            "partners[d7.example].limits - changed from: {\"messagesPerSecond\":5} to: (none)",
            "partners[d7.example].tls - changed from: (none) to: {\"mode\":\"Optional\"}",
            "partners[gone.example] - changed from: {\"domain\":\"gone.example\"} to: (none)",
        ]
    );
}

#[test]
fn of_a_long_list_the_change_log_names_what_was_added_and_removed() {
    let folder = good();
    let load = |first: usize| {
        let names: Vec<_> = (first..first + 10_000).map(|n| format!("d{n}.example")).collect();
        let text = yaml(folder.path()).replace("[vngtp.lab]", &format!("[{}]", names.join(", ")));
        folder.write("edge.yaml", &text);
        Loader::new(folder.path().join("edge.yaml"), 0).load().unwrap()
    };
    assert_eq!(
        changes(&load(0), &load(2)),
        ["privacy.domains - changed: added [d10000.example, d10001.example], removed [d0.example, d1.example]"]
    );
    let [line] = &changes(&load(0), &load(5000))[..] else {
        panic!("one field has changed");
    };
    assert!(
        line.contains(" and 4968 more, removed [") && line.len() < 1500,
        "{line}"
    );
}

#[tokio::test]
async fn a_certificate_that_expires_while_the_edge_runs_is_warned_of() {
    let folder = good();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["coluc.com".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(3);
    let key = rcgen::KeyPair::generate().unwrap();
    folder.write("tls.crt", &params.self_signed(&key).unwrap().pem());
    folder.write("tls.key", &key.serialize_pem());
    let mut running = start(&folder.path().join("edge.yaml"), Duration::from_millis(100));
    let first = running.until(|_| true).await;
    assert!(first.warnings[0].contains("ends on"), "{:?}", first.warnings);
    let expired = |live: &Live| live.warnings.iter().any(|warning| warning.contains("expired"));
    let later = running.until(expired).await;
    assert_eq!(later.contents_hash(), first.contents_hash());
}

/// Written in place, piece by piece: what is there in between is a good configuration, too, with a
/// part of a deny list.
#[tokio::test]
async fn a_file_that_is_written_in_pieces_is_read_when_it_is_whole() {
    let folder = good();
    let path = folder.path().join("edge.yaml");
    let start_text = yaml(folder.path()).replace("mode: AllowList", "mode: DenyList");
    let domain = |n: usize| format!("denied{n}.example");
    let text = |denied: usize| {
        let list: Vec<_> = (0..denied).map(domain).collect();
        let list = format!("domains: [{}]", list.join(", "));
        start_text.replace("domains: [vngtp.lab]", &list)
    };
    // A machine that is busy may stop the writer for longer than the reader waits: that run says
    // nothing.
    for _ in 0..20 {
        folder.write("edge.yaml", &text(0));
        let mut running = start(&path, NEVER);
        running.until(|live| live.config.privacy.domains.is_empty()).await;
        let mut seen = running.live.clone();
        let watching = tokio::spawn(async move {
            let mut lengths = Vec::new();
            while lengths.last() != Some(&20) && seen.changed().await.is_ok() {
                lengths.push(seen.borrow_and_update().config.privacy.domains.len());
            }
            lengths
        });
        let mut longest = Duration::ZERO;
        for denied in 1..=20 {
            let began = Instant::now();
            folder.write("edge.yaml", &text(denied));
            sleep(SETTLE / 5).await;
            longest = longest.max(began.elapsed());
        }
        let lengths = tokio::time::timeout(Duration::from_secs(20), watching);
        let lengths = lengths.await.unwrap().unwrap();
        if longest < SETTLE * 4 / 5 {
            assert_eq!(lengths, [20], "a part of the list was in force");
            return;
        }
    }
    panic!("this machine never wrote 20 pieces in time");
}
