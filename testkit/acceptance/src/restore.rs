//! Backup and restore, with the commands of `docs/backup.md`. What IM&P has
//! stays: its table, its routers and what they read. Nothing may be written there, and no router restarted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::registration::{component_id, linked};
use super::report::{Talk, ensure};
use super::resource::{OPERATOR, Sample, gone};
use super::world::World;
use super::{Scenario, deletion, endings, install, traffic};
use testkit_base::Error;
use testkit_lab::layout;
use testkit_simulator::Row;

const PAGE: &str = include_str!("../../../docs/backup.md");
/// The definition of the resource.
const DEFINITION: &str = "xmppfederations.xmppfederation.io";
/// A namespace with pods that drain goes within this time.
const GONE: Duration = Duration::from_mins(1);
/// Pods that start, and links that come up.
const READY: Duration = Duration::from_mins(2);

/// Plays the steps.
pub async fn play(scenario: &mut Scenario<'_>) {
    let lost = "The Kubernetes cluster is lost and restored: same keys, same rows, no restart";
    scenario.step(39, lost, &[], lost_and_restored).await;
    let again = "Deleted with onDelete: Retain and applied again: same keys, same rows, no restart";
    scenario.step(40, again, &[], retained).await;
    let by_hand = "A dialback secret that shows no owner is taken over when a person says so";
    scenario.step(41, by_hand, &[], by_annotation).await;
}

/// The commands of the page that begin with that comment.
fn commands(title: &str) -> Result<&'static str, Error> {
    let blocks = PAGE.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let found = blocks.find(|block| block.starts_with(&format!("# {title}\n")));
    found.ok_or_else(|| format!("the page has no commands {title:?}").into())
}

/// Runs commands in a folder as an administrator does; what they print.
async fn shell(world: &World, folder: &Path, script: &str) -> Result<String, Error> {
    let tools = layout::tool("kube")?;
    let tools = tools.parent().unwrap_or(Path::new("."));
    let kubeconfig = format!("KUBECONFIG={}", world.lab.kubeconfig().display());
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("PATH={}:{path}", tools.display());
    let script = format!("set -euo pipefail; cd '{}'\n{script}", folder.display());
    let command = ["env", &kubeconfig, &path, "bash", "-c", &script];
    let output = world.lab.exec_in(None, &command).await?;
    ensure(output.success, || {
        format!("{script}\n{}{}", output.stdout, output.stderr)
    })?;
    Ok(output.stdout)
}

/// A folder for files, with what an administrator has of the repository beside them.
fn folder(world: &World) -> Result<PathBuf, Error> {
    let folder = world.lab.dir().join("backup");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    for name in ["crds", "deploy"] {
        std::os::unix::fs::symlink(layout::repository().join(name), folder.join(name))?;
    }
    Ok(folder)
}

/// What may not change.
struct Kept {
    dialback: Option<ByteString>,
    authority: Option<ByteString>,
    rows: Vec<Row>,
    restarts: Vec<(String, usize)>,
}

impl Kept {
    async fn of(world: &World, sample: &Sample) -> Result<Self, Error> {
        let data = |secret: Option<Secret>, key: &str| secret?.data?.remove(key);
        let secrets: Api<Secret> = sample.api();
        let [dialback, authority] = sample.keys();
        Ok(Self {
            dialback: data(secrets.get_opt(&dialback).await?, "current"),
            authority: data(secrets.get_opt(&authority).await?, "tls.key"),
            rows: world.imp.rows().await?,
            restarts: world.imp.restarts().await?,
        })
    }

    /// An error unless all is as it was and there.
    fn is_as(&self, before: &Self) -> Result<(), Error> {
        ensure(
            before.dialback.is_some() && before.authority.is_some(),
            || "there were no keys",
        )?;
        ensure(before.rows.len() == 2, || format!("the rows were {:?}", before.rows))?;
        ensure(
            self.dialback == before.dialback,
            || "the dialback secret is another one",
        )?;
        ensure(self.authority == before.authority, || "the authority is another one")?;
        ensure(self.rows == before.rows, || format!("the rows are {:?}", self.rows))?;
        ensure(self.restarts == before.restarts, || {
            format!(
                "a router was restarted: {:?} became {:?}",
                before.restarts, self.restarts
            )
        })
    }
}

/// Waits for `Ready`, and shows that everything is as it was.
async fn as_before(talk: Talk, world: &World, sample: &Sample, before: &Kept) -> Result<(), Error> {
    let began = Instant::now();
    let said = talk.wait("Ready=True", READY, async || {
        let said = sample.observed("Ready", "True").await?;
        ensure(said.reason == "AsWanted", || said.to_string())?;
        let ids = [component_id(0), component_id(1)];
        let nodes = world.imp.state().await?.nodes;
        nodes.iter().try_for_each(|node| linked(node, &ids))?;
        Ok(said)
    });
    talk.fact(
        "Ready",
        format_args!("{} after {:.1} s", said.await?, began.elapsed().as_secs_f64()),
    );
    for kind in ["ComponentsRegistered", "RoutersInSync"] {
        talk.fact(kind, sample.status().await?.expect(kind, "True")?);
    }
    Kept::of(world, sample).await?.is_as(before)?;
    talk.fact("dialback secret, authority", "the same");
    talk.fact("rows, restarts of routers", "the same");
    traffic::messages(talk, &world.alice, &world.bob).await
}

/// Step 39.
async fn lost_and_restored(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    if sample.resources().get_opt(&sample.name).await?.is_none() {
        install::apply(talk, world, sample).await?;
    }
    sample.becomes(talk, "Ready", "True", READY).await?;
    let before = Kept::of(world, sample).await?;
    let uid = sample.now().await?.metadata.uid;
    let folder = folder(world)?;
    shell(world, &folder, commands("save")?).await?;
    let namespaces = namespaces(sample).await?;
    lose(talk, world, sample).await?;
    ensure(world.imp.rows().await? == before.rows, || "IM&P lost its rows")?;

    let files = old_release(talk, world, &folder, uid.as_deref()).await?;
    // Namespaces with their labels are an administrator's own; so are the Secrets' names in another installation.
    for namespace in &namespaces {
        let text = serde_json::to_string(namespace)?;
        world.lab.kubectl_with_input(&["create", "-f", "-"], &text).await?;
    }
    let lines = commands("restore")?.lines();
    let script: Vec<&str> = lines
        .filter(|line| !line.starts_with("kubectl create namespace"))
        .collect();
    let printed = shell(world, &folder, &script.join("\n").replace("keys.yaml", &files)).await?;
    talk.say(printed.trim());
    as_before(talk, world, sample, &before).await?;
    let now = sample.now().await?.metadata.uid;
    ensure(now != uid, || "it is the same resource")?;
    talk.fact("UID of the resource", "another one");
    settled(talk, world, sample).await
}

/// Both namespaces, as they are made.
async fn namespaces(sample: &Sample) -> Result<Vec<Namespace>, Error> {
    let api: Api<Namespace> = Api::all(sample.kube.clone());
    let mut found = Vec::new();
    for name in [OPERATOR.0, &sample.namespace] {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        namespace.metadata.labels = api.get(name).await?.metadata.labels;
        found.push(namespace);
    }
    Ok(found)
}

/// The cluster is gone, and nobody could do anything about it: the operator first, so that it removes nothing.
async fn lose(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    deletion::no_operator(talk, sample).await?;
    sample.patch(json!({"metadata": {"finalizers": Value::Null}})).await?;
    let api: Api<Namespace> = Api::all(sample.kube.clone());
    let mut uids = Vec::new();
    for name in [OPERATOR.0, &sample.namespace] {
        uids.push((name, api.get(name).await?.metadata.uid.unwrap_or_default()));
        api.delete(name, &DeleteParams::default()).await?;
    }
    for (name, uid) in uids {
        gone(api.clone(), name, &uid, GONE).await?;
    }
    world.lab.kubectl(&["delete", "crd", DEFINITION]).await?;
    talk.fact("lost", "both namespaces with all that was in them, and the definition");
    let links = world.imp.links().await?;
    ensure(links == 0, || format!("{links} links"))
}

/// The keys as an earlier release had them, with an owner, and without it by the page's command; the name of that file.
async fn old_release(talk: Talk, world: &World, folder: &Path, uid: Option<&str>) -> Result<String, Error> {
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "xmppfederation.io/v1alpha1",
        "kind": "XmppFederation", "name": "coluc", "uid": uid, "controller": true}]}});
    let script = format!(
        "grep -q ownerReferences keys.yaml && exit 3\n\
         kubectl patch --local -f keys.yaml --type=merge -p '{owner}' -o json > old.json\nmv old.json keys.yaml\n\
         grep -c '\"uid\": \"{}\"' keys.yaml",
        uid.unwrap_or_default()
    );
    let count = shell(world, folder, &script).await?;
    ensure(count.trim() == "2", || {
        format!("{count} owners in the files of an earlier release")
    })?;
    shell(world, folder, commands("strip")?).await?;
    let stripped = std::fs::read_to_string(folder.join("keys-without-owner.json"))?;
    ensure(!stripped.contains("ownerReferences"), || "an owner is left")?;
    ensure(
        stripped.matches("\"kind\": \"Secret\"").count() == 2,
        || "not both Secrets are there",
    )?;
    talk.fact("keys.yaml", "as of an earlier release; the owner is taken out");
    Ok("keys-without-owner.json".to_owned())
}

/// The operator's next process finds nothing to write.
async fn settled(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let secrets: Api<Secret> = sample.api();
    let mut versions = Vec::new();
    for name in sample.keys() {
        let found = secrets.get(&name).await?.metadata;
        let owners = found.owner_references.unwrap_or_default().len();
        ensure(owners == 0, || format!("{name} has {owners} owners"))?;
        versions.push((name, found.resource_version));
    }
    deletion::another_operator(talk, sample).await?;
    sample.looked_at(talk, READY).await?;
    for (name, version) in versions {
        let now = secrets.get(&name).await?.metadata.resource_version;
        ensure(now == version, || format!("{name} was written"))?;
    }
    talk.fact("next process", "wrote neither of the two Secrets");
    let rows = world.imp.rows().await?;
    ensure(rows.len() == 2, || format!("the table has {rows:?}"))
}

/// Deletes the resource so that rows and keys stay, and shows that nothing else does.
async fn delete_and_keep(talk: Talk, sample: &Sample) -> Result<(), Error> {
    let retain = sample.imp_with(json!({"onDelete": "Retain"}));
    sample.patch(json!({"spec": {"imp": [retain]}})).await?;
    let uid = sample.now().await?.metadata.uid;
    sample.delete(GONE).await?;
    let told = sample.event_with("SecretsRetained", uid.as_deref()).await?;
    talk.fact("onDelete: Retain", &told);
    for name in sample.keys() {
        ensure(told.contains(&name), || format!("the Event does not name {name}"))?;
    }
    endings::emptied_but(talk, sample, &sample.keys()).await
}

/// Step 40.
async fn retained(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = Kept::of(world, sample).await?;
    delete_and_keep(talk, sample).await?;
    talk.say(install::apply_sample(world).await?);
    as_before(talk, world, sample, &before).await
}

/// Step 41: as one that was restored by hand.
async fn by_annotation(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = Kept::of(world, sample).await?;
    delete_and_keep(talk, sample).await?;
    let [dialback, _] = sample.keys();
    let labels = ["managed-by", "instance", "name"].map(|label| (format!("app.kubernetes.io/{label}"), Value::Null));
    let labels: serde_json::Map<String, Value> = labels.into_iter().collect();
    let metadata = json!({"labels": labels, "annotations": {"xmppfederation.io/resource": Value::Null}});
    let patch = json!({"metadata": metadata}).to_string();
    let namespace = sample.namespace.as_str();
    let patched = [
        "-n",
        namespace,
        "patch",
        "secret",
        &dialback,
        "--type=merge",
        "-p",
        &patch,
    ];
    world.lab.kubectl(&patched).await?;
    talk.say(install::apply_sample(world).await?);
    let said = talk.wait("Stalled=True", READY, async || {
        let said = sample.observed("Stalled", "True").await?;
        ensure(said.reason == "ForeignObject", || said.to_string())?;
        Ok(said)
    });
    let said = said.await?;
    talk.fact("Stalled", &said);
    let names_all = said.message.contains(&dialback) && said.message.contains("xmppfederation.io/adopt-secrets");
    ensure(names_all, || "it does not say what to do")?;
    let pods = sample.api::<Pod>().list(&ListParams::default()).await?.items;
    ensure(pods.is_empty(), || format!("{} pods run with it", pods.len()))?;
    let value = sample.annotate("adopt-secrets").await?;
    as_before(talk, world, sample, &before).await?;
    sample.status().await?.served(&value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::resource::SECRETS;

    #[test]
    fn the_page_has_the_commands_and_they_name_the_samples_secrets() {
        for title in ["save", "restore", "strip"] {
            assert!(commands(title).unwrap().contains("kubectl"), "{title}");
        }
        for name in SECRETS {
            assert!(commands("save").unwrap().contains(name), "{name}");
        }
    }
}
