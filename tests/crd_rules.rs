//! Each rule of the resource, asked of a real API server: what must be refused is refused, with
//! the sentence of the rule. Runs where `KUBECONFIG_TEST` names a kubeconfig whose cluster has the
//! resource's definition; `make test` sets it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use kube::api::{Api, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
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

#[tokio::test]
async fn invalid_resources_are_refused_with_their_sentence_and_samples_are_accepted() {
    let Ok(path) = std::env::var("KUBECONFIG_TEST") else {
        eprintln!("skipped: KUBECONFIG_TEST names no API server");
        return;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();

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
