//! The sample resource, and what Kubernetes says about it and its pods.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::object::{Condition, Pod, expect_condition, list, text};
use super::report::ensure;
use super::world::World;
use testkit_base::Error;
use testkit_lab::layout;

/// The sample that the demo applies, as a file of the repository.
pub fn sample_file() -> PathBuf {
    layout::repository().join("deploy/samples/coluc.yaml")
}

/// What the sample says about itself and the Secrets it refers to.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// The whole resource.
    pub resource: Value,
    /// Whether the file brings its namespace itself.
    has_namespace: bool,
}

impl Sample {
    /// Reads the file.
    pub fn read() -> Result<Self, Error> {
        use serde::Deserialize as _;
        let path = sample_file();
        let yaml =
            std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut resource = None;
        let mut has_namespace = false;
        for document in serde_yaml::Deserializer::from_str(&yaml) {
            let value = Value::deserialize(document)?;
            match text(&value, "/kind") {
                "XmppFederation" => resource = Some(value),
                "Namespace" => has_namespace = true,
                _ => {}
            }
        }
        let resource = resource.ok_or_else(|| format!("no XmppFederation in {}", path.display()))?;
        let namespace = match text(&resource, "/metadata/namespace") {
            "" => "federation",
            given => given,
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            name: text(&resource, "/metadata/name").to_owned(),
            has_namespace,
            resource,
        })
    }

    /// The namespace, when the file does not bring it, and the Secrets that an administrator makes beforehand.
    pub fn prerequisites(&self, account: &Account, ca: &str, router_secret: &str) -> Vec<Value> {
        let imp = |pointer: &str| text(&self.resource, &format!("/spec/imp/0/{pointer}")).to_owned();
        let key = |pointer: &str, default: &str| match imp(pointer) {
            given if given.is_empty() => default.to_owned(),
            given => given,
        };
        let mut objects = Vec::new();
        if !self.has_namespace {
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": self.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            }}));
        }
        objects.push(self.credentials(account));
        objects.push(self.secret(
            &imp("tls/caSecretRef/name"),
            &json!({ key("tls/caSecretRef/key", "ca.crt"): ca }),
        ));
        objects.push(self.secret(
            &imp("router/secretRef/name"),
            &json!({ key("router/secretRef/key", "secret"): router_secret }),
        ));
        objects
    }

    /// The Secret with IM&P's account.
    pub fn credentials(&self, account: &Account) -> Value {
        self.secret(
            self.credentials_name(),
            &json!({"username": account.user, "password": account.password}),
        )
    }

    /// Name of the Secret with IM&P's account.
    pub fn credentials_name(&self) -> &str {
        text(&self.resource, "/spec/imp/0/credentialsSecretRef/name")
    }

    /// Names of the Secrets that the resource refers to.
    pub fn secret_names(&self) -> Vec<String> {
        ["credentialsSecretRef", "tls/caSecretRef", "router/secretRef"]
            .map(|reference| text(&self.resource, &format!("/spec/imp/0/{reference}/name")).to_owned())
            .to_vec()
    }

    fn secret(&self, name: &str, data: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": self.namespace}, "stringData": data})
    }

    /// The resource as it is now.
    pub async fn now(&self, world: &World) -> Result<Value, Error> {
        world
            .get(&["-n", &self.namespace, "xmppfederations.xmppfederation.io", &self.name])
            .await
    }

    /// The edge pods as they are now, terminating ones included.
    pub async fn pods(&self, world: &World) -> Result<Vec<Pod>, Error> {
        let resource = self.now(world).await?;
        let selector = text(&resource, "/status/edge/selector");
        ensure(!selector.is_empty(), || "the status names no pods yet".to_owned())?;
        let pods = world.get(&["-n", &self.namespace, "pods", "-l", selector]).await?;
        Ok(list(&pods, "/items").iter().map(Pod::read).collect())
    }

    /// As kubectl names it.
    pub fn reference(&self) -> String {
        format!("xmppfederation/{}", self.name)
    }

    /// Merges into the resource.
    pub async fn patch(&self, world: &World, patch: &Value) -> Result<(), Error> {
        let (reference, patch) = (self.reference(), patch.to_string());
        let arguments = ["-n", &self.namespace, "patch", &reference];
        let arguments = [&arguments[..], &["--type=merge", "-p", &patch]].concat();
        world.lab.kubectl(&arguments).await?;
        Ok(())
    }

    /// The file's description of the IM&P cluster with one field more, or other.
    pub fn imp_with(&self, field: &str, value: &Value) -> Value {
        let mut imp = self.resource.pointer("/spec/imp/0").cloned();
        if let Some(imp) = imp.as_mut().and_then(Value::as_object_mut) {
            imp.insert(field.to_owned(), value.clone());
        }
        imp.unwrap_or_default()
    }

    /// Asks for something by annotation, with a value that was never there.
    pub async fn annotate(&self, world: &World, request: &str) -> Result<(), Error> {
        let annotation = format!("xmppfederation.io/{request}={:x}", rand::random::<u64>());
        let reference = self.reference();
        let arguments = ["-n", &self.namespace, "annotate", "--overwrite"];
        let arguments = [&arguments[..], &[&reference, &annotation]].concat();
        world.lab.kubectl(&arguments).await?;
        Ok(())
    }

    /// A condition with that status, said about the resource as it is now.
    pub async fn observed(&self, world: &World, kind: &str, status: &str) -> Result<Condition, Error> {
        let resource = self.now(world).await?;
        let seen = resource.pointer("/status/observedGeneration");
        let current = resource.pointer("/metadata/generation");
        ensure(seen.is_some() && seen == current, || {
            format!("generation {current:?}, observed {seen:?}")
        })?;
        expect_condition(&resource, kind, status)
    }

    /// What the newest Events of that reason say about the resource of this name.
    pub async fn event(&self, world: &World, reason: &str) -> Result<String, Error> {
        self.event_of(world, reason, "").await
    }

    /// The same for one of the resources that had this name; empty: any.
    pub async fn event_of(&self, world: &World, reason: &str, uid: &str) -> Result<String, Error> {
        let arguments = ["-n", &self.namespace, "events.v1.events.k8s.io"];
        let sorted = ["--sort-by=.metadata.creationTimestamp"];
        let events = world.get(&[&arguments[..], &sorted].concat()).await?;
        let fits = |event: &&Value| {
            text(event, "/reason") == reason
                && text(event, "/regarding/kind") == "XmppFederation"
                && text(event, "/regarding/name") == self.name
                && (uid.is_empty() || text(event, "/regarding/uid") == uid)
        };
        let found = list(&events, "/items").iter().rev().find(fits);
        let found = found.ok_or_else(|| format!("there is no Event {reason}"))?;
        Ok(text(found, "/note").to_owned())
    }

    /// IM&P's account as the Secret has it.
    pub async fn account(&self, world: &World) -> Result<Account, Error> {
        use base64::Engine as _;
        let secret = world
            .get(&["-n", &self.namespace, "secret", self.credentials_name()])
            .await?;
        let field = |name: &str| -> Result<String, Error> {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text(&secret, &format!("/data/{name}")))?;
            Ok(String::from_utf8(bytes)?)
        };
        Ok(Account {
            user: field("username")?,
            password: field("password")?,
        })
    }
}

/// An application user of IM&P.
#[derive(Clone)]
pub struct Account {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}
