//! Each rule of the resource, asked of a real API server: what must be refused is refused, with
//! the sentence of the rule. Runs where `KUBECONFIG_TEST` names a kubeconfig whose cluster has the
//! resource's definition; `make test` sets it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use xmpp_federation_operator::api::XmppFederation;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// A trial creation in namespace `default`: the API server's sentence if it refuses.
async fn refusal(client: &Client, text: &str) -> Option<String> {
    let mut object: DynamicObject = serde_yaml::from_str(text).unwrap();
    object.metadata.namespace = Some("default".to_owned());
    let resource = kube::api::ApiResource::erase::<XmppFederation>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match api.create(&trial, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message.clone()),
        Err(other) => panic!("no answer from the API server: {other}"),
    }
}

/// `None`: there is no API server.
async fn client() -> Option<Client> {
    let Ok(path) = std::env::var("KUBECONFIG_TEST") else {
        eprintln!("skipped: KUBECONFIG_TEST names no API server");
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Some(Client::try_from(config).unwrap())
}

#[tokio::test]
async fn invalid_resources_are_refused_with_their_sentence_and_samples_are_accepted() {
    let Some(client) = client().await else { return };

    let mut wrong = Vec::new();
    for file in files("tests/fixtures/invalid") {
        let text = std::fs::read_to_string(&file).unwrap();
        let expected = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# expect: ")
            .unwrap()
            .to_owned();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        match refusal(&client, &text).await {
            None => wrong.push(format!("{name}: accepted")),
            Some(said) if !said.contains(&expected) => {
                wrong.push(format!("{name}: expected {expected:?}, the API server said {said:?}"));
            }
            Some(_) => {}
        }
    }
    for file in files("deploy/samples") {
        let text = std::fs::read_to_string(&file).unwrap();
        if let Some(said) = refusal(&client, &text).await {
            wrong.push(format!("{}: refused: {said}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `kubectl scale` and an autoscaler do, what an edit does, and what the operator writes.
#[derive(Debug, Clone)]
enum Change {
    Scale(i32),
    Edge(Value),
    Recorded(i32),
}

#[tokio::test]
async fn replicas_stay_within_the_slots_that_are_recorded() {
    use Change::{Edge, Recorded, Scale};
    const ABOVE_RECORD: &str = "replicas is above the component ids that are registered ahead (status.edge.slots";
    const ABOVE_SLOTS: &str = "slots must be at least replicas";
    // Which of two rules says it depends on whether an operator has written a status by then.
    const ABOVE_DEFAULT: &str = "component ids that are registered ahead";
    let steps = [
        // Nothing was registered yet.
        (Scale(5), Some(ABOVE_DEFAULT)),
        (Edge(json!({"replicas": 5})), Some(ABOVE_DEFAULT)),
        (Scale(4), None),
        (Recorded(4), None),
        (Scale(5), Some(ABOVE_RECORD)),
        (Edge(json!({"replicas": 5})), Some(ABOVE_RECORD)),
        (Scale(0), None),
        (Scale(4), None),
        // The status is never refused, and neither is what does not raise replicas.
        (Recorded(2), None),
        (Edge(json!({"drainDelay": "10s"})), None),
        (Scale(3), None),
        (Scale(4), Some(ABOVE_RECORD)),
        // The spec asks for more.
        (Edge(json!({"replicas": 5, "slots": 6})), None),
        (Scale(7), Some(ABOVE_SLOTS)),
        (Scale(6), None),
        (Edge(json!({"slots": 5})), Some(ABOVE_SLOTS)),
        (Edge(json!({"slots": null})), Some(ABOVE_RECORD)),
        (Recorded(6), None),
        (Edge(json!({"slots": null})), None),
        (Scale(7), Some(ABOVE_RECORD)),
    ];
    let Some(client) = client().await else { return };
    let resource = kube::api::ApiResource::erase::<XmppFederation>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    let object = json!({
        "apiVersion": "xmppfederation.io/v1alpha1", "kind": "XmppFederation", "metadata": {"generateName": "slots-"},
        "spec": {
            "paused": true, "domains": ["slots.example"], "edge": {"hostname": "edge.slots.example"},
            "privacy": {"domains": ["vngtp.lab"]},
            "imp": [{
                "name": "main", "publisher": "cups.slots.example", "credentialsSecretRef": {"name": "axl"},
                "tls": {"insecureSkipVerify": true}, "router": {"secretRef": {"name": "router", "key": "secret"}},
                "restart": {"mode": "Manual"},
            }],
        },
    });
    let object = serde_json::from_value(object).unwrap();
    let name = api.create(&PostParams::default(), &object).await.unwrap().name_any();
    let mut wrong = Vec::new();
    for (number, (change, expected)) in steps.into_iter().enumerate() {
        let params = PatchParams::default();
        let said = match &change {
            Scale(replicas) => {
                let scale = json!({"spec": {"replicas": replicas}});
                api.patch_scale(&name, &params, &Patch::Merge(scale)).await.err()
            }
            Edge(edge) => {
                let spec = json!({"spec": {"edge": edge}});
                api.patch(&name, &params, &Patch::Merge(spec)).await.err()
            }
            Recorded(slots) => {
                let edge = json!({"replicas": 2, "readyReplicas": 2, "selector": "a=b", "slots": slots});
                let status = json!({"status": {"edge": edge}});
                api.patch_status(&name, &params, &Patch::Merge(status)).await.err()
            }
        };
        let said = said.map(|error| error.to_string());
        let as_expected = match (&said, expected) {
            (None, None) => true,
            (Some(said), Some(expected)) => said.contains(expected),
            _ => false,
        };
        if !as_expected {
            wrong.push(format!(
                "{number} {change:?}: expected {expected:?}, the API server said {said:?}"
            ));
        }
    }
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
