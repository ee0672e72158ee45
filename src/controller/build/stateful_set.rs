//! The pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use xmpp_federation_core::ComponentId;
use xmpp_federation_core::edge_config::FINISH_AT_MOST;

use super::config::DIRECT_TLS_PORT;
use super::mesh;
use super::services::{some, word};
use crate::api::passed::Passed;
use crate::controller::names::{ADMIN_PORT, DIALBACK_KEY, EDGE_CONFIG};
use crate::controller::validate::{PodUsers, ValidSpec};

/// Where the configuration and secrets are mounted.
pub const CONFIG_DIR: &str = "/etc/xmpp-federation/edge";
/// Where the certificate is mounted.
pub const CERTIFICATE_DIR: &str = "/etc/xmpp-federation/tls";
/// Where a certificate for connecting is mounted.
pub const CLIENT_CERTIFICATE_DIR: &str = "/etc/xmpp-federation/client-tls";
/// File with revocation lists, beside the configuration.
pub const REVOCATION_LISTS: &str = "revocation-lists.pem";
/// Writable folder.
const RUN_DIR: &str = "/run/xmpp-federation";
/// Unix socket of the edge's `ctl`.
pub const CONTROL_SOCKET: &str = "/run/xmpp-federation/control.sock";
/// Seconds that a pod has after the drain delay: what the edge takes, and some for its last log lines.
const FINISH_SECONDS: u64 = FINISH_AT_MOST.as_secs() + 5;
/// A user of no machine.
const USER: i64 = 65532;

pub fn stateful_set(valid: &ValidSpec, pods: u16) -> StatefulSet {
    StatefulSet {
        metadata: valid.owner.metadata(&valid.owner.edge()),
        spec: Some(StatefulSetSpec {
            replicas: Some(pods.into()),
            service_name: Some(valid.owner.pods()),
            pod_management_policy: Some("Parallel".to_owned()),
            min_ready_seconds: Some(i32::try_from(valid.min_ready.0.as_secs()).unwrap_or(i32::MAX)),
            revision_history_limit: Some(3),
            selector: valid.owner.pod_selector(),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(valid)),
                spec: Some(pod_spec(valid)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// SHA-256 of what of the resource is in the pod template, and of what the configuration then demands of an edge. What the
/// operator's release adds is not in it, so that a template which differs while this stays the same is the release's alone.
///
/// Releases compare theirs with those of others: a new field is in it only where its value is not the default.
pub fn inputs(valid: &ValidSpec, demanded: &[String]) -> String {
    let tls = &valid.tls;
    let reference = |name: &str, key: &str| format!("{name}/{key}");
    let mut pod = valid.pod.clone();
    if !valid.pull_secrets_given {
        pod.image_pull_secrets.clear();
    }
    let mut inputs = json!({
        "componentId": valid.component_ids.first().map(ComponentId::as_str),
        "drainDelay": valid.drain_delay.0.as_secs(),
        "pod": pod,
        "image": Some(&valid.image).filter(|_| valid.image_given),
        "imagePullPolicy": valid.pull_policy,
        "directTls": Some(true).filter(|_| valid.direct_tls),
        "certificate": tls.brought_certificate,
        "clientCertificate": tls.client_certificate,
        "anchors": tls.anchors.as_ref().map(|anchors| reference(&anchors.name, &anchors.key)),
        "revocationLists": tls.revocation_lists.as_ref().map(|lists| reference(&lists.name, &lists.key)),
        "demanded": Some(demanded).filter(|demanded| !demanded.is_empty()),
    });
    if let Some(inputs) = inputs.as_object_mut() {
        inputs.retain(|_, value| !value.is_null());
    }
    super::sha256(inputs.to_string().as_bytes())
}

fn pod_metadata(valid: &ValidSpec) -> ObjectMeta {
    let mut labels = mesh::labels(&valid.pod);
    labels.extend(valid.owner.labels());
    let mut annotations = mesh::annotations(&valid.pod);
    // A component id is read at start only; another host name needs new pods.
    let base = valid.component_ids.first().map_or("", |id| id.as_str());
    annotations.insert("xmppfederation.io/component-id".to_owned(), base.to_owned());
    ObjectMeta {
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

fn pod_spec(valid: &ValidSpec) -> PodSpec {
    let grace = valid.drain_delay.0.as_secs().saturating_add(FINISH_SECONDS);
    let pod = &valid.pod;
    PodSpec {
        service_account_name: Some(valid.owner.edge()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // Said, so that whoever adds one of them by hand does not keep it.
        host_network: Some(false),
        host_pid: Some(false),
        host_ipc: Some(false),
        termination_grace_period_seconds: Some(i64::try_from(grace).unwrap_or(i64::MAX)),
        security_context: Some(security_context(pod.security_context.as_deref(), valid.pod_users)),
        containers: vec![container(valid)],
        volumes: Some(volumes(valid)),
        affinity: Some(pod.affinity.clone().map_or_else(|| spread(valid), Passed::into_inner)),
        node_selector: Some(pod.node_selector.clone()).filter(|map| !map.is_empty()),
        tolerations: some(inner(&pod.tolerations)),
        topology_spread_constraints: some(inner(&pod.topology_spread_constraints)),
        priority_class_name: pod.priority_class_name.clone(),
        image_pull_secrets: some(inner(&pod.image_pull_secrets)),
        ..PodSpec::default()
    }
}

/// Where user or groups are given, or nothing is (`{}`), the platform sets the others, as it does where it assigns them by
/// itself; without them the files that are mounted could not be read. The rest of the restricted profile stays unless given.
fn security_context(given: Option<&PodSecurityContext>, users: PodUsers) -> PodSecurityContext {
    let mut context = given.cloned().unwrap_or_default();
    let identity = (context.run_as_user, context.run_as_group, context.fs_group);
    let left_to_the_platform =
        users == PodUsers::Assigned || given == Some(&PodSecurityContext::default()) || identity != (None, None, None);
    if !left_to_the_platform {
        (context.run_as_user, context.run_as_group, context.fs_group) = (Some(USER), Some(USER), Some(USER));
    }
    context.run_as_non_root.get_or_insert(true);
    context.seccomp_profile.get_or_insert_with(|| SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        ..SeccompProfile::default()
    });
    context
}

/// Pods prefer different nodes.
fn spread(valid: &ValidSpec) -> Affinity {
    let term = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".to_owned(),
            label_selector: Some(valid.owner.pod_selector()),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![term]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(valid: &ValidSpec) -> Container {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mut ports = vec![port("xmpp-server", 5269), port("admin", ADMIN_PORT)];
    if valid.direct_tls {
        ports.push(port("xmpps-server", DIRECT_TLS_PORT));
    }
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount("edge", CONFIG_DIR, Some(true)),
        mount("tls", CERTIFICATE_DIR, Some(true)),
        mount("run", RUN_DIR, None),
    ];
    if valid.tls.client_certificate.is_some() {
        mounts.push(mount("client-tls", CLIENT_CERTIFICATE_DIR, Some(true)));
    }
    let pod_index = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: "metadata.labels['apps.kubernetes.io/pod-index']".to_owned(),
    };
    let config = format!("{CONFIG_DIR}/{EDGE_CONFIG}");
    Container {
        name: "edge".to_owned(),
        image: Some(valid.image.clone()),
        image_pull_policy: valid.pull_policy.as_ref().and_then(word),
        args: Some(
            ["--config", &config, "--index", "$(POD_INDEX)"]
                .map(str::to_owned)
                .to_vec(),
        ),
        env: Some(vec![EnvVar {
            name: "POD_INDEX".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(pod_index),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        ports: Some(ports),
        // A slow start is no failure: the probe asks every second, for a minute.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        resources: Some(valid.pod.resources.clone().map_or_else(resources, Passed::into_inner)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Where the spec says none.
fn resources() -> ResourceRequirements {
    let of = |name: &str, quantity: &str| (name.to_owned(), Quantity(quantity.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([of("cpu", "50m"), of("memory", "32Mi")])),
        limits: Some(BTreeMap::from([of("memory", "512Mi")])),
        ..ResourceRequirements::default()
    }
}

/// One projected volume without subPath for what the edge watches: only so do changes arrive.
fn volumes(valid: &ValidSpec) -> Vec<Volume> {
    let mut sources = vec![
        of_config_map(valid.owner.edge(), EDGE_CONFIG, EDGE_CONFIG),
        of_secret(
            valid.owner.dialback(),
            Some((DIALBACK_KEY, &format!("dialback/{DIALBACK_KEY}"))),
        ),
        // Without items: a cluster that comes or goes needs no new pods.
        of_secret(valid.owner.router(), None),
    ];
    if let Some(anchors) = &valid.tls.anchors {
        sources.push(of_secret(anchors.name.clone(), Some((&anchors.key, "anchors.pem"))));
    }
    if let Some(lists) = &valid.tls.revocation_lists {
        sources.push(of_config_map(lists.name.clone(), &lists.key, REVOCATION_LISTS));
    }
    let pair = |name: &str, secret: String| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            items: Some(vec![item("tls.crt", "tls.crt"), item("tls.key", "tls.key")]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let brought = valid.tls.brought_certificate.clone();
    let mut volumes = vec![
        Volume {
            name: "edge".to_owned(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(0o440),
                sources: Some(sources),
            }),
            ..Volume::default()
        },
        pair("tls", brought.unwrap_or_else(|| valid.owner.certificate())),
        Volume {
            name: "run".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("4Mi".to_owned())),
            }),
            ..Volume::default()
        },
    ];
    if let Some(client) = &valid.tls.client_certificate {
        volumes.push(pair("client-tls", client.clone()));
    }
    volumes
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: path.to_owned(),
        ..KeyToPath::default()
    }
}

/// One key as one file.
fn of_config_map(name: String, key: &str, path: &str) -> VolumeProjection {
    VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name,
            items: Some(vec![item(key, path)]),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    }
}

/// One key as one file, or all of them.
fn of_secret(name: String, file: Option<(&str, &str)>) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name,
            items: file.map(|(key, path)| vec![item(key, path)]),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    }
}

/// As Kubernetes has them.
fn inner<T: Clone>(parts: &[Passed<T>]) -> Vec<T> {
    parts.iter().map(|part| T::clone(part)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::api::XmppFederationSpec;
    use crate::api::slots::Slots;
    use crate::controller::testing::{owner, settings, spec_with, validated};
    use crate::controller::validate::{self, Settings};
    use rstest::rstest;
    use serde_json::{Value, json};

    #[test]
    fn pods_satisfy_pod_security_restricted_and_have_no_token() {
        let valid = validated(&spec_with("", Value::Null)).unwrap();
        let set = json!(stateful_set(&valid, 2));
        let at = |pointer: &str| set.pointer(pointer).cloned().unwrap_or_default();
        let pod = "/spec/template/spec";
        assert_eq!(at(&format!("{pod}/automountServiceAccountToken")), json!(false));
        assert_eq!(at(&format!("{pod}/securityContext/runAsNonRoot")), json!(true));
        assert_eq!(
            at(&format!("{pod}/securityContext/seccompProfile/type")),
            json!("RuntimeDefault")
        );
        let security = at(&format!("{pod}/containers/0/securityContext"));
        assert_eq!(
            security,
            json!({
                "allowPrivilegeEscalation": false,
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            })
        );
        assert!(!set.to_string().contains("subPath"));
        assert_eq!(at(&format!("{pod}/terminationGracePeriodSeconds")), json!(45));
    }

    #[rstest::rstest]
    #[case::elsewhere(PodUsers::Fixed, Value::Null, [json!(65532), json!(65532), json!(65532)])]
    #[case::by_default(PodUsers::Assigned, Value::Null, [Value::Null, Value::Null, Value::Null])]
    #[case::a_profile_alone(PodUsers::Assigned, json!({"fsGroupChangePolicy": "Always"}), [Value::Null, Value::Null, Value::Null])]
    #[case::given(PodUsers::Assigned, json!({"runAsUser": 1_000_660_000}), [json!(1_000_660_000), Value::Null, Value::Null])]
    fn users_and_groups_are_left_to_a_platform_that_assigns_them(
        #[case] users: PodUsers,
        #[case] given: Value,
        #[case] expected: [Value; 3],
    ) {
        let mut valid = validated(&spec_with("/edge/pod", json!({"securityContext": given}))).unwrap();
        valid.pod_users = users;
        let set = json!(stateful_set(&valid, 1));
        let context = set.pointer("/spec/template/spec/securityContext").unwrap();
        let identity =
            ["runAsUser", "runAsGroup", "fsGroup"].map(|field| context.get(field).cloned().unwrap_or_default());
        assert_eq!(identity, expected);
        assert_eq!(context["runAsNonRoot"], json!(true));
    }

    fn template_and_inputs(spec: &XmppFederationSpec, settings: &Settings) -> (Value, String) {
        let valid = validate::run(owner(), spec, Slots::of(spec, None, None), settings, &[]).unwrap();
        let set = json!(stateful_set(&valid, 2));
        (set["spec"]["template"].clone(), inputs(&valid, &[]))
    }

    /// A field of the spec, by its JSON pointer, and whether it reaches the template of the pods.
    #[rstest]
    #[case::image("/edge/image", json!("edge:other"), true)]
    #[case::the_image_that_is_the_default_anyway("/edge/image", json!("edge:1"), false)]
    #[case::pull_policy("/edge/imagePullPolicy", json!("Always"), true)]
    #[case::drain_delay("/edge/drainDelay", json!("20s"), true)]
    #[case::port("/edge/directTls", json!({"enabled": true}), true)]
    #[case::no_port("/edge/directTls", json!({"enabled": false}), false)]
    #[case::component_id("/edge/hostname", json!("other.coluc.com"), true)]
    #[case::resources("/edge/pod", json!({"resources": {"limits": {"memory": "1Gi"}}}), true)]
    #[case::pull_secrets("/edge/pod", json!({"imagePullSecrets": [{"name": "own"}]}), true)]
    #[case::users_of_the_platform("/edge/pod", json!({"securityContext": {}}), true)]
    #[case::nothing_for_the_pods("/edge/pod", json!({}), false)]
    #[case::certificate("/tls", json!({"certificate": {"secretRef": {"name": "a"}}}), true)]
    #[case::client_certificate("/tls", json!({"clientCertificate": {"secretRef": {"name": "a"}}}), true)]
    #[case::anchors("/tls", json!({"trustAnchors": {"secretRef": {"name": "a", "key": "b"}}}), true)]
    #[case::lists("/tls", json!({"revocationLists": {"configMapRef": {"name": "a", "key": "b"}}}), true)]
    #[case::mode("/tls", json!({"mode": "Optional"}), false)]
    #[case::replicas("/edge/replicas", json!(1), false)]
    #[case::ready_for_a_while("/edge/minReady", json!("1s"), false)]
    #[case::partners("/privacy", json!({"domains": ["other.lab"]}), false)]
    fn what_of_the_spec_is_in_the_template_is_in_its_inputs(
        #[case] path: &str,
        #[case] value: Value,
        #[case] expected: bool,
    ) {
        let (template, inputs) = template_and_inputs(&spec_with("", Value::Null), &settings());
        let (changed, others) = template_and_inputs(&spec_with(path, value), &settings());
        assert_eq!(changed != template, expected);
        // The image that is given counts, also where it is the default one now: it stays when that one goes on.
        assert_eq!(others != inputs, expected || path == "/edge/image");
    }

    #[test]
    fn what_the_operator_adds_is_not_in_the_inputs() {
        let later = Settings {
            edge_image: "edge:2".to_owned(),
            edge_pull_secrets: vec!["registry".to_owned()],
            pod_users: PodUsers::Assigned,
            ..settings()
        };
        let (template, inputs) = template_and_inputs(&spec_with("", Value::Null), &settings());
        let (changed, same) = template_and_inputs(&spec_with("", Value::Null), &later);
        assert_ne!(changed, template);
        assert_eq!(same, inputs);
    }

    /// A later release that computes something else takes the same resource for a changed one. A new field is left out where
    /// it has its default.
    #[test]
    fn the_inputs_of_the_first_release_are_those_of_all_later_ones() {
        let everything =
            json!({"securityContext": {"runAsUser": 1000}, "labels": {"a": "b"}, "nodeSelector": {"zone": "a"}});
        let (_, plain) = template_and_inputs(&spec_with("", Value::Null), &settings());
        let (_, rich) = template_and_inputs(&spec_with("/edge/pod", everything), &settings());
        assert_eq!(
            (plain.as_str(), rich.as_str()),
            (
                "65e225b39da98f30dedd9e460940ef0e8cc3cbafc745a720d9c530538160309d",
                "75bc3abe5c40c142423756432b798a33033c438e164f1e3f4fcbf306d1723d11"
            )
        );
    }

    #[test]
    fn a_users_labels_cannot_replace_ours() {
        let labels = json!({"labels": {"app.kubernetes.io/instance": "other", "team": "voice"}});
        let valid = validated(&spec_with("/edge/pod", labels)).unwrap();
        let set = json!(stateful_set(&valid, 1));
        let labels = set.pointer("/spec/template/metadata/labels").unwrap();
        assert_eq!(labels["app.kubernetes.io/instance"], json!("coluc"));
        assert_eq!(labels["team"], json!("voice"));
    }
}
