//! Finds out at which addresses configured partners are, before they call: their addresses have their
//! room in tables that strangers could fill, and a partner that starts may bring all its domains at
//! once.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::config::Live;
use crate::shared::Shared;

/// Partners that are looked up at once: this must not hold up a look-up that somebody waits for.
const AT_ONCE: usize = 8;
/// Partners that are looked up.
const MOST: usize = 4096;
/// What was found counts for longer than this.
const AGAIN: Duration = Duration::from_hours(1);
/// Changes of the configuration in a row are one.
const PAUSE: Duration = Duration::from_secs(10);

/// Looks all partners up now, after each change of the configuration, and now and then.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let mut changes = shared.changes();
        look_up(&shared, &shared.live()).await;
        sleep(PAUSE).await;
        let news = timeout(AGAIN, changes.changed()).await;
        if matches!(news, Ok(Err(_))) {
            return;
        }
    }
}

async fn look_up(shared: &Shared, live: &Live) {
    let partners = live.policy.partners().take(MOST);
    let look_up = futures::stream::iter(partners).for_each_concurrent(AT_ONCE, async |remote| {
        // One that is not found may still call, and is found then.
        if let Ok(resolution) = live.resolver.resolve(remote).await {
            for address in resolution.addresses() {
                shared.partners.resolved(&live.policy, remote, address.ip());
            }
        }
    });
    look_up.await;
}
