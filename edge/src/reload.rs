//! Reloading: the directories are watched, a good configuration replaces the one in force, a bad
//! one is refused and told about.
//!
//! Kubernetes swaps a whole volume at once by re-pointing the symlink `..data`, so watching the
//! files themselves would follow the old ones; what is watched is every directory on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use xmpp_federation_core::edge_status::RejectedConfig;

use crate::config::{Live, LoadError, Loader};
use crate::observe::metrics::Metrics;

/// A volume swap is several events; what follows within this time belongs to it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often it waits again because there were more changes.
const MOST_SETTLES: usize = 20;
/// The files are read again after this time even if nothing was seen to change.
const POLL: Duration = Duration::from_secs(30);

/// Changes of one reload that are logged.
const MOST_CHANGES: usize = 100;
/// Entries of a list of texts that one line of the log names.
const MOST_ENTRIES: usize = 32;

/// The configuration found last, if it was refused; for `/status`.
#[derive(Debug, Default)]
pub struct Rejection(Mutex<Option<RejectedConfig>>);

impl Rejection {
    /// The refused one.
    pub fn get(&self) -> Option<RejectedConfig> {
        self.0.lock().clone()
    }

    /// Notes why a configuration is refused; whether that is news.
    pub(crate) fn refuse(&self, error: &LoadError) -> bool {
        self.set(Some(RejectedConfig {
            config_hash: error.config_hash().to_owned(),
            reason: error.to_string(),
        }))
    }

    fn set(&self, rejected: Option<RejectedConfig>) -> bool {
        let mut current = self.0.lock();
        let changed = *current != rejected;
        *current = rejected;
        changed
    }
}

/// Reloads for as long as somebody listens.
pub struct Reloader {
    loader: Loader,
    live: watch::Sender<Arc<Live>>,
    rejection: Arc<Rejection>,
    metrics: Arc<Metrics>,
    poll: Duration,
    asked: Arc<Notify>,
}

impl Reloader {
    /// Publishes to `live` and notes refusals in `rejection`.
    pub fn new(
        loader: Loader,
        live: watch::Sender<Arc<Live>>,
        rejection: Arc<Rejection>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            loader,
            live,
            rejection,
            metrics,
            poll: POLL,
            asked: Arc::default(),
        }
    }

    /// Notified, it reads the files at once.
    pub fn asked(&self) -> Arc<Notify> {
        self.asked.clone()
    }

    /// Reads the files this often even if nothing was seen to change.
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Watches and reloads until nobody listens to the snapshots.
    pub async fn run(self) {
        let (events, mut changed) = mpsc::channel(1);
        let mut watching = DirectoryWatch::new(events);
        // Also a file that is being written when the process starts.
        watching.follow(&self.directories());
        settle(&mut changed).await;
        loop {
            watching.follow(&self.directories());
            // Changes between the load and the watch are found by looking once more.
            self.reload();
            let poll = Instant::now() + self.poll;
            tokio::select! {
                Some(()) = changed.recv() => {}
                () = sleep_until(poll) => {}
                () = self.asked.notified() => continue,
                () = self.live.closed() => return,
            }
            settle(&mut changed).await;
        }
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        let live = self.live.borrow().clone();
        let mut directories = BTreeSet::new();
        directories_on_the_way(self.loader.path(), &mut directories);
        for (path, _) in &live.files {
            directories_on_the_way(path, &mut directories);
        }
        directories
    }

    /// Reads everything again and takes it over if it differs and is good.
    pub fn reload(&self) {
        let running = self.live.borrow().clone();
        match self.loader.load() {
            Ok(mut fresh) => {
                if self.rejection.set(None) {
                    tracing::info!("the configuration is good again");
                }
                self.metrics.configuration_refused(false);
                let unchanged = fresh.contents_hash() == running.contents_hash();
                if unchanged && fresh.warnings == running.warnings {
                    return;
                }
                let fixed = keep_what_needs_a_new_process(&running, &mut fresh, self.loader.index());
                if unchanged {
                    // A certificate or a revocation list has come to its end meanwhile.
                    for warning in &fresh.warnings {
                        if !running.warnings.contains(warning) {
                            tracing::warn!("{warning}");
                        }
                    }
                    self.live.send_replace(Arc::new(fresh));
                    return;
                }
                for field in fixed {
                    tracing::warn!(
                        field,
                        "{field} has changed; restart the edge to apply it, until then the old value stays in force"
                    );
                }
                let changes = changes(&running, &fresh);
                for change in changes.iter().take(MOST_CHANGES) {
                    tracing::info!("{change}");
                }
                if let Some(more) = changes.len().checked_sub(MOST_CHANGES).filter(|more| *more > 0) {
                    tracing::info!("and {more} more fields have changed");
                }
                warn(&fresh);
                tracing::info!(config_hash = fresh.config_hash, "the configuration was reloaded");
                self.metrics.configuration_loaded(&fresh);
                self.live.send_replace(Arc::new(fresh));
            }
            Err(error) => {
                self.metrics.configuration_refused(true);
                if self.rejection.refuse(&error) {
                    tracing::error!(
                        reason = %error,
                        config_hash = running.config_hash,
                        "the new configuration is refused; the one in force stays"
                    );
                }
            }
        }
    }
}

/// A file that is being written is read when that is over, as far as can be seen.
async fn settle(changed: &mut mpsc::Receiver<()>) {
    for _ in 0..MOST_SETTLES {
        sleep(SETTLE).await;
        if changed.try_recv().is_err() {
            break;
        }
    }
}

/// Logs what deserves a warning although it works.
pub fn warn(live: &Live) {
    for warning in &live.warnings {
        tracing::warn!("{warning}");
    }
}

/// The file's directory and that of every symlink that its path goes through.
fn directories_on_the_way(path: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut add = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        found.insert(parent.unwrap_or(Path::new(".")).to_owned());
    };
    for ancestor in path.ancestors() {
        if ancestor == path || ancestor.is_symlink() {
            add(ancestor);
        }
    }
}

/// The directories that are watched now.
struct DirectoryWatch {
    events: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    told: bool,
}

impl DirectoryWatch {
    fn new(events: mpsc::Sender<()>) -> Self {
        Self {
            events,
            watcher: None,
            told: false,
        }
    }

    /// Watches exactly these, by new watches: a path may lead to another directory by now.
    fn follow(&mut self, directories: &BTreeSet<PathBuf>) {
        let events = self.events.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading our own files is an access event; only changes count.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = events.try_send(());
            }
        });
        let result = watcher.and_then(|mut watcher| {
            for directory in directories {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        match result {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                self.watcher = None;
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        reason = %error,
                        "directories cannot be watched; the files are read every {} s instead",
                        POLL.as_secs()
                    );
                }
            }
        }
    }
}

/// Puts the running values of what cannot change into the new configuration; the fields' names.
fn keep_what_needs_a_new_process(running: &Live, fresh: &mut Live, index: usize) -> Vec<String> {
    let mut kept = Vec::new();
    if fresh.config.listen != running.config.listen {
        fresh.config.listen = running.config.listen.clone();
        fresh.resolver = Arc::new(fresh.resolver.listening(&fresh.config.listen));
        kept.push("listen".to_owned());
    }
    for (i, router) in fresh.config.routers.iter_mut().enumerate() {
        let before = running.config.routers.iter().find(|before| before.name == router.name);
        let before = before.and_then(|before| before.component_ids.get(index));
        let after = router.component_ids.get_mut(index);
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            *after = before.clone();
            kept.push(format!("routers[{i}].componentIds[{index}]"));
        }
    }
    kept
}

/// The fields and files that changed, one line each, as Expressway's change log writes them:
/// `privacy.mode - changed from: AllowList to: AllowAll`.
fn changes(before: &Live, after: &Live) -> Vec<String> {
    let value = |live: &Live| serde_json::to_value(&live.config).unwrap_or_default();
    let mut lines = Vec::new();
    compare("", &value(before), &value(after), &mut lines);
    for (path, hash) in &after.files {
        let known = before.files.iter().find(|(known, _)| known == path);
        if known.is_some_and(|(_, known)| known != hash) {
            lines.push(format!("{} - contents changed", path.display()));
        }
    }
    lines
}

static NONE: Value = Value::Null;

fn compare(field: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    let child = |name: &str| {
        if field.is_empty() {
            name.to_owned()
        } else {
            format!("{field}.{name}")
        }
    };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let (old, new) = (old.get(name).unwrap_or(&NONE), new.get(name).unwrap_or(&NONE));
                compare(&child(name), old, new, lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.iter().chain(new).any(Value::is_object) => {
            for (place, old, new) in entries(old, new) {
                compare(&format!("{field}[{place}]"), old, new, lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old != new && old.len().max(new.len()) > MOST_ENTRIES => {
            lines.push(format!("{field} - changed: {}", difference(old, new)));
        }
        _ if before != after => {
            lines.push(format!(
                "{field} - changed from: {} to: {}",
                shown(before),
                shown(after)
            ));
        }
        _ => {}
    }
}

/// What is compared with what: entries of the same domain if all have one, else those at the same place.
fn entries<'a>(old: &'a [Value], new: &'a [Value]) -> Vec<(String, &'a Value, &'a Value)> {
    let by_domain = |list: &'a [Value]| {
        let named = list.iter().map(|entry| Some((entry.get("domain")?.as_str()?, entry)));
        named.collect::<Option<BTreeMap<_, _>>>()
    };
    if let (Some(old), Some(new)) = (by_domain(old), by_domain(new)) {
        let domains: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        let of = |list: &BTreeMap<&str, &'a Value>, domain| list.get(domain).copied().unwrap_or(&NONE);
        let pairs = domains.into_iter();
        return pairs
            .map(|domain| (domain.to_owned(), of(&old, domain), of(&new, domain)))
            .collect();
    }
    let of = |list: &'a [Value], i| list.get(i).unwrap_or(&NONE);
    let places = 0..old.len().max(new.len());
    places.map(|i| (i.to_string(), of(old, i), of(new, i))).collect()
}

/// What was added to a long list of texts, and what was removed.
fn difference(old: &[Value], new: &[Value]) -> String {
    let texts = |list: &[Value]| list.iter().map(shown).collect::<BTreeSet<_>>();
    let (old, new) = (texts(old), texts(new));
    let some = |list: BTreeSet<String>| {
        let more = list.len().saturating_sub(MOST_ENTRIES);
        let first: Vec<_> = list.into_iter().take(MOST_ENTRIES).collect();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("[{}]{more}", first.join(", "))
    };
    format!("added {}, removed {}", some(&new - &old), some(&old - &new))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "(none)".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let mut text = "[".to_owned();
            for (i, entry) in list.iter().enumerate() {
                let _ = write!(text, "{}{}", if i > 0 { ", " } else { "" }, shown(entry));
            }
            text + "]"
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
