//! The machine's ceiling: the writes that the operator made for one resource, sent again for others, by nobody who thinks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use serde_json::Value;
use testkit_base::Error;

use super::audit::Event;
use super::resource;
use super::stage::NAMESPACES;

/// A request with names to be replaced.
#[derive(Debug, Clone)]
pub struct Write {
    method: &'static str,
    media_type: &'static str,
    uri: String,
    body: String,
}

/// The first write of each object and of its status; without reports of Events, which need not be.
pub fn writes(events: Vec<Event>) -> Vec<Write> {
    let mut known = BTreeSet::new();
    let own = events.into_iter().filter(|event| event.writes() && !event.of_event());
    own.filter_map(|mut event| {
        // The log has bodies of the resource's namespace alone.
        let metadata = event.request_object.get_mut("metadata")?.as_object_mut()?;
        // Preconditions on what was read.
        metadata.remove("uid");
        metadata.remove("resourceVersion");
        let body = &event.request_object;
        let (method, media_type) = match event.verb.as_str() {
            "create" => ("POST", "application/json"),
            "patch" if body.get("kind").is_some() => ("PATCH", "application/apply-patch+yaml"),
            "patch" => ("PATCH", "application/merge-patch+json"),
            _ => return None,
        };
        let path = event.request_uri.split('?').next().unwrap_or_default();
        let name = body.pointer("/metadata/name").map(Value::to_string);
        known.insert((method, path.to_owned(), name)).then(|| Write {
            method,
            media_type,
            body: body.to_string(),
            uri: event.request_uri,
        })
    })
    .collect()
}

impl Write {
    async fn send(&self, client: &Client, name: &str) -> Result<(), Error> {
        let [from, to, _] = NAMESPACES;
        let fill = |text: &str| text.replace(resource::FIRST, name).replace(from, to);
        let request = Request::builder()
            .method(self.method)
            .uri(fill(&self.uri))
            .header(CONTENT_TYPE, self.media_type)
            .body(fill(&self.body).into_bytes())?;
        client.request_text(request).await?;
        Ok(())
    }
}

/// Creates resources and sends the writes of each in order, `parallel` resources at once; the time that it took.
pub async fn replay(
    resources: &Api<DynamicObject>,
    operator: &Client,
    writes: &[Write],
    names: Vec<String>,
    parallel: usize,
) -> Result<Duration, Error> {
    let began = Instant::now();
    let one = |name: String| {
        let (api, operator, writes) = (resources.clone(), operator.clone(), writes.to_vec());
        let resource = serde_json::from_value(resource::resource(&name));
        tokio::spawn(async move {
            api.create(&PostParams::default(), &resource?).await?;
            for write in &writes {
                write.send(&operator, &name).await?;
            }
            Ok::<_, Error>(())
        })
    };
    let requests = futures::stream::iter(names).map(one).buffer_unordered(parallel);
    requests.map(|done| done?).try_collect::<()>().await?;
    Ok(began.elapsed())
}
